//! VTEP addresses that more than one node's record names, and whose they are.
//!
//! It comes about when a host is installed anew (another id at the same address), or when DHCP gives the address of a
//! host that is off to another. Frames to the address reach one of them, and for the others' endpoints they would be lost
//! without a word: so the others are planned as nodes that cannot be reached. Leases say nothing about it: one ends without
//! the host having gone, and that of a host that was installed anew lives on for a while.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};
use weft_model::{Node, NodeId, Snapshot};

/// Nodes that have lost a VTEP address to another node, by the address. Of the nodes that name it, the one that took it last
/// has it ([`Node::started`]), or the one of the greater id.
pub fn displaced(snapshot: &Snapshot) -> BTreeMap<(IpAddr, NodeId), NodeId> {
    let rank = |node: &Node| (node.started, node.id.clone());
    let mut holders: BTreeMap<IpAddr, &Node> = BTreeMap::new();
    let mut shared = Vec::new();
    for node in snapshot.nodes.values() {
        for &vtep in &node.vteps {
            match holders.entry(vtep) {
                Entry::Vacant(free) => {
                    free.insert(node);
                }
                Entry::Occupied(mut held) => {
                    let loser = if rank(node) > rank(held.get()) { held.insert(node) } else { node };
                    shared.push((vtep, loser.id.clone()));
                }
            }
        }
    }
    let owner = |(vtep, loser): (IpAddr, NodeId)| {
        let owner = holders.get(&vtep)?.id.clone();
        (owner != loser).then_some(((vtep, loser), owner))
    };
    shared.into_iter().filter_map(owner).collect()
}
