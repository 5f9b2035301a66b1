//! The desired state kept up to date: [`crate::plan`] for a cluster that changes, at the cost of the change.

use crate::{
    gateway::gateway,
    members::{Desired, Members},
    nodes::Nodes,
    plan::{Peer, Segment, Underlay, filter, peer},
    state::{Features, HostState, Key, Object},
};
use std::collections::{BTreeMap, BTreeSet};
use weft_model::{Endpoint, EndpointId, MacAddr, NetworkId, NodeId, Snapshot, Touched, Vni};

/// Holds what [`crate::plan`] would compute and follows the snapshot's changes.
///
/// A change of an endpoint costs the same in a network of ten members and of a hundred thousand, unless it is the
/// first or last of its network on this host. A node's costs as much as it has endpoints on networks of this
/// host; a network's as much as it has members; a changed MTU or address of this host, everything.
/// It must be told of every change; changes may be told after the snapshot has moved on, in any order.
pub struct Planner {
    this: NodeId,
    nodes: Nodes,
    underlay: Option<Underlay>,
    vnis: BTreeMap<NetworkId, Vni>,
    networks_by_vni: BTreeMap<Vni, BTreeSet<NetworkId>>,
    /// The networks with an endpoint on this host.
    members: BTreeMap<NetworkId, Members>,
    /// The endpoints on this host that carry a way out.
    outside: BTreeMap<(NetworkId, EndpointId), Endpoint>,
    /// A node has changed, or a network has come or gone: see [`Planner::plan_link_peers`].
    link_peers_due: bool,
    desired: Desired,
    features: Features,
}

impl Planner {
    /// A planner for this node, with nothing planned.
    pub fn new(this: NodeId) -> Self {
        Self {
            this,
            nodes: Nodes::default(),
            underlay: None,
            vnis: BTreeMap::new(),
            networks_by_vni: BTreeMap::new(),
            members: BTreeMap::new(),
            outside: BTreeMap::new(),
            link_peers_due: false,
            desired: Desired::default(),
            features: Features::default(),
        }
    }

    /// The same for a kernel with these features: objects that it cannot have are left out.
    #[must_use]
    pub fn for_kernel(self, features: Features) -> Self {
        Self { features, ..self }
    }

    /// What the kernel should hold: [`crate::plan`] of the snapshot last seen.
    pub fn desired(&self) -> &HostState {
        &self.desired.state
    }

    /// Begins again with this snapshot, and tells the keys whose objects changed.
    pub fn reset(&mut self, snapshot: &Snapshot) -> BTreeSet<Key> {
        self.plan_all(snapshot);
        self.plan_link_peers();
        self.desired.take_changed()
    }

    /// Takes note of one change, which the snapshot already has, and tells the keys whose objects changed.
    pub fn update(&mut self, snapshot: &Snapshot, touched: &Touched) -> BTreeSet<Key> {
        match touched {
            Touched::Node(node) => self.node_changed(snapshot, node),
            Touched::Network(network) => self.network_changed(snapshot, network),
            Touched::Endpoint(network, id) => {
                if snapshot.networks.get(network).map(|n| n.vni) != self.vnis.get(network).copied() {
                    // This was told before the network's own change.
                    self.network_changed(snapshot, network);
                }
                let endpoint = snapshot.endpoint(network, id);
                let told = snapshot.groups.get(network);
                self.outside_changed(network, id, endpoint);
                if let (Some(members), Some(underlay)) = (self.members.get_mut(network), &self.underlay) {
                    members.put(underlay, id, endpoint, told, &mut self.desired);
                    if !members.any_on(&self.this) {
                        self.withdraw(network);
                    }
                } else if endpoint.is_some_and(|e| e.node == self.this) {
                    self.settle(snapshot, network);
                }
            }
            Touched::Groups(network, node) => {
                if let (Some(members), Some(underlay)) = (self.members.get_mut(network), &self.underlay) {
                    members.put_groups(underlay, node, snapshot.groups.get(network), &mut self.desired);
                }
            }
            Touched::Address(..) | Touched::Binding(..) | Touched::Other => {}
        }
        self.plan_link_peers();
        self.desired.take_changed()
    }

    /// As [`Planner::update`] for each of them.
    pub fn update_all(&mut self, snapshot: &Snapshot, touched: &BTreeSet<Touched>) -> BTreeSet<Key> {
        touched.iter().flat_map(|touched| self.update(snapshot, touched)).collect()
    }

    fn plan_all(&mut self, snapshot: &Snapshot) {
        self.link_peers_due = true;
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            self.withdraw(&id);
        }
        self.nodes = Nodes::of(snapshot.nodes.values());
        self.underlay = Underlay::of(snapshot, &self.this, &self.nodes);
        // By the keys, as they change: of a damaged record the ids may be another's.
        let ours = snapshot.endpoints.iter().flat_map(|(network, all)| {
            let outside = all.iter().filter(|(_, e)| e.node == self.this && e.outside.is_some());
            outside.map(|(id, e)| ((network.clone(), id.clone()), e.as_ref().clone()))
        });
        self.outside = ours.collect();
        self.plan_gateway();
        self.vnis = snapshot.networks.iter().map(|(id, network)| (id.clone(), network.vni)).collect();
        self.networks_by_vni.clear();
        for (id, vni) in &self.vnis {
            self.networks_by_vni.entry(*vni).or_default().insert(id.clone());
        }
        for id in snapshot.networks.keys() {
            self.settle(snapshot, id);
        }
    }

    fn outside_changed(&mut self, network: &NetworkId, id: &EndpointId, endpoint: Option<&Endpoint>) {
        let key = (network.clone(), id.clone());
        let new = endpoint.filter(|e| e.node == self.this && e.outside.is_some());
        let old = match new {
            Some(new) => self.outside.insert(key, new.clone()),
            None => self.outside.remove(&key),
        };
        if old.as_ref() != new {
            self.plan_gateway();
        }
    }

    /// Plans the gateway, at the cost of the sandboxes of this host that are led out.
    fn plan_gateway(&mut self) {
        let planned = match &self.underlay {
            Some(underlay) => gateway(self.outside.values(), underlay.wire),
            None => BTreeMap::new(),
        };
        self.desired.replace(Key::Gateway.., planned);
    }

    /// Plans the hosts on the link, as long as a network here is direct.
    fn plan_link_peers(&mut self) {
        if !std::mem::take(&mut self.link_peers_due) {
            return;
        }
        let direct = self.members.values().any(|members| members.segment().direct);
        let underlay = self.underlay.as_ref().filter(|_| direct);
        let planned = underlay.map(Underlay::link_peers).unwrap_or_default();
        self.desired.replace(Key::LinkPeer(MacAddr::ZERO)..Key::Gateway, planned);
    }

    fn node_changed(&mut self, snapshot: &Snapshot, id: &NodeId) {
        let concerned = self.nodes.put(id, snapshot.nodes.get(id));
        let this = snapshot.nodes.get(&self.this);
        let (Some(this), Some(underlay)) = (this.filter(|_| *id != self.this), &self.underlay) else {
            return self.this_changed(snapshot);
        };
        if self.nodes.tunnel_mtu(underlay.vtep) != underlay.mtu {
            return self.plan_all(snapshot);
        }
        let known = |id: NodeId| {
            let peer = snapshot.present(&id).and_then(|there| peer(this, there, &self.nodes));
            (id, peer)
        };
        let peers = concerned.into_iter().filter(|id| *id != self.this).map(known).collect();
        self.put_peers(snapshot, peers);
    }

    /// This host's own record has changed, which all others are seen from.
    fn this_changed(&mut self, snapshot: &Snapshot) {
        let new = Underlay::of(snapshot, &self.this, &self.nodes);
        let own = |u: &Underlay| (u.vtep, u.port, u.mtu, u.wire, u.direct);
        let (Some(old), Some(new)) = (&self.underlay, new.as_ref()) else {
            if self.underlay != new {
                self.plan_all(snapshot);
            }
            return;
        };
        if own(old) != own(new) {
            return self.plan_all(snapshot);
        }
        let both: BTreeSet<&NodeId> = old.peers.keys().chain(new.peers.keys()).collect();
        let peers = both.into_iter().map(|id| (id.clone(), new.peers.get(id).cloned())).collect();
        self.put_peers(snapshot, peers);
    }

    /// Takes in what is known of other nodes, or that they cannot be reached, at the cost of the endpoints on those that changed.
    fn put_peers(&mut self, snapshot: &Snapshot, peers: Vec<(NodeId, Option<Peer>)>) {
        let Some(underlay) = &mut self.underlay else { return };
        let mut changed = Vec::new();
        for (id, peer) in peers {
            if underlay.peers.get(&id) == peer.as_ref() {
                continue;
            }
            match peer {
                Some(peer) => underlay.peers.insert(id.clone(), peer),
                None => underlay.peers.remove(&id),
            };
            changed.push(id);
        }
        self.link_peers_due |= !changed.is_empty();
        for (network, members) in &mut self.members {
            let told = snapshot.groups.get(network);
            let ids: Vec<_> = changed.iter().flat_map(|node| members.on(node)).collect();
            for id in ids {
                members.put(underlay, &id, snapshot.endpoint(network, &id), told, &mut self.desired);
            }
        }
    }

    /// Follows a network's record. Where what the kernel sees of it is the same, nothing is planned again.
    fn network_changed(&mut self, snapshot: &Snapshot, id: &NetworkId) {
        let vni = snapshot.networks.get(id).map(|network| network.vni);
        let old = match vni {
            Some(vni) => self.vnis.insert(id.clone(), vni),
            None => self.vnis.remove(id),
        };
        if old != vni {
            if let Some(old) = old
                && let Some(networks) = self.networks_by_vni.get_mut(&old)
            {
                networks.remove(id);
                if networks.is_empty() {
                    self.networks_by_vni.remove(&old);
                }
            }
            if let Some(vni) = vni {
                self.networks_by_vni.entry(vni).or_default().insert(id.clone());
            }
        }
        // Those that had to give way to it, or now have to.
        let others = [old, vni].into_iter().flatten().filter_map(|vni| self.networks_by_vni.get(&vni));
        let mut affected: BTreeSet<NetworkId> = others.flatten().cloned().collect();
        affected.insert(id.clone());
        // First what goes, then what comes: both may stand at the same keys.
        for id in &affected {
            let wanted = self.segment(snapshot, id);
            if self.members.get(id).is_some_and(|members| Some(members.segment()) != wanted) {
                self.withdraw(id);
            }
        }
        for id in &affected {
            self.settle(snapshot, id);
        }
    }

    /// What the kernel should see of a network, if anything.
    fn segment(&self, snapshot: &Snapshot, id: &NetworkId) -> Option<Segment> {
        let network = snapshot.networks.get(id)?;
        let owner = self.networks_by_vni.get(&network.vni)?.first()?;
        if owner == id { self.underlay.as_ref()?.segment(network) } else { None }
    }

    /// Plans a network that is not planned yet, if it should be.
    fn settle(&mut self, snapshot: &Snapshot, id: &NetworkId) {
        if self.members.contains_key(id) {
            return;
        }
        let (Some(segment), Some(endpoints)) = (self.segment(snapshot, id), snapshot.endpoints.get(id))
        else {
            return;
        };
        let Some(underlay) = &self.underlay else { return };
        if endpoints.values().all(|endpoint| endpoint.node != self.this) {
            return;
        }
        let mut members = Members::new(underlay, segment, self.features.groups, &mut self.desired);
        for (endpoint, record) in endpoints {
            members.put(underlay, endpoint, Some(record), snapshot.groups.get(id), &mut self.desired);
        }
        self.members.insert(id.clone(), members);
        self.link_peers_due = true;
        self.plan_filter();
    }

    fn withdraw(&mut self, id: &NetworkId) {
        if let Some(members) = self.members.remove(id) {
            members.withdraw(&mut self.desired);
            self.link_peers_due = true;
            self.plan_filter();
        }
    }

    fn plan_filter(&mut self) {
        let needed = self.features.filter && !self.members.is_empty();
        let rates = self.members.values().filter_map(|members| members.segment().own_rate());
        self.desired.set(Key::Filter, needed.then(|| Object::Filter(filter(rates))));
    }
}
