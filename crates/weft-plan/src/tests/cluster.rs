//! Small clusters to plan for, written down or made at random.

use crate::{HostState, model_kernel::as_observed};
use proptest::prelude::*;
use std::{collections::BTreeMap, net::IpAddr, str::FromStr};
use weft_model::{
    AddressDriver, Change, DirectLink, Endpoint, EndpointId, MacAddr, Mtu, MulticastRate, Network, NetworkId,
    Node, NodeId, Outside, PortProtocol, PublishedPort, Sandbox, Snapshot, Subnet, Touched, Vni, encode,
    schema::{self, Memberships},
};

/// The id of the `n`th object. Numbers 3 and 4 differ only behind the tenth digit, from which names of devices
/// are not made.
pub fn id<T: FromStr<Err: std::fmt::Debug>>(n: usize) -> T {
    let visible = if n == 4 { 3 } else { n };
    format!("{visible:010x}{n:08x}").parse().unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

/// A node with these VTEP addresses on a wire of this MTU.
pub fn node(n: usize, vteps: &[&str], mtu: u32) -> Node {
    Node {
        id: id(n),
        name: format!("h{n}"),
        vteps: vteps.iter().map(|text| ip(text)).collect(),
        vxlan_port: 4789,
        underlay_mtu: Mtu::new(mtu).unwrap(),
        advertise: None,
        version: "0.1.0".to_owned(),
        epoch: 1,
        started: 0,
        routes: vec![],
        direct: None,
    }
}

/// A network on 10.9.0.0/24.
pub fn network(n: usize, vni_number: u32) -> Network {
    Network {
        id: id(n),
        name: Some(format!("net{n}").parse().unwrap()),
        vni: vni(vni_number),
        subnets: vec![Subnet::new("10.9.0.0/24".parse().unwrap())],
        mtu: None,
        internal: false,
        direct: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        address_driver: AddressDriver::Weft,
        created_by: id(0),
        created: 0,
    }
}

/// An endpoint at 10.9.(n / 256).(n % 256), with the MAC address that goes with it.
pub fn endpoint(n: usize, network: usize, node: usize) -> Endpoint {
    let address = IpAddr::from([10, 9, u8::try_from(n / 256).unwrap(), u8::try_from(n % 256).unwrap()]);
    Endpoint {
        id: id(n),
        network: id(network),
        node: id(node),
        engine: "docker".to_owned(),
        container: None,
        sandbox: None,
        outside: None,
        mac: MacAddr::for_address(address),
        ipv4: Some(format!("{address}/24").parse().unwrap()),
        ipv6: None,
        epoch: 1,
        created: 0,
    }
}

/// A snapshot of these records.
pub fn snapshot(nodes: &[Node], networks: &[Network], endpoints: &[Endpoint]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        put_node(&mut snapshot, &node.id, Some(node));
    }
    for network in networks {
        put_network(&mut snapshot, &network.id, Some(network));
    }
    for e in endpoints {
        put_endpoint(&mut snapshot, &e.network, &e.id, Some(e));
    }
    snapshot
}

fn put(snapshot: &mut Snapshot, key: String, value: Option<Vec<u8>>) -> Touched {
    snapshot.apply(&Change { key, value }).unwrap()
}

pub fn put_node(snapshot: &mut Snapshot, id: &NodeId, node: Option<&Node>) -> Touched {
    put(snapshot, schema::node_key(id), node.map(encode))
}

pub fn put_network(snapshot: &mut Snapshot, id: &NetworkId, network: Option<&Network>) -> Touched {
    put(snapshot, schema::network_key(id), network.map(encode))
}

pub fn put_endpoint(
    snapshot: &mut Snapshot,
    network: &NetworkId,
    id: &EndpointId,
    endpoint: Option<&Endpoint>,
) -> Touched {
    put(snapshot, schema::endpoint_key(network, id), endpoint.map(encode))
}

pub fn put_groups(
    snapshot: &mut Snapshot,
    network: usize,
    node: usize,
    groups: Option<&Memberships>,
) -> Touched {
    put(snapshot, schema::groups_key(&id(network), &id(node)), groups.map(encode))
}

pub fn memberships(groups: &[&str]) -> Memberships {
    Memberships { groups: groups.iter().map(|text| ip(text)).collect() }
}

/// A state as it would be seen in a kernel that has it.
pub fn seen(state: &HostState) -> HostState {
    state.iter().map(|(key, object)| (key.clone(), as_observed(object))).collect()
}

/// A change of one record.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // There are few of them.
pub enum Step {
    Node(usize, Option<Node>),
    Alive(usize, bool),
    Absent(usize, bool),
    Network(usize, Option<Network>),
    Endpoint(usize, usize, Option<Endpoint>),
    Groups(usize, usize, Option<Memberships>),
}

impl Step {
    pub fn apply(&self, snapshot: &mut Snapshot) -> Touched {
        match self {
            Self::Node(n, node) => put_node(snapshot, &id(*n), node.as_ref()),
            Self::Alive(n, alive) => put(snapshot, schema::alive_key(&id(*n)), alive.then(|| encode(&1))),
            Self::Absent(n, absent) => {
                if *absent {
                    snapshot.absent.insert(id(*n));
                } else {
                    snapshot.absent.remove(&id::<NodeId>(*n));
                }
                Touched::Node(id(*n))
            }
            Self::Network(n, network) => put_network(snapshot, &id(*n), network.as_ref()),
            Self::Endpoint(network, n, endpoint) => {
                put_endpoint(snapshot, &id(*network), &id(*n), endpoint.as_ref())
            }
            Self::Groups(network, node, groups) => put_groups(snapshot, *network, *node, groups.as_ref()),
        }
    }
}

/// A change of a cluster of four nodes (0 is this one), three networks with two VNIs, and endpoints that often
/// claim what others claim.
pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4usize, prop::option::weighted(0.8, (any_vteps(), any_link())), prop::sample::select(vec![90u32, 1500, 9000]))
            .prop_map(|(n, spec, mtu)| Step::Node(n, spec.map(|(vteps, direct)| Node { direct, ..node(n, &vteps, mtu) }))),
        1 => (0..4usize, any::<bool>()).prop_map(|(n, alive)| Step::Alive(n, alive)),
        1 => (1..4usize, any::<bool>()).prop_map(|(n, absent)| Step::Absent(n, absent)),
        2 => (0..3usize, prop::option::weighted(0.8, (1..3u32, prop::option::of(Just(1400)), any::<bool>(), any_rate())))
            .prop_map(|(n, spec)| Step::Network(n, spec.map(|(vni, mtu, direct, options)| Network {
                mtu: mtu.map(|mtu| Mtu::new(mtu).unwrap()),
                direct,
                options,
                ..network(n, vni)
            }))),
        6 => (0..3usize, 0..8usize).prop_flat_map(|(network, n)| {
            prop::option::weighted(0.75, any_endpoint(network, n))
                .prop_map(move |endpoint| Step::Endpoint(network, n, endpoint))
        }),
        4 => (0..3usize, 0..4usize, prop::option::weighted(0.8, any_groups()))
            .prop_map(|(network, n, groups)| Step::Groups(network, n, groups)),
    ]
}

/// A link that has all VTEPs on it, or some, or a gateway to one of them.
fn any_link() -> impl Strategy<Value = Option<DirectLink>> {
    let prefixes = prop::sample::select(vec!["192.0.2.1/24", "192.0.2.1/30", "2001:db8::4/64"]);
    let link = (1..4u8, prefixes, prop::option::weighted(0.2, 1..4u8));
    prop::option::weighted(
        0.8,
        link.prop_map(|(mac, prefix, routed)| {
            direct_link(mac, prefix, routed.map(|n| IpAddr::from([192, 0, 2, n])))
        }),
    )
}

/// A link of a host with this MAC address.
pub fn direct_link(mac: u8, prefix: &str, routed: impl IntoIterator<Item = IpAddr>) -> DirectLink {
    DirectLink {
        mac: MacAddr([2, 0, 0, 0, 0, mac]),
        prefix: prefix.parse().unwrap(),
        routed: routed.into_iter().collect(),
    }
}

/// Options with a rate of its own, or none.
fn any_rate() -> impl Strategy<Value = BTreeMap<String, String>> {
    let rate = prop::sample::select(vec!["0", "5", "10000", "red"]);
    prop::option::of(rate).prop_map(|rate| {
        rate.map(|rate| (MulticastRate::OPTION.to_owned(), rate.to_owned())).into_iter().collect()
    })
}

fn any_vteps() -> impl Strategy<Value = Vec<&'static str>> {
    let choice = |list: &[&'static str]| list.to_vec();
    prop::sample::select(vec![
        choice(&["192.0.2.1"]),
        choice(&["192.0.2.2"]),
        choice(&["192.0.2.3"]),
        choice(&["192.0.2.4", "2001:db8::4"]),
        choice(&["2001:db8::5", "192.0.2.5"]),
        choice(&["2001:db8::6"]),
        choice(&[]),
    ])
}

/// Groups as nodes tell of them, and some that none tells of.
fn any_groups() -> impl Strategy<Value = Memberships> {
    let all = vec!["239.1.1.1", "239.1.1.2", "ff05::1", "224.0.0.251", "ff02::fb", "0.0.0.0", "10.9.0.1"];
    prop::sample::subsequence(all, 0..4).prop_map(|groups| memberships(&groups))
}

fn any_endpoint(network: usize, n: usize) -> impl Strategy<Value = Endpoint> {
    let mac = prop_oneof![
        8 => (0..6u8).prop_map(|b| MacAddr([2, 0x42, 10, 9, 0, b])),
        1 => Just(MacAddr::ZERO),
        1 => Just(MacAddr([0x33, 0x33, 0, 0, 0, 1])),
    ];
    let place = (0..4usize, mac, prop::option::of(0..6u8), prop::option::of(0..4u16));
    let way = (any::<bool>(), prop::option::of((0..3usize, any::<bool>(), 80..82u16)));
    (place, 0..2u64, 0..2u64, way).prop_map(
        move |((node, mac, v4, v6), epoch, created, (joined, outside))| Endpoint {
            mac,
            ipv4: v4.map(|b| format!("10.9.0.{b}/24").parse().unwrap()),
            ipv6: v6.map(|b| format!("fd00:9::{b}/64").parse().unwrap()),
            epoch,
            created,
            outside: outside.map(|(n, ipv6, port)| outside_of(n, ipv6, port)),
            sandbox: joined.then(|| Sandbox {
                configured_by_engine: true,
                ..Sandbox::namespace("/run/netns/c", "eth0")
            }),
            ..endpoint(n, network, node)
        },
    )
}

/// A way out at 10.213.0.(n + 2), with a port of the host's that leads to it.
pub fn outside_of(n: usize, ipv6: bool, port: u16) -> Outside {
    let port = PublishedPort {
        protocol: PortProtocol::Tcp,
        host_ip: None,
        host_port: port,
        container_port: 80,
        count: 1,
    };
    Outside {
        id: id(n),
        interface: "eth1".to_owned(),
        ipv4: format!("10.213.0.{}/20", n + 2).parse().unwrap(),
        ipv6: ipv6.then(|| format!("fd13::{}/64", n + 2).parse().unwrap()),
        ports: vec![port],
    }
}
