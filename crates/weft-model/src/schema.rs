//! Where each record lives in the store. Schema version 1.
//!
//! All keys stand below the prefix of the store's URL (`etcd://host:2379/PREFIX`; `weft` when none is given),
//! which the store adds. Values are JSON. Readers ignore fields they do not know; a change that an older
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
//! | `v1/endpoints/NETWORK/ENDPOINT` | [`crate::Endpoint`] | by its node |
//! | `v1/addresses/NETWORK/IP` | [`crate::AddressClaim`] | created only where absent: one holder |
//! | `v1/bindings/NODE/ENGINE-NETWORK` | [`Binding`] | by that node: its engine's copy of a network |
//! | `v1/removing/NETWORK` | [`Removing`] | while the network is being removed: nothing may join it |
//! | `v1/wanted/NETWORK/IP` | node id | by a node that asks for an address which another holds ahead |
//! | `v1/pools/POOL` | [`Pool`] | by an engine's IPAM call, until a network is made of it |
//! | `v1/moved` | [`Moved`] | by `weft store`: while it stands, no daemon writes here |

use crate::{Endpoint, EndpointId, NetworkId, NetworkName, NodeId, Subnet, UnixSeconds, Vni};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The version of this layout.
pub const VERSION: u32 = 1;

/// The prefix of every key of this version.
pub const ROOT: &str = "v1/";
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
/// Prefix of [`endpoint_key`].
pub const ENDPOINTS: &str = "v1/endpoints/";
/// Prefix of [`address_key`].
pub const ADDRESSES: &str = "v1/addresses/";
/// Prefix of [`binding_key`].
pub const BINDINGS: &str = "v1/bindings/";
/// Prefix of [`removing_key`].
pub const REMOVING: &str = "v1/removing/";
/// Prefix of [`wanted_key`].
pub const WANTED: &str = "v1/wanted/";
/// Prefix of [`pool_key`].
pub const POOLS: &str = "v1/pools/";
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
/// `v1/endpoints/NETWORK/ENDPOINT`
pub fn endpoint_key(network: &NetworkId, endpoint: &EndpointId) -> String {
    format!("{ENDPOINTS}{network}/{endpoint}")
}
/// The key of this endpoint.
pub fn key_of_endpoint(endpoint: &Endpoint) -> String {
    endpoint_key(&endpoint.network, &endpoint.id)
}
/// `v1/addresses/NETWORK/IP`
pub fn address_key(network: &NetworkId, ip: IpAddr) -> String {
    format!("{ADDRESSES}{network}/{ip}")
}
/// `v1/bindings/NODE/ENGINE-NETWORK`
pub fn binding_key(node: &NodeId, engine_network: &str) -> String {
    format!("{BINDINGS}{node}/{engine_network}")
}
/// `v1/removing/NETWORK`
pub fn removing_key(network: &NetworkId) -> String {
    format!("{REMOVING}{network}")
}
/// `v1/wanted/NETWORK/IP`
pub fn wanted_key(network: &NetworkId, ip: IpAddr) -> String {
    format!("{WANTED}{network}/{ip}")
}
/// `v1/pools/POOL`
pub fn pool_key(pool: &str) -> String {
    format!("{POOLS}{pool}")
}
