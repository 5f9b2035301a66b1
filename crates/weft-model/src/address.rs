//! Who holds an address.

use crate::{EndpointId, NodeId, UnixSeconds};
use serde::{Deserialize, Serialize};

/// The record behind an address that is taken. Its key names the network and the address and is only ever
/// made where none was (compare-and-swap), so an address has one holder or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressClaim {
    /// Why it is taken.
    pub kind: ClaimKind,
    /// The node that took it, and that alone may give it back.
    pub node: NodeId,
    /// The endpoint that uses it, once there is one.
    pub endpoint: Option<EndpointId>,
    /// When it was taken.
    pub since: UnixSeconds,
}

/// Why an address is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimKind {
    /// An engine's IPAM call took it and an IPAM call will give it back; the endpoint comes and goes between.
    Ipam,
    /// Taken with the endpoint and given back with it.
    Endpoint,
    /// Taken ahead by the node, for the endpoints that it will make while the store is away.
    Reserved,
}
