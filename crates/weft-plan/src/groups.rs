//! To which hosts multicast goes: frames to a group that anybody on the network is a member of, to the members' hosts; all else
//! to nobody. A host that does not tell its memberships gets both.

use crate::{
    members::Desired,
    state::{Key, Object},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weft_model::{
    NodeId, Vni,
    schema::{Memberships, is_told_of},
};

/// All groups of a family that nobody is a member of.
const UNREGISTERED: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
/// The VXLAN device drops what has the unspecified address as its destination. Without any entry for them it would flood
/// such frames.
const NOBODY: IpAddr = UNREGISTERED[0];

/// The keys of one network, given what each peer VTEP's node tells of its memberships.
pub(crate) fn groups(vni: Vni, peers: &BTreeMap<IpAddr, Option<&Memberships>>) -> BTreeSet<Key> {
    let mut keys: BTreeSet<Key> = to_nobody(vni).into();
    let told = peers.values().flatten().flat_map(|told| told_of(told));
    for group in told.chain(UNREGISTERED) {
        let gets = |told: Option<&Memberships>| told.is_none_or(|told| told_of(told).any(|g| g == group));
        let vteps = peers.iter().filter(|(_, told)| gets(**told));
        keys.extend(vteps.map(|(vtep, _)| Key::Group(vni, group, *vtep)));
    }
    keys
}

/// What a network has whoever is on it.
fn to_nobody(vni: Vni) -> [Key; 2] {
    UNREGISTERED.map(|group| Key::Group(vni, group, NOBODY))
}

/// A record is whatever somebody has written.
fn told_of(told: &Memberships) -> impl Iterator<Item = IpAddr> {
    told.groups.iter().copied().filter(|group| is_told_of(*group))
}

/// What a node has contributed.
#[derive(PartialEq, Eq)]
struct Told {
    vtep: IpAddr,
    /// `None`: it does not tell, and gets everything.
    groups: Option<BTreeSet<IpAddr>>,
}

/// [`groups`] of one network, kept up to date at the cost of the change: a node's memberships cost as much as it tells of,
/// unless it begins or ceases to tell.
pub(crate) struct Groups {
    vni: Vni,
    told: BTreeMap<NodeId, Told>,
    /// How many nodes at a VTEP are members; more than one only while addresses change hands.
    members: BTreeMap<IpAddr, BTreeMap<IpAddr, usize>>,
    /// The VTEPs that get everything, in the same way.
    all: BTreeMap<IpAddr, usize>,
}

impl Groups {
    /// Those of a network with nobody elsewhere on it.
    pub fn new(vni: Vni, desired: &mut Desired) -> Self {
        for key in to_nobody(vni) {
            desired.set(key, Some(Object::Group));
        }
        Self { vni, told: BTreeMap::new(), members: BTreeMap::new(), all: BTreeMap::new() }
    }

    /// Takes note of a node's memberships as they are now. `vtep`: where it is reached; `None`: it has no endpoint on the
    /// network, or cannot be reached.
    pub fn put(
        &mut self,
        node: &NodeId,
        vtep: Option<IpAddr>,
        memberships: Option<&Memberships>,
        desired: &mut Desired,
    ) {
        let now = vtep.map(|vtep| Told { vtep, groups: memberships.map(|told| told_of(told).collect()) });
        if self.told.get(node) == now.as_ref() {
            return;
        }
        let mut touched = BTreeSet::new();
        if let Some(before) = self.told.remove(node) {
            self.count(&before, &mut touched, |counts, vtep| {
                if let Some(count) = counts.get_mut(&vtep) {
                    *count -= 1;
                    if *count == 0 {
                        counts.remove(&vtep);
                    }
                }
            });
        }
        if let Some(now) = now {
            self.count(&now, &mut touched, |counts, vtep| *counts.entry(vtep).or_default() += 1);
            self.told.insert(node.clone(), now);
        }
        for (group, vtep) in touched {
            let there = self.is_there(group, vtep);
            desired.set(Key::Group(self.vni, group, vtep), there.then_some(Object::Group));
        }
    }

    /// Takes all of it out of the state.
    pub fn withdraw(self, desired: &mut Desired) {
        let all = UNREGISTERED.iter().chain(self.members.keys());
        let all = all.flat_map(|group| {
            let members = self.members.get(group).into_iter().flat_map(BTreeMap::keys);
            members.chain(self.all.keys()).map(|vtep| Key::Group(self.vni, *group, *vtep))
        });
        for key in all.chain(to_nobody(self.vni)) {
            desired.set(key, None);
        }
    }

    /// Counts a node's contribution in or out, and adds what may have come or gone with it to `touched`.
    fn count(
        &mut self,
        told: &Told,
        touched: &mut BTreeSet<(IpAddr, IpAddr)>,
        count: impl Fn(&mut BTreeMap<IpAddr, usize>, IpAddr),
    ) {
        let vtep = told.vtep;
        let Some(groups) = &told.groups else {
            count(&mut self.all, vtep);
            touched.extend(UNREGISTERED.iter().chain(self.members.keys()).map(|group| (*group, vtep)));
            return;
        };
        for group in groups {
            let members = self.members.entry(*group).or_default();
            let before = members.len();
            count(members, vtep);
            touched.insert((*group, vtep));
            if before == 0 || members.is_empty() {
                // Its first member or its last: those who get everything have an entry for each group.
                touched.extend(self.all.keys().map(|vtep| (*group, *vtep)));
            }
            if members.is_empty() {
                self.members.remove(group);
            }
        }
    }

    fn is_there(&self, group: IpAddr, vtep: IpAddr) -> bool {
        if UNREGISTERED.contains(&group) {
            return self.all.contains_key(&vtep);
        }
        self.members
            .get(&group)
            .is_some_and(|members| members.contains_key(&vtep) || self.all.contains_key(&vtep))
    }
}
