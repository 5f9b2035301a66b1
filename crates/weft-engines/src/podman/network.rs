//! `podman network create -d weft NAME`: makes the network in the cluster, or joins the one of that name.
//!
//! Podman keeps networks in a file on its host and tells nobody of them, and asks a plugin only when one is made: there is
//! nothing to follow. So on each host the network is created once, and who comes first decides what it is.

use super::{PluginError, wire};
use crate::daemon::Daemon;
use ipnet::IpNet;
use std::collections::BTreeMap;
use weft_agent::api::{ErrorKind, NetworkSpec, NetworkView};
use weft_model::{Mtu, MulticastRate, Subnet, Vni, gateway_in};

/// The driver option that asks for an MTU; Podman's own drivers have the same.
const MTU: &str = "mtu";
/// The driver option that asks for a VNI, as with Docker.
const VNI: &str = "weft.vni";
/// The driver option that leaves the outer headers out, as with Docker.
const DIRECT: &str = "weft.direct";
/// The driver option that names a network of the cluster, where its name here is another.
const NETWORK: &str = "weft.network";
/// Who chooses addresses: not Podman, which knows only this host's.
const ADDRESSES: (&str, &str) = ("driver", "weft");

/// The network of the cluster that a network of Podman's is.
pub(super) fn reference(network: &wire::Network) -> &str {
    let named = network.options.as_ref().and_then(|options| options.get(NETWORK));
    named.map_or(network.name.as_str(), String::as_str)
}

/// Makes or joins it; the answer is the network as it is.
pub(super) async fn create(
    network: wire::Network,
    daemon: &impl Daemon,
) -> Result<wire::Network, PluginError> {
    let spec = spec(&network)?;
    let found = match daemon.network(reference(&network)).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            match daemon.create_network(&spec).await {
                // Another host was faster.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    daemon.network(reference(&network)).await.map_err(|_| error)?
                }
                made => made?,
            }
        }
        found => found?,
    };
    joined(network, &spec, &found)
}

/// What is asked for.
fn spec(network: &wire::Network) -> Result<NetworkSpec, PluginError> {
    let mut options = network.options.clone().unwrap_or_default();
    let wrong = |what: &str, e: &dyn std::fmt::Display| PluginError::new(format!("{what}: {e}"));
    let mtu = options.remove(MTU).map(|text| {
        let bytes = text.parse::<u32>().map_err(|e| wrong("option mtu", &e))?;
        Mtu::new(bytes).map_err(|e| wrong("option mtu", &e))
    });
    let vni = options.remove(VNI).map(|text| text.parse::<Vni>().map_err(|e| wrong("option weft.vni", &e)));
    let direct =
        options.remove(DIRECT).map(|text| text.parse::<bool>().map_err(|e| wrong("option weft.direct", &e)));
    options.remove(NETWORK);
    let rate = options.remove_entry(MulticastRate::OPTION);
    if let Some(unknown) = options.keys().next() {
        let message = format!(
            "option {unknown:?} is not known: weft has {MTU}, {VNI}, {DIRECT}, {} and {NETWORK}",
            MulticastRate::OPTION
        );
        return Err(PluginError::new(message));
    }
    Ok(NetworkSpec {
        name: Some(reference(network).parse().map_err(|e| wrong("the network's name", &e))?),
        subnets: network
            .subnets
            .iter()
            .flatten()
            .map(|s| subnet(s, network.internal))
            .collect::<Result<_, _>>()?,
        ipv6: network.ipv6_enabled,
        vni: vni.transpose()?,
        mtu: mtu.transpose()?,
        internal: network.internal,
        direct: direct.transpose()?.unwrap_or(false),
        labels: network.labels.clone().unwrap_or_default(),
        options: rate.into_iter().collect(),
        ..NetworkSpec::default()
    })
}

/// Podman notes the first address of a subnet as the gateway's, unless the network is internal: then no container is to have it.
fn subnet(subnet: &wire::Pool, internal: bool) -> Result<Subnet, PluginError> {
    let gateway = subnet.gateway.or_else(|| (!internal).then(|| gateway_in(subnet.subnet)));
    let range = subnet.lease_range.as_ref().map(|range| range_of(subnet.subnet, range)).transpose()?;
    Ok(Subnet { gateway, range: range.flatten(), ..Subnet::new(subnet.subnet) })
}

/// The prefix that a range is.
fn range_of(net: IpNet, range: &wire::Range) -> Result<Option<IpNet>, PluginError> {
    let (first, last) = match (range.start_ip, range.end_ip) {
        (None, None) => return Ok(None),
        (first, last) => (first.unwrap_or(net.network()), last.unwrap_or(net.broadcast())),
    };
    let fits = |prefix: &IpNet| {
        let starts = prefix.network() == first || next(prefix.network()) == Some(first);
        let ends = prefix.broadcast() == last || next(last) == Some(prefix.broadcast());
        starts && ends
    };
    let mut prefixes = (net.prefix_len()..=net.max_prefix_len()).filter_map(|l| IpNet::new(first, l).ok());
    let found = prefixes.find_map(|prefix| Some(prefix.trunc()).filter(fits));
    found.map(Some).ok_or_else(|| {
        PluginError::new(format!(
            "addresses are chosen from a prefix, and {first} to {last} is none: use --ip-range with a prefix"
        ))
    })
}

fn next(ip: std::net::IpAddr) -> Option<std::net::IpAddr> {
    match ip {
        std::net::IpAddr::V4(v4) => {
            v4.to_bits().checked_add(1).map(|bits| std::net::Ipv4Addr::from_bits(bits).into())
        }
        std::net::IpAddr::V6(v6) => {
            v6.to_bits().checked_add(1).map(|bits| std::net::Ipv6Addr::from_bits(bits).into())
        }
    }
}

/// The network as Podman is to keep it. What was asked for and is otherwise in the cluster is an error.
fn joined(
    network: wire::Network,
    asked: &NetworkSpec,
    found: &NetworkView,
) -> Result<wire::Network, PluginError> {
    let is = &found.network;
    let nets = |subnets: &[Subnet]| subnets.iter().map(|s| s.net.to_string()).collect::<Vec<_>>().join(", ");
    let differs = |what: &str, there: &str| {
        let name = is.display_name();
        PluginError::new(format!(
            "the cluster has a network {name:?} already, with {what} {there}: leave it out, or choose another name"
        ))
    };
    if asked.subnets.iter().any(|wanted| !is.subnets.iter().any(|s| s.net == wanted.net)) {
        return Err(differs("the subnets", &nets(&is.subnets)));
    }
    if asked.internal && !is.internal {
        return Err(differs("a way out", "(no --internal)"));
    }
    if asked.direct && !is.direct {
        return Err(differs("outer headers everywhere", "(no weft.direct)"));
    }
    if asked.vni.is_some_and(|vni| vni != is.vni) {
        return Err(differs("VNI", &is.vni.to_string()));
    }
    let (rate, is_rate) = (asked.options.get(MulticastRate::OPTION), is.multicast_rate().to_string());
    if rate.is_some_and(|rate| *rate != is_rate) {
        return Err(differs(MulticastRate::OPTION, &is_rate));
    }
    let subnets = is.subnets.iter();
    let subnets = subnets.map(|s| wire::Pool { subnet: s.net, gateway: s.gateway, lease_range: None });
    let (key, value) = ADDRESSES;
    Ok(wire::Network {
        subnets: Some(subnets.collect()),
        ipv6_enabled: is.subnets.iter().any(|s| s.net.addr().is_ipv6()),
        internal: is.internal,
        // Names are weft's: Podman's server would know this host's only.
        dns_enabled: false,
        ipam_options: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
        ..network
    })
}
