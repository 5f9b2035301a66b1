//! What this host's kernel should hold, computed from all records.
//!
//! Where any network has an endpoint on this host, the filter. For every such network: a bridge, a VXLAN device, a port for each endpoint
//! here, for each endpoint elsewhere where its frames go and how its addresses are answered for, and for each multicast
//! group the hosts with members. An endpoint elsewhere counts if its node has a record with a VTEP address of this node's family that is no other node's by now
//! ([`crate::displaced`]), and if its node is not absent ([`crate::Absences`]); whether its node's lease lives does not matter
//! otherwise: a store that is away must not cut anybody off.
//!
//! Each endpoint *claims* keys of the state. Claims clash only when records contradict each other (two
//! endpoints with one address); then the endpoint of the later start, then the later made, then the greater id
//! has it, on every host alike.

use crate::{
    direct::{direct_between, takes},
    gateway::gateway,
    groups::groups,
    nodes::Nodes,
    state::{
        Bridge, Direct, FarEndSandbox, Fdb, Filter, HostState, Key, Neighbour, Object, Port, PortFarEnd,
        Vxlan, far_end_name, port_name, vxlan_name,
    },
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};
use weft_model::{
    Endpoint, EndpointId, MacAddr, Mtu, MulticastRate, Network, Node, NodeId, Snapshot, UnixSeconds, Vni,
};

/// The kernel state that `this` node should have.
///
/// Empty when the node has no record or no VTEP address: the daemon puts its own record into the snapshot
/// before it plans. The same for the same records, whatever their history.
/// Two networks with one VNI cannot come from weft; of such the one with the smaller id is planned.
pub fn plan(snapshot: &Snapshot, this: &NodeId) -> HostState {
    let mut state = HostState::new();
    let nodes = Nodes::of(snapshot.nodes.values());
    let Some(underlay) = Underlay::of(snapshot, this, &nodes) else { return state };
    state.extend(gateway(snapshot.all_endpoints().filter(|e| e.node == *this), underlay.wire));
    let mut vnis = BTreeSet::new();
    let mut direct = false;
    for (id, network) in &snapshot.networks {
        if !vnis.insert(network.vni) {
            continue;
        }
        let Some(endpoints) = snapshot.endpoints.get(id) else { continue };
        let Some(segment) = underlay.segment(network) else { continue };
        if endpoints.values().all(|e| e.node != *this) {
            continue;
        }
        let filter = state.entry(Key::Filter).or_insert_with(|| Object::Filter(filter([])));
        if let (Object::Filter(filter), Some((vni, rate))) = (filter, segment.own_rate()) {
            filter.rates.insert(vni, rate);
        }
        state.extend(underlay.devices(segment));
        direct |= segment.direct;
        let mut peers = BTreeMap::new();
        let mut in_order: Vec<_> = endpoints.iter().collect();
        in_order.sort_by_key(|(id, endpoint)| rank(id, endpoint));
        for (endpoint_id, endpoint) in in_order {
            if let Some(vtep) = underlay.peer(&endpoint.node) {
                state.insert(Key::Flood(segment.vni, vtep), Object::Flood);
                peers.insert(vtep, snapshot.groups.get(id).and_then(|all| all.get(&endpoint.node)));
            }
            for (key, object) in underlay.claims(segment, endpoint_id, endpoint) {
                match object {
                    Some(object) => state.insert(key, object),
                    None => state.remove(&key),
                };
            }
        }
        state.extend(groups(segment.vni, &peers).into_iter().map(|key| (key, Object::Group)));
    }
    if direct {
        state.extend(underlay.link_peers());
    }
    state
}

/// Of two endpoints with one address, the one whose rank is greater has it.
pub(crate) fn rank<'a>(id: &'a EndpointId, endpoint: &Endpoint) -> (u64, UnixSeconds, &'a EndpointId) {
    (endpoint.epoch, endpoint.created, id)
}

/// A key that an endpoint makes its own, and the object it puts there. `None`: that there be nothing.
pub(crate) type Claim = (Key, Option<Object>);

/// A network as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub vni: Vni,
    pub mtu: Mtu,
    /// Packets have no outer headers where it can be. Never on a host that cannot at all.
    pub direct: bool,
    pub rate: MulticastRate,
}

impl Segment {
    /// Its rate, where that is not the default.
    pub fn own_rate(&self) -> Option<(Vni, MulticastRate)> {
        (self.rate != MulticastRate::default()).then_some((self.vni, self.rate))
    }
}

/// The filter for networks with these rates.
pub(crate) fn filter(rates: impl IntoIterator<Item = (Vni, MulticastRate)>) -> Filter {
    Filter { rates: rates.into_iter().collect(), sound: true }
}

/// Another node that can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The address to reach it at.
    pub vtep: IpAddr,
    /// Packets of direct networks are taken from it, and sent to it, without outer headers.
    pub takes: bool,
    pub sends: bool,
    /// The MAC address that it sends them from, if it is on the link and does so.
    pub mac: Option<MacAddr>,
}

/// Whether frames can be sent to a VTEP of this address. A record is whatever somebody has written, and the unspecified address
/// stands for nobody (see [`Key::Group`]).
fn may_be_a_hosts(vtep: IpAddr) -> bool {
    !vtep.is_unspecified() && !vtep.is_multicast() && vtep != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// What the host `this` knows of `there`, if it can reach it.
pub(crate) fn peer(this: &Node, there: &Node, nodes: &Nodes) -> Option<Peer> {
    let ours = *this.vteps.first()?;
    // A node at our own address would have us send frames to ourselves; one that has lost its address would lose them.
    let vtep = there
        .vtep_like(ours)
        .filter(|vtep| *vtep != ours && nodes.holder(*vtep) == Some(&there.id) && may_be_a_hosts(*vtep))?;
    let (takes, sends) = (takes(this, vtep), direct_between(this, there).is_ok());
    let mac = there.direct.as_ref().filter(|_| takes).map(|link| link.mac);
    Some(Peer { vtep, takes, sends, mac })
}

/// What the nodes' records say about the wire between this node and the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Underlay {
    pub this: NodeId,
    pub vtep: IpAddr,
    pub port: u16,
    pub mtu: Option<Mtu>,
    /// The MTU of this node's wire.
    pub wire: Mtu,
    /// This node takes packets of direct networks.
    pub direct: bool,
    /// The other nodes that can be reached.
    pub peers: BTreeMap<NodeId, Peer>,
}

impl Underlay {
    /// What `snapshot` and `nodes`, which is of the same records, say.
    pub fn of(snapshot: &Snapshot, this: &NodeId, nodes: &Nodes) -> Option<Self> {
        let node = snapshot.nodes.get(this)?;
        let vtep = *node.vteps.first()?;
        let others = snapshot.nodes.keys().filter(|id| *id != this);
        let peers = others.filter_map(|id| Some((id.clone(), peer(node, snapshot.present(id)?, nodes)?)));
        let peers = peers.collect();
        let (mtu, wire, direct) = (nodes.tunnel_mtu(vtep), node.underlay_mtu, node.direct.is_some());
        Some(Self { this: this.clone(), vtep, port: node.vxlan_port, mtu, wire, direct, peers })
    }

    /// Where to send frames for `node`. `None`: it is this one, or it cannot be reached.
    pub fn peer(&self, node: &NodeId) -> Option<IpAddr> {
        self.peers.get(node).map(|peer| peer.vtep)
    }

    pub fn segment(&self, network: &Network) -> Option<Segment> {
        let direct = network.direct && self.direct;
        let rate = network.multicast_rate();
        Some(Segment { vni: network.vni, mtu: network.mtu.or(self.mtu)?, direct, rate })
    }

    /// The hosts on the link, where any network here is direct: what they send is taken also from endpoints that this host has not
    /// heard of yet.
    pub fn link_peers(&self) -> BTreeMap<Key, Object> {
        let of = |peer: &Peer| Some((Key::LinkPeer(peer.mac?), Object::LinkPeer(peer.vtep)));
        self.peers.values().filter_map(of).collect()
    }

    /// The devices that a network has on this host, whoever is on it.
    pub fn devices(&self, segment: Segment) -> [(Key, Object); 2] {
        let Segment { vni, mtu, .. } = segment;
        let mac = MacAddr::for_device(vni.get());
        let (local, port) = (self.vtep, self.port);
        [
            (Key::Bridge(vni), Object::Bridge(Bridge { mac, mtu, up: true })),
            (Key::Vxlan(vni), Object::Vxlan(Vxlan { local, port, mac, mtu, up: true, bridged: true })),
        ]
    }

    /// What an endpoint makes of the state, flooding and groups apart (they follow from its node alone).
    pub fn claims(&self, segment: Segment, id: &EndpointId, endpoint: &Endpoint) -> Vec<Claim> {
        let vni = segment.vni;
        // No frame can be sent to a group address or to zero; as a FDB key they mean something else.
        let mac = Some(endpoint.mac).filter(|mac| mac.is_unicast());
        let mut claims = Vec::with_capacity(4);
        let (fdb, neighbour) = if endpoint.node == self.this {
            let port = port_name(id);
            claims
                .push((Key::Port(vni, port.clone()), Some(Object::Port(local_port(segment, id, endpoint)))));
            // A local endpoint answers for its addresses itself.
            (Fdb { port: Some(port), vtep: None }, None)
        } else {
            let (Some(vtep), Some(mac)) = (self.peer(&endpoint.node), mac) else { return claims };
            (Fdb { port: Some(vxlan_name(vni)), vtep: Some(vtep) }, Some(Neighbour { mac }))
        };
        if let Some(mac) = mac {
            claims.push((Key::Fdb(vni, mac), Some(Object::Fdb(fdb))));
        }
        let neighbour = neighbour.map(Object::Neighbour);
        // Where IPv6 is spoken, a station has a link-local address too, which no record tells.
        let link_local = mac.filter(|_| endpoint.ipv6.is_some()).map(|mac| IpAddr::V6(mac.link_local()));
        let addresses = endpoint.addresses().chain(link_local);
        claims.extend(addresses.map(|ip| (Key::Neighbour(vni, ip), neighbour.clone())));
        if let Some(mac) = mac.filter(|_| segment.direct) {
            let peer = self.peers.get(&endpoint.node);
            let here = endpoint.node == self.this;
            let sends = peer.is_some_and(|peer| peer.sends);
            let known = here || peer.is_some_and(|peer| peer.takes);
            let nets = endpoint.ipv4.map(IpNet::V4).into_iter().chain(endpoint.ipv6.map(IpNet::V6));
            claims.extend(nets.map(|net| {
                let direct = Object::Direct(Direct { mac, prefix: net.prefix_len(), sends });
                (Key::Direct(vni, net.addr()), known.then_some(direct))
            }));
        }
        claims
    }
}

fn local_port(segment: Segment, id: &EndpointId, endpoint: &Endpoint) -> Port {
    // Once there is a sandbox (after the engine's Join, or in `weft attach`) a pair that has to be made is one
    // that was lost or that weft itself moves in: in either case it goes straight into the sandbox.
    let inside = endpoint.sandbox.as_ref().filter(|sandbox| sandbox.tap.is_none());
    let sandbox = inside.map(|sandbox| FarEndSandbox {
        path: sandbox.path.clone(),
        inode: sandbox.inode,
        interface: sandbox.interface.clone(),
        addresses: endpoint.ipv4.map(IpNet::V4).into_iter().chain(endpoint.ipv6.map(IpNet::V6)).collect(),
        gateways: Vec::new(),
    });
    let joined = endpoint.sandbox.as_ref().and_then(|sandbox| Some((sandbox, sandbox.tap.as_ref()?)));
    let tap_owner = joined.and_then(|(_, tap)| tap.owner);
    Port {
        mtu: segment.mtu,
        up: true,
        bridged: true,
        tap: joined.map(|(sandbox, _)| sandbox.interface.clone()),
        far_end: Some(Box::new(PortFarEnd { name: far_end_name(id), mac: endpoint.mac, sandbox, tap_owner })),
    }
}
