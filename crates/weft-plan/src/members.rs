//! Who is on a network that this host has a part in, and which kernel objects each of them makes.
//!
//! The index behind [`crate::Planner`]: one endpoint's change is worked out from that endpoint and those that
//! claim the same keys, however many others there are.

use crate::{
    groups::Groups,
    plan::{Claim, Segment, Underlay},
    state::{HostState, Key, Object},
};
use smallvec::SmallVec;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeBounds,
};
use weft_model::{Endpoint, EndpointId, NodeId, UnixSeconds, schema::Memberships};

/// The state that is being planned, and what each key was before it was touched.
#[derive(Default)]
pub(crate) struct Desired {
    pub state: HostState,
    before: BTreeMap<Key, Option<Object>>,
}

impl Desired {
    pub fn set(&mut self, key: Key, object: Option<Object>) {
        let old = match object {
            Some(object) => self.state.insert(key.clone(), object),
            None => self.state.remove(&key),
        };
        self.before.entry(key).or_insert(old);
    }

    /// Puts these objects in the place of all that stand in a range of keys.
    pub fn replace(&mut self, range: impl RangeBounds<Key>, planned: BTreeMap<Key, Object>) {
        let present = self.state.range(range).map(|(key, _)| key);
        let gone: Vec<Key> = present.filter(|key| !planned.contains_key(key)).cloned().collect();
        for key in gone {
            self.set(key, None);
        }
        for (key, object) in planned {
            self.set(key, Some(object));
        }
    }

    /// The keys whose objects are others than at the last call.
    pub fn take_changed(&mut self) -> BTreeSet<Key> {
        let before = std::mem::take(&mut self.before);
        let changed = before.into_iter().filter(|(key, old)| self.state.get(key) != old.as_ref());
        changed.map(|(key, _)| key).collect()
    }
}

/// What an endpoint's record, as last seen, has made.
struct Made {
    node: NodeId,
    epoch: u64,
    created: UnixSeconds,
    /// The VTEP that it makes frames be flooded to.
    vtep: Option<IpAddr>,
    claims: Box<[Claim]>,
}

/// The members of one network.
pub(crate) struct Members {
    segment: Segment,
    made: BTreeMap<EndpointId, Made>,
    /// Who claims a key. More than one only where records contradict each other.
    claimants: BTreeMap<Key, SmallVec<[EndpointId; 1]>>,
    by_node: BTreeMap<NodeId, BTreeSet<EndpointId>>,
    /// How many endpoints there are behind a VTEP.
    flood: BTreeMap<IpAddr, usize>,
    /// `None`: this host's kernel cannot tell groups apart.
    groups: Option<Groups>,
}

/// What the nodes on a network tell of their multicast groups.
pub(crate) type Told = BTreeMap<NodeId, Memberships>;

impl Members {
    /// A network without members: its devices.
    pub fn new(underlay: &Underlay, segment: Segment, with_groups: bool, desired: &mut Desired) -> Self {
        for (key, object) in underlay.devices(segment) {
            desired.set(key, Some(object));
        }
        let (made, claimants) = (BTreeMap::new(), BTreeMap::new());
        let (by_node, flood) = (BTreeMap::new(), BTreeMap::new());
        let groups = with_groups.then(|| Groups::new(segment.vni, desired));
        Self { segment, made, claimants, by_node, flood, groups }
    }

    pub fn segment(&self) -> Segment {
        self.segment
    }

    pub fn any_on(&self, node: &NodeId) -> bool {
        self.by_node.contains_key(node)
    }

    /// The endpoints on `node`.
    pub fn on(&self, node: &NodeId) -> Vec<EndpointId> {
        self.by_node.get(node).into_iter().flatten().cloned().collect()
    }

    /// Takes note of what a node tells of its multicast groups now.
    pub fn put_groups(
        &mut self,
        underlay: &Underlay,
        node: &NodeId,
        told: Option<&Told>,
        desired: &mut Desired,
    ) {
        let vtep = underlay.peer(node).filter(|_| self.any_on(node));
        if let Some(groups) = &mut self.groups {
            groups.put(node, vtep, told.and_then(|told| told.get(node)), desired);
        }
    }

    /// Takes note of an endpoint's record as it is now, or of its end.
    pub fn put(
        &mut self,
        underlay: &Underlay,
        id: &EndpointId,
        endpoint: Option<&Endpoint>,
        told: Option<&Told>,
        desired: &mut Desired,
    ) {
        let before = self.made.get(id).map(|made| made.node.clone());
        let mut keys = self.forget(id);
        if let Some(endpoint) = endpoint {
            let made = Made {
                node: endpoint.node.clone(),
                epoch: endpoint.epoch,
                created: endpoint.created,
                vtep: underlay.peer(&endpoint.node),
                claims: underlay.claims(self.segment, id, endpoint).into(),
            };
            keys.append(&mut self.enter(id, made));
        }
        for key in keys {
            let object = self.object_at(&key);
            desired.set(key, object);
        }
        for node in before.iter().chain(endpoint.map(|endpoint| &endpoint.node)) {
            self.put_groups(underlay, node, told, desired);
        }
    }

    /// Takes all of it out of the state.
    pub fn withdraw(self, desired: &mut Desired) {
        let vni = self.segment.vni;
        let devices = [Key::Bridge(vni), Key::Vxlan(vni)].into_iter();
        let flood = self.flood.into_keys().map(|vtep| Key::Flood(vni, vtep));
        for key in devices.chain(flood).chain(self.claimants.into_keys()) {
            desired.set(key, None);
        }
        if let Some(groups) = self.groups {
            groups.withdraw(desired);
        }
    }

    fn enter(&mut self, id: &EndpointId, made: Made) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        for (key, _) in &made.claims {
            self.claimants.entry(key.clone()).or_default().push(id.clone());
            keys.insert(key.clone());
        }
        if let Some(vtep) = made.vtep {
            *self.flood.entry(vtep).or_default() += 1;
            keys.insert(Key::Flood(self.segment.vni, vtep));
        }
        self.by_node.entry(made.node.clone()).or_default().insert(id.clone());
        self.made.insert(id.clone(), made);
        keys
    }

    fn forget(&mut self, id: &EndpointId) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        let Some(made) = self.made.remove(id) else { return keys };
        for (key, _) in made.claims {
            if let Some(claimants) = self.claimants.get_mut(&key) {
                claimants.retain(|other| other != id);
                if claimants.is_empty() {
                    self.claimants.remove(&key);
                }
            }
            keys.insert(key);
        }
        if let Some(vtep) = made.vtep {
            if let Some(count) = self.flood.get_mut(&vtep) {
                *count -= 1;
                if *count == 0 {
                    self.flood.remove(&vtep);
                }
            }
            keys.insert(Key::Flood(self.segment.vni, vtep));
        }
        if let Some(ids) = self.by_node.get_mut(&made.node) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_node.remove(&made.node);
            }
        }
        keys
    }

    /// What stands at a key: flooding where somebody is behind the VTEP, else what the claimant of the greatest
    /// rank (see [`crate::plan::rank`]) puts there.
    fn object_at(&self, key: &Key) -> Option<Object> {
        if let Key::Flood(_, vtep) = key {
            return self.flood.contains_key(vtep).then_some(Object::Flood);
        }
        let claimants = self.claimants.get(key)?.iter().filter_map(|id| Some((id, self.made.get(id)?)));
        let (_, winner) = claimants.max_by_key(|(id, made)| (made.epoch, made.created, *id))?;
        winner.claims.iter().find(|(claimed, _)| claimed == key)?.1.clone()
    }
}
