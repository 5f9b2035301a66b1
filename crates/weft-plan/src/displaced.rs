//! VTEP addresses that more than one node's record names, and whose they are.
//!
//! It comes about when a host is installed anew (another id at the same address), or when DHCP gives the address of a
//! host that is off to another. Frames to the address reach one of them, and for the others' endpoints they would be lost
//! without a word: so the others are planned as nodes that cannot be reached. Leases say nothing about it: one ends without
//! the host having gone, and that of a host that was installed anew lives on for a while.

use crate::nodes::Nodes;
use std::{collections::BTreeMap, net::IpAddr};
use weft_model::{NodeId, Snapshot};

/// Nodes that have lost a VTEP address to another node, by the address. Of the nodes that name it, the one that took it last
/// has it ([`weft_model::Node::started`]), or the one of the greater id.
pub fn displaced(snapshot: &Snapshot) -> BTreeMap<(IpAddr, NodeId), NodeId> {
    Nodes::of(snapshot.nodes.values()).displaced()
}
