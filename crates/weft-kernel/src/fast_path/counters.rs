//! What the programs count: packets and bytes of every port and peer, and frames dropped, by reason.
//!
//! The programs count by slot, each processor for itself; whose slot it is stands in the maps, beside what is looked
//! up anyway. Slots are given here. One that is given anew begins at zero.

use super::{
    failed,
    maps::{Maps, Station},
};
use crate::KernelError;
use aya::{maps::PerCpuValues, util::nr_cpus};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

/// `struct counter`: packets and bytes sent, packets and bytes received.
pub(super) type CounterBytes = [u64; 4];

/// Why frames were dropped, in the order of `enum drop` (`bpf/maps.h`).
const REASONS: [&str; 3] =
    ["no route to the peer", "no room for the outer headers", "outer headers in the way"];

/// Frames of one endpoint, or to and from one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets it sent; of a peer: that were sent to it.
    pub tx_packets: u64,
    /// Their bytes, without outer headers.
    pub tx_bytes: u64,
    /// Packets it received; of a peer: that came from it.
    pub rx_packets: u64,
    /// Their bytes, without outer headers.
    pub rx_bytes: u64,
}

/// What the fast path has carried. Frames that took the kernel's path are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By port: see [`weft_plan::port_name`].
    pub ports: BTreeMap<String, Counter>,
    /// By VTEP.
    pub peers: BTreeMap<IpAddr, Counter>,
    /// Frames dropped, by reason; all reasons there are.
    pub drops: BTreeMap<&'static str, u64>,
}

/// Who has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// The port with this interface index.
    Port(u32),
    /// The peer with this VTEP.
    Peer(IpAddr),
}

/// Which slots of the counters are whose.
pub(super) struct Slots {
    owners: HashMap<Owner, u32>,
    taken: Vec<bool>,
}

impl Slots {
    /// As many slots as that, all free.
    pub fn new(slots: u32) -> Self {
        Self { owners: HashMap::new(), taken: vec![false; slots as usize] }
    }

    /// The owner's slot.
    pub fn of(&self, owner: Owner) -> Option<u32> {
        self.owners.get(&owner).copied()
    }

    /// Takes note of a slot that an owner was found to have. A slot of another's is nobody else's.
    fn adopt(&mut self, owner: Owner, slot: u32) {
        if let Some(taken) = self.taken.get_mut(slot as usize)
            && !*taken
            && !self.owners.contains_key(&owner)
        {
            *taken = true;
            self.owners.insert(owner, slot);
        }
    }

    fn allocate(&mut self, owner: Owner) -> Option<u32> {
        let free = self.taken.iter().position(|taken| !taken)?;
        self.taken[free] = true;
        let slot = u32::try_from(free).ok()?;
        self.owners.insert(owner, slot);
        Some(slot)
    }

    /// Frees the slots of those that are gone.
    pub fn retain(&mut self, stays: impl Fn(Owner) -> bool) {
        self.owners.retain(|owner, slot| {
            let stays = stays(*owner);
            self.taken[*slot as usize] = stays;
            stays
        });
    }
}

impl Maps {
    /// Takes note of the owners of slots that the tables name.
    pub fn adopt_slots(&mut self) {
        for (key, port) in self.ports.entries() {
            self.slots.adopt(Owner::Port(key.0), port.counter);
        }
        for (key, peer) in self.peers.entries() {
            self.slots.adopt(Owner::Peer(key.0), peer.counter);
        }
    }

    /// The owner's slot; a new one, at zero, when it has none.
    pub fn slot(&mut self, owner: Owner) -> Result<u32, KernelError> {
        if let Some(slot) = self.slots.of(owner) {
            return Ok(slot);
        }
        let full = || KernelError::FastPath {
            doing: format!("count for {owner:?}"),
            reason: "all counters are taken".to_owned(),
        };
        let slot = self.slots.allocate(owner).ok_or_else(full)?;
        let doing = "set a counter to zero";
        let processors = nr_cpus().map_err(|(_, e)| failed(doing, &e))?;
        let zero = PerCpuValues::try_from(vec![CounterBytes::default(); processors]);
        let zero = zero.map_err(|e| failed(doing, &e))?;
        self.counters.set(slot, zero, 0).map_err(|e| failed(doing, &e))?;
        Ok(slot)
    }

    /// What was counted; `ports` are the names of the ports by interface index.
    pub fn count(&self, ports: &HashMap<u32, String>) -> Result<Counters, KernelError> {
        let mut counters = Counters::default();
        for (owner, slot) in &self.slots.owners {
            let counter = self.counter(*slot)?;
            match owner {
                Owner::Port(index) => {
                    if let Some(name) = ports.get(index) {
                        counters.ports.insert(name.clone(), counter);
                    }
                }
                Owner::Peer(vtep) => {
                    counters.peers.insert(*vtep, counter);
                }
            }
        }
        for (reason, text) in (0u32..).zip(REASONS) {
            let counts = self.drops.get(&reason, 0).map_err(|e| failed("read map drops", &e))?;
            counters.drops.insert(text, counts.iter().sum());
        }
        Ok(counters)
    }

    fn counter(&self, slot: u32) -> Result<Counter, KernelError> {
        let counts = self.counters.get(&slot, 0).map_err(|e| failed("read map counters", &e))?;
        let sum = |field: usize| counts.iter().map(|counter| counter[field]).sum();
        Ok(Counter { tx_packets: sum(0), tx_bytes: sum(1), rx_packets: sum(2), rx_bytes: sum(3) })
    }
}

impl Station {
    /// The slot that is counted in.
    pub fn counter(self) -> u32 {
        match self {
            Self::Local { counter, .. } | Self::Remote { counter, .. } => counter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_ones_own_until_one_is_gone() {
        let mut slots = Slots::new(3);
        let peer = Owner::Peer("192.0.2.1".parse().unwrap());
        slots.adopt(peer, 1);
        slots.adopt(Owner::Port(7), 1);
        assert_eq!((slots.of(peer), slots.of(Owner::Port(7))), (Some(1), None));
        assert_eq!(slots.allocate(Owner::Port(7)), Some(0));
        assert_eq!(slots.allocate(Owner::Port(8)), Some(2));
        assert_eq!(slots.allocate(Owner::Port(9)), None);
        slots.retain(|owner| owner != peer);
        assert_eq!(slots.allocate(Owner::Port(9)), Some(1));
        slots.adopt(Owner::Port(10), 99);
        assert_eq!(slots.of(Owner::Port(10)), None);
    }
}
