//! What the nodes' records say together, kept up to date at the cost of a change: who has which VTEP address, and the
//! narrowest wire.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_model::{Mtu, Node, NodeId, UnixSeconds};

/// The nodes of a snapshot, by what they have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nodes {
    /// What of each record stands in the others.
    known: BTreeMap<NodeId, Known>,
    /// Who names a VTEP address, by rank: the last has it (see [`crate::displaced`]).
    holders: BTreeMap<IpAddr, BTreeSet<(UnixSeconds, NodeId)>>,
    /// How many nodes have a wire of this MTU.
    wires: BTreeMap<Mtu, usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    vteps: Vec<IpAddr>,
    started: UnixSeconds,
    wire: Mtu,
}

impl Nodes {
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let mut all = Self::default();
        for node in nodes {
            all.insert(node);
        }
        all
    }

    /// Takes in a node's record, or that it has none. The nodes that this may concern: itself, and those that name one of its
    /// VTEP addresses or did.
    pub fn put(&mut self, id: &NodeId, node: Option<&Node>) -> BTreeSet<NodeId> {
        let mut concerned = BTreeSet::from([id.clone()]);
        concerned.extend(self.sharing(id));
        self.remove(id);
        if let Some(node) = node {
            self.insert(node);
            concerned.extend(self.sharing(id));
        }
        concerned
    }

    /// Who has a VTEP address.
    pub fn holder(&self, vtep: IpAddr) -> Option<&NodeId> {
        Some(&self.holders.get(&vtep)?.last()?.1)
    }

    /// [`crate::tunnel_mtu`] of all nodes.
    pub fn tunnel_mtu(&self, vtep: IpAddr) -> Option<Mtu> {
        // What fits grows with the wire.
        self.wires.keys().find_map(|wire| wire.inside_vxlan(vtep))
    }

    /// Nodes that have lost a VTEP address to another, by the address: see [`crate::displaced`].
    pub fn displaced(&self) -> BTreeMap<(IpAddr, NodeId), NodeId> {
        let of = |(vtep, names): (&IpAddr, &BTreeSet<(UnixSeconds, NodeId)>)| {
            let mut losers: Vec<_> = names.iter().map(|(_, id)| id.clone()).collect();
            let holder = losers.pop();
            let vtep = *vtep;
            holder.into_iter().flat_map(move |holder| {
                losers.clone().into_iter().map(move |loser| ((vtep, loser), holder.clone()))
            })
        };
        self.holders.iter().flat_map(of).collect()
    }

    fn sharing(&self, id: &NodeId) -> BTreeSet<NodeId> {
        let vteps = self.known.get(id).into_iter().flat_map(|known| &known.vteps);
        let names = vteps.filter_map(|vtep| self.holders.get(vtep)).flatten();
        names.map(|(_, other)| other.clone()).collect()
    }

    fn insert(&mut self, node: &Node) {
        let known = Known { vteps: node.vteps.clone(), started: node.started, wire: node.underlay_mtu };
        for vtep in &known.vteps {
            self.holders.entry(*vtep).or_default().insert((known.started, node.id.clone()));
        }
        *self.wires.entry(known.wire).or_default() += 1;
        self.known.insert(node.id.clone(), known);
    }

    fn remove(&mut self, id: &NodeId) {
        let Some(Known { vteps, started, wire }) = self.known.remove(id) else { return };
        for vtep in vteps {
            if let Some(names) = self.holders.get_mut(&vtep) {
                names.remove(&(started, id.clone()));
                if names.is_empty() {
                    self.holders.remove(&vtep);
                }
            }
        }
        if let Some(count) = self.wires.get_mut(&wire) {
            *count -= 1;
            if *count == 0 {
                self.wires.remove(&wire);
            }
        }
    }
}
