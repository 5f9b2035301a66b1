//! Hosts that are not there: their lease has ended, and they are not seen either.
//!
//! The end of a lease alone withdraws nothing. A host that is cut off from the store, or whose daemon has ended, carries its
//! containers' frames as before, and a store that was restored knows nobody's lease. So a host without one is looked at over the
//! network that carries the frames, and its endpoints are withdrawn only when it was missed several times in a row. They come
//! back with its lease, or when it is seen. Each host judges for itself: what it cannot reach is of no use to it.
//!
//! Silence alone is no absence: a firewall may be why. It counts for hosts that have been seen before. That nobody on the link
//! answers for the address counts always: no frame reaches such a host.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::Peekable,
    net::IpAddr,
};
use weft_model::{Node, NodeId, Snapshot};

/// What a look at another host has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It is there.
    Present,
    /// It is on the link, and nobody there answers for its address.
    Nobody,
    /// Nothing was heard, or a refusal that may be somebody else's.
    Silent,
    /// This host could not look.
    Blind,
}

/// So many looks in a row have to miss a host before it is absent: seconds, in which a switch or a cable comes back.
pub const LOOKS: u32 = 3;
/// A host with a lease is looked at until it has been seen once, but no more often than this.
const TRIES: u32 = 3;

/// So many rounds without a look follow one that did not miss a host: all others look at it too.
const REST: u32 = 2;
/// The most rounds without a look at a host that is absent already, twice as many each time: whoever asks in vain for an address on
/// the link asks everybody (ARP), and who comes back takes its lease.
const LONG_REST: u32 = 60;

/// What one host has seen of the others.
#[derive(Clone, Debug, Default)]
pub struct Absences(BTreeMap<NodeId, Seen>);

/// What was seen of a node since its daemon's start, or since it has this address.
#[derive(Clone, Debug, Default)]
struct Seen {
    epoch: u64,
    vteps: Vec<IpAddr>,
    /// It was, once.
    present: bool,
    /// Looks while it had a lease.
    tries: u32,
    /// Looks in a row that missed it while it had none.
    missed: u32,
    /// Rounds until the next look.
    rest: u32,
}

impl Seen {
    fn is_of(&self, node: &Node) -> bool {
        (self.epoch, &self.vteps) == (node.epoch, &node.vteps)
    }
}

impl Absences {
    /// Whom `this` node should look at in this round: those that have no lease, and up to `crowd` of those that have one and were
    /// not seen yet. And whether anybody has no lease: then the next round should come soon.
    pub fn due<'a>(&mut self, snapshot: &'a Snapshot, this: &NodeId, crowd: usize) -> (Vec<&'a Node>, bool) {
        if self.0.len() > snapshot.nodes.len() {
            self.0.retain(|id, _| snapshot.nodes.contains_key(id));
        }
        let (mut left, mut soon, mut due) = (crowd, false, Vec::new());
        // All are in the order of ids: this is asked over and over while a large cluster starts.
        let (mut all_seen, mut alive) = (self.0.iter_mut().peekable(), snapshot.alive.iter().peekable());
        for (id, node) in snapshot.nodes.iter().filter(|(id, _)| *id != this) {
            let seen = next_of(&mut all_seen, id).filter(|seen| seen.is_of(node));
            if next_of(&mut alive, id).is_none() {
                soon = true;
                match seen.filter(|seen| seen.rest > 0) {
                    Some(seen) => seen.rest -= 1,
                    None => due.push(node),
                }
                continue;
            }
            let known = seen.is_some_and(|seen| {
                (seen.missed, seen.rest) = (0, 0);
                seen.present || seen.tries >= TRIES
            });
            if !known && left > 0 {
                left -= 1;
                due.push(node);
            }
        }
        (due, soon)
    }

    /// Takes note of a look at a node at one of its addresses. That it was missed where it is no longer says nothing.
    pub fn saw(&mut self, snapshot: &Snapshot, id: &NodeId, at: IpAddr, sight: Sight) {
        let Some(node) = snapshot.nodes.get(id).filter(|node| node.vteps.contains(&at)) else { return };
        let seen = self.0.entry(id.clone()).or_default();
        if !seen.is_of(node) {
            *seen = Seen { epoch: node.epoch, vteps: node.vteps.clone(), ..Seen::default() };
        }
        seen.present |= sight == Sight::Present;
        if snapshot.alive.contains_key(id) {
            (seen.tries, seen.missed) = (seen.tries + 1, 0);
            return;
        }
        let missed = sight == Sight::Nobody || sight == Sight::Silent && seen.present;
        seen.missed = if sight == Sight::Present { 0 } else { seen.missed + u32::from(missed) };
        seen.rest = match seen.missed.checked_sub(LOOKS) {
            _ if !missed => REST,
            Some(more) => 2u32.saturating_pow(more).min(LONG_REST),
            None => 0,
        };
    }

    /// The nodes whose endpoints are to be withdrawn.
    pub fn absent(&self, snapshot: &Snapshot) -> BTreeSet<NodeId> {
        let missed = self.0.iter().filter(|(_, seen)| seen.missed >= LOOKS);
        let still = missed.filter(|(id, seen)| {
            !snapshot.alive.contains_key(*id) && snapshot.nodes.get(*id).is_some_and(|node| seen.is_of(node))
        });
        still.map(|(id, _)| id.clone()).collect()
    }
}

/// What an iterator in the order of ids has for this one, which comes after those that were asked for before.
fn next_of<'a, V>(sorted: &mut Peekable<impl Iterator<Item = (&'a NodeId, V)>>, id: &NodeId) -> Option<V> {
    while sorted.next_if(|(other, _)| *other < id).is_some() {}
    sorted.next_if(|(other, _)| *other == id).map(|(_, value)| value)
}
