//! The kernel objects of one host, as values: the same type for what should be and for what is.

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};
use weft_model::{EndpointId, MacAddr, Mtu, MulticastRate, PublishedPort, Vni};

/// All kernel objects of weft's on one host: those that should be there, or those that were seen.
pub type HostState = BTreeMap<Key, Object>;

/// Which object. The order is the order of creation: an object depends only on ones before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The rules for what leaves the overlay namespace by VXLAN devices; they are there once at most.
    Filter,
    /// A network's bridge.
    Bridge(Vni),
    /// A network's VXLAN device, a port of its bridge.
    Vxlan(Vni),
    /// The host-side end of an endpoint's veth pair, a port of the bridge. Named by device, not by endpoint:
    /// of an unknown one that was found, the name is all there is.
    Port(Vni, String),
    /// A peer VTEP that gets a copy of every broadcast and unknown-destination frame, and of multicast of link-local scope.
    Flood(Vni, IpAddr),
    /// Where frames for a MAC address go.
    Fdb(Vni, MacAddr),
    /// The MAC address of a remote endpoint's address: how ARP and ND are answered on this host.
    Neighbour(Vni, IpAddr),
    /// A peer VTEP that gets the frames to a multicast group. The unspecified address as the group stands for all groups
    /// (of its family) that no peer is a member of; as the VTEP, for nobody.
    Group(Vni, IpAddr, IpAddr),
    /// An address of a direct network whose packets have no outer headers: of an endpoint here, or on a host on this one's link.
    Direct(Vni, IpAddr),
    /// A host on this one's link, by the MAC address that it sends packets of direct networks from.
    LinkPeer(MacAddr),
    /// The rules of the host's namespace for sandboxes that are led out; they are there once at most.
    Gateway,
    /// The host-side end of a sandbox's way out, in the host's namespace. Named by device.
    GatewayPort(String),
}

impl Key {
    /// The network it belongs to; `None`: to the host.
    pub fn vni(&self) -> Option<Vni> {
        match self {
            Self::Bridge(vni)
            | Self::Vxlan(vni)
            | Self::Port(vni, _)
            | Self::Flood(vni, _)
            | Self::Fdb(vni, _)
            | Self::Neighbour(vni, _)
            | Self::Group(vni, ..)
            | Self::Direct(vni, _) => Some(*vni),
            Self::Filter | Self::LinkPeer(_) | Self::Gateway | Self::GatewayPort(_) => None,
        }
    }

    /// The kind of object, in the words of status and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Bridge(_) => "bridge",
            Self::Vxlan(_) => "vxlan",
            Self::Port(..) => "port",
            Self::Flood(..) => "flood",
            Self::Fdb(..) => "fdb",
            Self::Neighbour(..) => "neighbour",
            Self::Group(..) => "group",
            Self::Direct(..) => "direct",
            Self::LinkPeer(_) => "link peer",
            Self::Gateway => "gateway",
            Self::GatewayPort(_) => "gateway port",
        }
    }
}

impl fmt::Display for Key {
    /// `fdb 02:42:0a:00:00:02 (VNI 4096)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter => f.write_str("filter"),
            Self::Bridge(vni) => write!(f, "bridge {}", bridge_name(*vni)),
            Self::Vxlan(vni) => write!(f, "vxlan {}", vxlan_name(*vni)),
            Self::Port(vni, device) => write!(f, "port {device} (VNI {vni})"),
            Self::Flood(vni, vtep) => write!(f, "flood {vtep} (VNI {vni})"),
            Self::Fdb(vni, mac) => write!(f, "fdb {mac} (VNI {vni})"),
            Self::Neighbour(vni, ip) => write!(f, "neighbour {ip} (VNI {vni})"),
            Self::Group(vni, group, vtep) => write!(f, "group {group} to {vtep} (VNI {vni})"),
            Self::Direct(vni, ip) => write!(f, "direct {ip} (VNI {vni})"),
            Self::LinkPeer(mac) => write!(f, "link peer {mac}"),
            Self::Gateway => f.write_str("gateway"),
            Self::GatewayPort(device) => write!(f, "gateway port {device}"),
        }
    }
}

/// The keys of one network in a state, found without looking at the others.
pub(crate) fn keys_of(state: &HostState, vni: Vni) -> impl Iterator<Item = &Key> {
    let lowest = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let starts = [
        Key::Bridge(vni),
        Key::Vxlan(vni),
        Key::Port(vni, String::new()),
        Key::Flood(vni, lowest),
        Key::Fdb(vni, MacAddr::ZERO),
        Key::Neighbour(vni, lowest),
        Key::Group(vni, lowest, lowest),
        Key::Direct(vni, lowest),
    ];
    starts.into_iter().flat_map(move |start| {
        let kind = start.kind();
        let from_start = state.range(start..).map(|(key, _)| key);
        from_start.take_while(move |key| key.kind() == kind && key.vni() == Some(vni))
    })
}

/// An object's attributes. Its kind is its key's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// See [`Key::Filter`].
    Filter(Filter),
    /// See [`Key::Bridge`].
    Bridge(Bridge),
    /// See [`Key::Vxlan`].
    Vxlan(Vxlan),
    /// See [`Key::Port`].
    Port(Port),
    /// See [`Key::Flood`]: there or not.
    Flood,
    /// See [`Key::Fdb`].
    Fdb(Fdb),
    /// See [`Key::Neighbour`].
    Neighbour(Neighbour),
    /// See [`Key::Group`]: there or not.
    Group,
    /// See [`Key::Direct`].
    Direct(Direct),
    /// See [`Key::LinkPeer`]: its VTEP.
    LinkPeer(IpAddr),
    /// See [`Key::Gateway`]. Boxed, as the next: with networks of 100,000 endpoints, all others would take a third more.
    Gateway(Box<Gateway>),
    /// See [`Key::GatewayPort`].
    GatewayPort(Box<GatewayPort>),
}

/// What may not leave by VXLAN devices: IGMP and MLD, since every host's bridges are the queriers for their own ports (two that
/// hear one another fall silent in turn, and memberships end meanwhile); and of broadcast and multicast what an endpoint sends
/// above its network's rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The rates of the networks here that have another than the default.
    pub rates: BTreeMap<Vni, MulticastRate>,
    /// Whether the rules are what they should be.
    pub sound: bool,
}

/// A network's bridge: nothing learned, no STP. It snoops who is a member of which multicast group, and asks for that
/// itself; so it has a link-local address, and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its MAC address, set at creation.
    pub mac: MacAddr,
    /// Its MTU: the network's.
    pub mtu: Mtu,
    /// Whether it is administratively up.
    pub up: bool,
}

/// A network's VXLAN device: its UDP socket is in the host's namespace, the device in the overlay namespace;
/// no learning, ARP and ND answered by it (`proxy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// This host's VTEP address: the outer source of every frame.
    pub local: IpAddr,
    /// The UDP destination port.
    pub port: u16,
    /// Its MAC address, set at creation.
    pub mac: MacAddr,
    /// Its MTU: the network's.
    pub mtu: Mtu,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is a port of the network's bridge with learning off, to which all multicast goes.
    pub bridged: bool,
}

/// The host-side end of an endpoint's veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its MTU.
    pub mtu: Mtu,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is a port of the network's bridge with learning off.
    pub bridged: bool,
    /// The tap device in the host's namespace that the other end is joined with, in both directions and with this MTU.
    pub tap: Option<String>,
    /// What to do with the other end when the pair has to be made. `None` in what was observed, and without
    /// part in comparisons: whether the other end is right is the sandbox's affair.
    pub far_end: Option<Box<PortFarEnd>>,
}

/// The other end of a veth pair, at its creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFarEnd {
    /// Its name as long as it is in the host's namespace: see [`far_end_name`].
    pub name: String,
    /// Its MAC address: the endpoint's.
    pub mac: MacAddr,
    /// Where weft moves it and how it is set up there. `None`: it stays in the host's namespace for the engine
    /// to take, or joined with a tap device.
    pub sandbox: Option<FarEndSandbox>,
    /// The user, by number, that may open the tap device if weft has to make it.
    pub tap_owner: Option<u32>,
}

/// How the far end is set up in its sandbox by weft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FarEndSandbox {
    /// The namespace's path; [`weft_model::Sandbox::HOST`] is the host's own.
    pub path: String,
    /// The number of the namespace's file, if it must have that one: see [`weft_model::Sandbox::inode`].
    pub inode: Option<u64>,
    /// The interface's name in there.
    pub interface: String,
    /// Its addresses with the subnets' prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Where its default routes lead; none on overlays.
    pub gateways: Vec<IpAddr>,
}

/// Where frames for a MAC address go: for a local endpoint to its port, for a remote one to the VXLAN device
/// and from there to a VTEP. What was observed may be half of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fdb {
    /// The device that the bridge's static entry names.
    pub port: Option<String>,
    /// The destination in the VXLAN device's entry.
    pub vtep: Option<IpAddr>,
}

/// A permanent neighbour entry on the VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The endpoint's MAC address.
    pub mac: MacAddr,
}

/// An entry of the fast path's that the kernel's own tables know nothing of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// The endpoint's MAC address.
    pub mac: MacAddr,
    /// The length of its subnet's prefix.
    pub prefix: u8,
    /// Packets to it leave this host without outer headers. `false`: they are only taken from it, or it is here.
    pub sends: bool,
}

/// What leads sandboxes out: the host forwards, their addresses become the host's, ports of the host lead in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The subnets of their addresses: one of each family, but for those of an earlier configuration that sandboxes still
    /// have.
    pub subnets: BTreeSet<IpNet>,
    /// The ports of the host that lead into sandboxes.
    pub published: BTreeSet<Published>,
    /// Whether the rules are what they should be for these subnets and ports, and the host forwards.
    pub sound: bool,
}

/// The host-side end of a sandbox's way out. No bridge: the host routes to each sandbox by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPort {
    /// Its MTU: the wire's.
    pub mtu: Mtu,
    /// Whether it is administratively up and set as weft sets it.
    pub up: bool,
    /// Its own addresses, where the sandbox's default routes lead.
    pub gateways: BTreeSet<IpAddr>,
    /// The sandbox's addresses, to which the host's routes lead through it.
    pub sandbox: BTreeSet<IpAddr>,
    /// As [`Port::far_end`].
    pub far_end: Option<Box<PortFarEnd>>,
}

/// Ports of the host that lead into a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Published {
    /// Which.
    pub port: PublishedPort,
    /// The sandbox's address on the gateway.
    pub to: IpAddr,
}

/// What a kernel can do that not every kernel can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// VXLAN devices tell multicast groups apart (Linux 6.4). Without it multicast is flooded as broadcast is.
    pub groups: bool,
    /// There is a packet filter for bridges (nftables). Without it bridges do not snoop, and all multicast is flooded.
    pub filter: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self { groups: true, filter: true }
    }
}

/// One change to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Make it: it was not there.
    Create(Key, Object),
    /// Make it as it should be, in place: it is there with other attributes.
    Change {
        /// Which.
        key: Key,
        /// As it is.
        from: Object,
        /// As it should be.
        to: Object,
    },
    /// Remove it.
    Remove(Key),
}

impl Op {
    /// The object it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Create(key, _) | Self::Change { key, .. } | Self::Remove(key) => key,
        }
    }
}

/// The name of a network's bridge: `weft-br4096`. At most 15 bytes, as IFNAMSIZ demands.
pub fn bridge_name(vni: Vni) -> String {
    format!("weft-br{vni}")
}

/// The name of a network's VXLAN device: `weft-vx4096`.
pub fn vxlan_name(vni: Vni) -> String {
    format!("weft-vx{vni}")
}

/// What the names of gateway ports begin with; nothing else of weft's does.
pub const GATEWAY_PORTS: &str = "weftg";

/// The name of the host-side end of a sandbox's way out: `weftg` and ten digits of the id that it is named after.
pub fn gateway_port_name(outside: &EndpointId) -> String {
    format!("{GATEWAY_PORTS}{}", outside.first(10))
}

/// The name of the host-side end of an endpoint's veth pair: `weft-` and ten digits of its id.
pub fn port_name(endpoint: &EndpointId) -> String {
    format!("weft-{}", endpoint.first(10))
}

/// The name of the other end until it is moved into its sandbox: `weftc` and ten digits of the endpoint's id.
pub fn far_end_name(endpoint: &EndpointId) -> String {
    format!("weftc{}", endpoint.first(10))
}
