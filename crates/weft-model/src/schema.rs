//! Where each record lives in the store. Schema version 2: version 1 kept endpoints,
//! claims and requests of addresses of all networks together, below `v1/`.
//!
//! All keys stand below the prefix of the store's URL (`etcd://host:2379/PREFIX`; `weft` when none is given),
//! which the store adds. What concerns one network alone stands together below `v1-on/NETWORK/`: a host follows that only for
//! the networks it takes part in, and the rest, below `v1/`, always ([`Scope`]). Values are JSON. Readers ignore fields they do not know; a change that an older
//! daemon would misread raises [`VERSION`], which every daemon checks at start.
//!
//! | key | value | written |
//! |---|---|---|
//! | `v1/meta` | [`Meta`] | once, by the first daemon |
//! | `v1/nodes/NODE` | [`crate::Node`] | by that node |
//! | `v1/alive/NODE` | the epoch | by that node, bound to its lease |
//! | `v1/networks/NETWORK` | [`crate::Network`] | where it is made; removed with its names |
//! | `v1/names/NAME` | network id | created only where absent: names are unique |
//! | `v1/vnis/VNI` | network id | created only where absent: VNIs are unique |
//! | `v1/bindings/NODE/ENGINE-NETWORK` | [`Binding`] | by that node: its engine's copy of a network |
//! | `v1/removing/NETWORK` | [`Removing`] | while the network is being removed: nothing may join it |
//! | `v1/pools/POOL` | [`Pool`] | by an engine's IPAM call, until a network is made of it |
//! | `v1/direct` | network id | with every direct network that is made: two with the same addresses cannot both be |
//! | `v1/moved` | [`Moved`] | by `weft store`: while it stands, no daemon writes here |
//! | `v1-on/NETWORK/endpoints/ENDPOINT` | [`crate::Endpoint`] | by its node |
//! | `v1-on/NETWORK/addresses/IP` | [`crate::AddressClaim`] | created only where absent: one holder |
//! | `v1-on/NETWORK/wanted/IP` | node id | by a node that asks for an address which another holds ahead |
//! | `v1-on/NETWORK/groups/NODE` | [`Memberships`] | by that node, while it has endpoints there; without it the node gets all multicast |

use crate::{Endpoint, EndpointId, NetworkId, NetworkName, NodeId, Subnet, UnixSeconds, Vni};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt::Display, net::IpAddr, str::FromStr};

/// The version of this layout.
pub const VERSION: u32 = 2;

/// The prefix of every key.
pub const ALL: &str = "v1";
/// The prefix of what every host follows.
pub const ROOT: &str = "v1/";
/// The prefix of what concerns one network.
pub const ON: &str = "v1-on/";
/// The version record.
pub const META: &str = "v1/meta";
/// Prefix of [`node_key`].
pub const NODES: &str = "v1/nodes/";
/// Prefix of [`alive_key`].
pub const ALIVE: &str = "v1/alive/";
/// Prefix of [`network_key`].
pub const NETWORKS: &str = "v1/networks/";
/// Prefix of [`name_key`].
pub const NAMES: &str = "v1/names/";
/// Prefix of [`vni_key`].
pub const VNIS: &str = "v1/vnis/";
/// Prefix of [`binding_key`].
pub const BINDINGS: &str = "v1/bindings/";
/// Prefix of [`removing_key`].
pub const REMOVING: &str = "v1/removing/";
/// Prefix of [`pool_key`].
pub const POOLS: &str = "v1/pools/";
/// The direct network that was made last. Who makes one compares it, and so has seen all others.
pub const DIRECT: &str = "v1/direct";
/// The record that closes a store to all daemons.
pub const MOVED: &str = "v1/moved";

/// What [`META`] holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The layout's version, [`VERSION`].
    pub schema: u32,
}

/// An engine's copy of a network: which of the engine's network ids stands for which network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The network.
    pub network: NetworkId,
    /// Whether weft made the copy (else the operator did, through the engine).
    pub mirrored: bool,
}

/// The mark that a network's removal has begun. It is set before the last look for endpoints, and every new
/// endpoint is written on the condition that it is absent, so that none slips in between the look and the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removing {
    /// The node that removes it.
    pub node: NodeId,
    /// Since when.
    pub since: UnixSeconds,
}

/// A pool handed to an engine's IPAM call before the network it is for exists. Once the network is made, the
/// pool tells which one it became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The subnet.
    pub subnet: Subnet,
    /// The node whose engine asked.
    pub node: NodeId,
    /// The network it became.
    pub network: Option<NetworkId>,
    /// When it was asked for.
    pub since: UnixSeconds,
}

/// The multicast groups that a node's endpoints on a network have joined: the others send it frames to these and to no other
/// group. A node without this record (of a version that does not write it, or with more groups than it tells of) gets all
/// multicast of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memberships {
    /// The groups: none of link-local scope, which everybody gets ([`is_told_of`]).
    pub groups: BTreeSet<IpAddr>,
}

/// Whether memberships of a group are told to other hosts. Groups of link-local scope are not (224.0.0.0/24 of RFC 5771,
/// `ff02::/16` of RFC 4291): protocols rely on them without a membership, and every endpoint joins some for neighbour discovery.
pub fn is_told_of(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(v4) => v4.is_multicast() && v4.octets()[..3] != [224, 0, 0],
        // The scope is the second byte's lower half; 1 never leaves its interface.
        IpAddr::V6(v6) => v6.is_multicast() && v6.octets()[1] & 0xf > 2,
    }
}

/// The mark that closes a store. Every transaction of a daemon is made on the condition that it is absent, so from the
/// revision that writes it on, nothing is written but by whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The URL of the store that holds the records from now on. `None`: this store is being filled, and nobody may use it
    /// before that is done.
    pub to: Option<String>,
    /// The options of that store, in writing; empty: none.
    #[serde(default)]
    pub options: String,
    /// Since when.
    pub since: UnixSeconds,
}

/// `v1/nodes/NODE`
pub fn node_key(id: &NodeId) -> String {
    format!("{NODES}{id}")
}
/// `v1/alive/NODE`
pub fn alive_key(id: &NodeId) -> String {
    format!("{ALIVE}{id}")
}
/// `v1/networks/NETWORK`
pub fn network_key(id: &NetworkId) -> String {
    format!("{NETWORKS}{id}")
}
/// `v1/names/NAME`
pub fn name_key(name: &NetworkName) -> String {
    format!("{NAMES}{name}")
}
/// `v1/vnis/VNI`
pub fn vni_key(vni: Vni) -> String {
    format!("{VNIS}{vni}")
}
/// `v1-on/NETWORK/endpoints/`: prefix of [`endpoint_key`].
pub fn endpoints_of(network: &NetworkId) -> String {
    format!("{ON}{network}/endpoints/")
}
/// `v1-on/NETWORK/endpoints/ENDPOINT`
pub fn endpoint_key(network: &NetworkId, endpoint: &EndpointId) -> String {
    endpoints_of(network) + &endpoint.to_string()
}
/// The key of this endpoint.
pub fn key_of_endpoint(endpoint: &Endpoint) -> String {
    endpoint_key(&endpoint.network, &endpoint.id)
}
/// `v1-on/NETWORK/addresses/`: prefix of [`address_key`].
pub fn addresses_of(network: &NetworkId) -> String {
    format!("{ON}{network}/addresses/")
}
/// `v1-on/NETWORK/addresses/IP`
pub fn address_key(network: &NetworkId, ip: IpAddr) -> String {
    format!("{}{ip}", addresses_of(network))
}
/// `v1/bindings/NODE/ENGINE-NETWORK`
pub fn binding_key(node: &NodeId, engine_network: &str) -> String {
    format!("{BINDINGS}{node}/{engine_network}")
}
/// `v1/removing/NETWORK`
pub fn removing_key(network: &NetworkId) -> String {
    format!("{REMOVING}{network}")
}
/// `v1-on/NETWORK/wanted/`: prefix of [`wanted_key`].
pub fn wanted_of(network: &NetworkId) -> String {
    format!("{ON}{network}/wanted/")
}
/// `v1-on/NETWORK/wanted/IP`
pub fn wanted_key(network: &NetworkId, ip: IpAddr) -> String {
    format!("{}{ip}", wanted_of(network))
}
/// `v1-on/NETWORK/groups/`: prefix of [`groups_key`].
pub fn groups_of(network: &NetworkId) -> String {
    format!("{ON}{network}/groups/")
}
/// `v1-on/NETWORK/groups/NODE`
pub fn groups_key(network: &NetworkId, node: &NodeId) -> String {
    format!("{}{node}", groups_of(network))
}
/// `v1/pools/POOL`
pub fn pool_key(pool: &str) -> String {
    format!("{POOLS}{pool}")
}

/// Who has to know a record: the hosts follow the store in these parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Every host.
    Cluster,
    /// The hosts that take part in this network.
    Network(NetworkId),
}

impl Scope {
    /// The scope that a key belongs to.
    pub fn of(key: &str) -> Self {
        let network = key.strip_prefix(ON).and_then(|rest| rest.split('/').next()?.parse().ok());
        network.map_or(Self::Cluster, Self::Network)
    }

    /// The prefix of its keys.
    pub fn prefix(&self) -> String {
        match self {
            Self::Cluster => ROOT.to_owned(),
            Self::Network(network) => format!("{ON}{network}/"),
        }
    }
}

/// What a key below [`ON`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnNetwork {
    /// An endpoint.
    Endpoint(EndpointId),
    /// The claim of an address.
    Address(IpAddr),
    /// The request for an address.
    Wanted(IpAddr),
    /// The multicast groups of a node.
    Groups(NodeId),
}

impl OnNetwork {
    /// Takes a key apart. `Ok(None)`: it is not below [`ON`], or of a kind that this version does not know.
    pub fn parse(key: &str) -> Result<Option<(NetworkId, Self)>, String> {
        let Some(rest) = key.strip_prefix(ON) else { return Ok(None) };
        let mut parts = rest.splitn(3, '/');
        let (Some(network), Some(kind), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("its key is malformed: a part is missing".to_owned());
        };
        let what = match kind {
            "endpoints" => Self::Endpoint(parse(name)?),
            "addresses" => Self::Address(parse(name)?),
            "wanted" => Self::Wanted(parse(name)?),
            "groups" => Self::Groups(parse(name)?),
            _ => return Ok(None),
        };
        Ok(Some((parse(network)?, what)))
    }
}

/// What a key names. A key that is not as this module writes it names nothing: two keys for one thing would make what a
/// snapshot holds depend on which of them was changed last.
pub(crate) fn parse<T: FromStr<Err: Display> + Display>(text: &str) -> Result<T, String> {
    let named: T = text.parse().map_err(|e: T::Err| format!("its key is malformed: {e}"))?;
    let written = named.to_string();
    if written == text {
        Ok(named)
    } else {
        Err(format!("its key is malformed: {text} is written {written}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_who_has_to_know_it() {
        let (network, endpoint) = (NetworkId::random(), EndpointId::random());
        let ip = "10.0.0.2".parse().unwrap();
        let scope = Scope::Network(network.clone());
        let node = NodeId::random();
        for key in [
            endpoint_key(&network, &endpoint),
            address_key(&network, ip),
            wanted_key(&network, ip),
            groups_key(&network, &node),
        ] {
            assert_eq!(Scope::of(&key), scope, "{key}");
            assert!(key.starts_with(&scope.prefix()) && key.starts_with(ALL) && !key.starts_with(ROOT));
        }
        assert_eq!(Scope::of(&network_key(&network)), Scope::Cluster);
        assert_eq!(OnNetwork::parse(&network_key(&network)), Ok(None));
        let parsed = OnNetwork::parse(&address_key(&network, ip)).unwrap();
        assert_eq!(parsed, Some((network, OnNetwork::Address(ip))));
        assert!(OnNetwork::parse("v1-on/x").unwrap_err().contains("a part is missing"));
    }

    #[test]
    fn link_local_groups_and_what_is_no_group_are_not_told_of() {
        for told in ["239.1.2.3", "224.0.1.1", "232.0.0.1", "ff05::1", "ff0e::1:2", "ff38::8000:1"] {
            assert!(is_told_of(told.parse().unwrap()), "{told}");
        }
        for not in
            ["224.0.0.251", "10.0.0.2", "255.255.255.255", "ff02::fb", "ff02::1:ff00:2", "ff01::1", "fd00::1"]
        {
            assert!(!is_told_of(not.parse().unwrap()), "{not}");
        }
    }
}
