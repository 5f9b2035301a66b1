//! flannel's network: the JSON at `/coreos.com/network/config` in etcd, or in `net-conf.json`. Source: flannel's
//! `Documentation/configuration.md` and `backends.md`.

use super::{Definition, NoDefinition, Proposal, Wishes};
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::BTreeMap;
use weft_agent::api::NetworkSpec;
use weft_model::{Mtu, NetworkName, Subnet, Vni};

/// Where flannel keeps it in etcd unless told otherwise (`--etcd-prefix`).
pub const PREFIX: &str = "coreos.com/network";
/// The key below the prefix.
pub const KEY: &str = "config";
/// weft's option that means the same as flannel's `DirectRouting`.
const DIRECT: &str = "weft.direct";
/// What flannel's VXLAN backend uses if no VNI is given.
const DEFAULT_VNI: u32 = 1;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    network: Option<String>,
    #[serde(default, rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(default, rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(default, rename = "IPv6Network")]
    ipv6_network: Option<String>,
    #[serde(default)]
    backend: Backend,
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Backend {
    r#type: String,
    #[serde(rename = "VNI")]
    vni: Option<u32>,
    port: Option<u16>,
    #[serde(rename = "MTU")]
    mtu: Option<u32>,
    direct_routing: bool,
}

/// Reads the one network that flannel has. It has no name there: it gets `name`.
pub fn read(json: &[u8], name: &NetworkName, wishes: Wishes) -> Result<Definition, NoDefinition> {
    let config: Config = serde_json::from_slice(json).map_err(|e| NoDefinition {
        what: "flannel's configuration",
        reason: format!("a JSON object with a Network was expected: {e}"),
    })?;
    let mut definition = Definition::default();
    definition.add(name.as_str(), propose(&config, name, wishes));
    Ok(definition)
}

fn propose(config: &Config, name: &NetworkName, wishes: Wishes) -> Result<Proposal, String> {
    let mut notes = Vec::new();
    let backend = config.backend.r#type.to_lowercase();
    match backend.as_str() {
        "vxlan" | "host-gw" => {}
        "wireguard" | "ipsec" if !wishes.unencrypted => {
            return Err(format!(
                "its frames are encrypted (backend {backend}), and weft would carry them in clear: --unencrypted \
                 proposes it all the same"
            ));
        }
        "wireguard" | "ipsec" => {
            notes.push(format!("its frames were encrypted ({backend}); weft carries them in clear"));
        }
        other => {
            notes.push(format!("the backend {other:?} is not carried over: weft carries frames in VXLAN"));
        }
    }
    let v4 = config.network.as_deref().filter(|_| config.enable_ipv4 != Some(false));
    let v6 = config.ipv6_network.as_deref().filter(|_| config.enable_ipv6);
    let subnets = v4.into_iter().chain(v6).map(subnet).collect::<Result<Vec<_>, _>>()?;
    Subnet::validate_all(&subnets).map_err(|e| e.to_string())?;
    let cut = ["SubnetLen", "SubnetMin", "SubnetMax", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax"];
    let cut: Vec<&str> = cut.into_iter().filter(|key| config.others.contains_key(*key)).collect();
    if !cut.is_empty() {
        notes.push(format!(
            "{} not carried over: on a network of weft's no host has a part of its own, any address can be anywhere",
            cut.join(", ")
        ));
    }
    if let Some(port) = config.backend.port {
        notes.push(format!(
            "UDP port {port}: the port is the daemons' (--vxlan-port), the same for all networks"
        ));
    }
    let vni = (backend == "vxlan").then_some(config.backend.vni.unwrap_or(DEFAULT_VNI));
    let vni = vni.map(Vni::new).transpose().map_err(|e| e.to_string())?;
    let mtu =
        config.backend.mtu.filter(|mtu| *mtu > 0).map(Mtu::new).transpose().map_err(|e| e.to_string())?;
    // The packets of both go without outer headers between hosts on one link.
    let direct = backend == "host-gw" || config.backend.direct_routing;
    let options = direct.then(|| (DIRECT.to_owned(), "true".to_owned())).into_iter().collect();
    let name = Some(name.clone());
    let spec = NetworkSpec { name, subnets, vni, mtu, direct, options, ..NetworkSpec::default() };
    Ok(Proposal { spec, notes })
}

fn subnet(text: &str) -> Result<Subnet, String> {
    let net: IpNet = text.parse().map_err(|_| format!("its network {text:?} is not ADDRESS/LENGTH"))?;
    Ok(Subnet::new(net.trunc()))
}
