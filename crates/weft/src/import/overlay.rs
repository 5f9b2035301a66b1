//! A network of Docker's driver overlay, whichever of its two stores it was in.

use super::{Proposal, Wishes};
use std::{collections::BTreeMap, net::IpAddr};
use weft_agent::api::NetworkSpec;
use weft_model::{Mtu, NetworkName, Subnet, Vni};

/// The driver of networks that span hosts.
pub const DRIVER: &str = "overlay";
const MTU: &str = "com.docker.network.driver.mtu";
const VNIS: &str = "com.docker.network.driver.overlay.vxlanid_list";
const ENCRYPTED: &str = "encrypted";
/// What Docker takes off the option for the tunnel (libnetwork `drivers/overlay/overlay.go`, `vxlanEncap`).
const ENCAPSULATION: u32 = 50;

/// What both stores tell of a network.
// The flags are what Docker tells, each independent of the others.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    pub name: String,
    pub ranges: Vec<Range>,
    pub internal: bool,
    pub ipv6: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub config_only: bool,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    pub vni: Option<u32>,
    pub address_driver: String,
}

/// One subnet, in Docker's words.
#[derive(Clone, Debug, Default)]
pub struct Range {
    pub subnet: String,
    /// The part of it that addresses are chosen from; empty for all of it.
    pub part: String,
    pub gateway: String,
    pub reserved: BTreeMap<String, String>,
}

/// The network as one of weft's. The error says why it is not proposed.
pub fn propose(overlay: Overlay, wishes: Wishes) -> Result<Proposal, String> {
    if overlay.ingress {
        return Err(
            "it is the swarm's own, which spreads published ports over hosts: weft publishes on the host \
                    of the container"
                .to_owned(),
        );
    }
    if overlay.config_only {
        return Err("it is a configuration for other networks (--config-only) and carries nothing".to_owned());
    }
    let mut notes = Vec::new();
    if overlay.options.contains_key(ENCRYPTED) {
        if !wishes.unencrypted {
            return Err(
                "its frames are encrypted, and weft would carry them in clear: --unencrypted proposes it \
                        all the same"
                    .to_owned(),
            );
        }
        notes.push("its frames were encrypted; weft carries them in clear".to_owned());
    }
    let name: NetworkName = overlay.name.parse().map_err(|e: weft_model::NameError| e.to_string())?;
    let subnets = overlay.ranges.iter().map(subnet).collect::<Result<Vec<_>, _>>()?;
    if !subnets.is_empty() {
        Subnet::validate_all(&subnets).map_err(|e| e.to_string())?;
    }
    if !matches!(overlay.address_driver.as_str(), "" | "default") {
        notes.push(format!(
            "its addresses came from the IPAM driver {:?}; now from weft",
            overlay.address_driver
        ));
    }
    if overlay.attachable {
        notes.push("attachable: every network of weft's is".to_owned());
    }
    let mtu = mtu(&overlay.options, &mut notes)?;
    let vni = vni(&overlay, &mut notes);
    let known = [MTU, VNIS, ENCRYPTED];
    for (key, value) in overlay.options.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
        notes.push(format!("option {key}={value} is not carried over: it means nothing to weft"));
    }
    let ipv6 = overlay.ipv6 && !subnets.iter().any(|subnet| subnet.net.addr().is_ipv6());
    let spec = NetworkSpec {
        name: Some(name),
        subnets,
        ipv6,
        vni,
        mtu,
        internal: overlay.internal,
        labels: overlay.labels,
        ..NetworkSpec::default()
    };
    Ok(Proposal { spec, notes })
}

fn subnet(range: &Range) -> Result<Subnet, String> {
    let net: ipnet::IpNet =
        range.subnet.parse().map_err(|_| format!("its subnet {:?} cannot be read", range.subnet))?;
    let mut subnet = Subnet::new(net.trunc());
    if !range.gateway.is_empty() {
        subnet.gateway = Some(address("gateway", &range.gateway)?);
    }
    if !range.part.is_empty() {
        let part: ipnet::IpNet =
            range.part.parse().map_err(|_| format!("its range {:?} cannot be read", range.part))?;
        subnet.range = Some(part.trunc());
    }
    for (name, ip) in &range.reserved {
        // The command line cannot say such a name, nor does Docker's.
        if name.is_empty() || name.contains([',', '=']) {
            return Err(format!("its reserved address {ip} has the name {name:?}"));
        }
        subnet.reserved.insert(name.clone(), address("reserved address", ip)?);
    }
    Ok(subnet)
}

/// An address, alone or with the length of its subnet's prefix.
fn address(what: &str, text: &str) -> Result<IpAddr, String> {
    let alone = text.split('/').next().unwrap_or(text);
    alone.parse().map_err(|_| format!("its {what} {text:?} cannot be read"))
}

/// Docker's option is the wire's MTU, weft's is that of the containers.
fn mtu(options: &BTreeMap<String, String>, notes: &mut Vec<String>) -> Result<Option<Mtu>, String> {
    let Some(text) = options.get(MTU) else { return Ok(None) };
    let unusable = || format!("its option {MTU}={text} is no MTU");
    let wire: u32 = text.parse().map_err(|_| unusable())?;
    if wire == 0 {
        return Ok(None);
    }
    let inside = wire.checked_sub(ENCAPSULATION).ok_or_else(unusable)?;
    let mtu = Mtu::new(inside).map_err(|_| unusable())?;
    notes.push(format!(
        "MTU {inside}: Docker's option {MTU}={wire} is the wire's, of which the tunnel takes {ENCAPSULATION}"
    ));
    Ok(Some(mtu))
}

/// Docker has a VNI for each subnet, weft one for the network.
fn vni(overlay: &Overlay, notes: &mut Vec<String>) -> Option<Vni> {
    let listed = overlay.options.get(VNIS).map_or("", String::as_str);
    let listed: Vec<u32> = listed.split(',').filter_map(|text| text.trim().parse().ok()).collect();
    let first = listed.first().copied().or(overlay.vni).filter(|vni| *vni > 0)?;
    if listed.len() > 1 {
        let others: Vec<String> = listed[1..].iter().map(u32::to_string).collect();
        notes.push(format!(
            "a network has one VNI, whatever its subnets: not needed any more: {}",
            others.join(", ")
        ));
    }
    match Vni::new(first) {
        Ok(vni) => Some(vni),
        Err(error) => {
            notes.push(format!("{error}: weft chooses one"));
            None
        }
    }
}
