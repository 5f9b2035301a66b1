//! What the plan is for given records.

use super::cluster::{endpoint, id, ip, network, node, snapshot, vni};
use crate::{
    Bridge, FarEndSandbox, Fdb, Filter, Key, Neighbour, Object, Port, PortFarEnd, Vxlan, describe_holder,
    plan,
};
use weft_model::{
    AddressClaim, ClaimKind, Container, Endpoint, MacAddr, Mtu, Network, Node, NodeId, Sandbox, Snapshot, Tap,
};

fn two_nodes() -> [Node; 2] {
    [node(0, &["192.0.2.1"], 1500), node(1, &["192.0.2.2"], 1500)]
}

fn this() -> NodeId {
    id(0)
}

/// The keys of a plan, without the devices that every network has.
fn entries(snapshot: &Snapshot) -> Vec<String> {
    let state = plan(snapshot, &this());
    let keys =
        state.keys().filter(|k| !matches!(k, Key::Filter | Key::Bridge(_) | Key::Vxlan(_) | Key::Group(..)));
    keys.map(ToString::to_string).collect()
}

#[test]
fn one_endpoint_here_and_one_there_make_exactly_this_state() {
    let snapshot = snapshot(&two_nodes(), &[network(1, 4096)], &[endpoint(2, 1, 0), endpoint(3, 1, 1)]);
    let vni = vni(4096);
    let mtu = Mtu::new(1450).unwrap();
    let device = MacAddr::for_device(4096);
    let (here, there) = (endpoint(2, 1, 0), endpoint(3, 1, 1));
    let expected = [
        (Key::Filter, Object::Filter(Filter { rates: [].into(), sound: true })),
        (Key::Bridge(vni), Object::Bridge(Bridge { mac: device, mtu, up: true })),
        (
            Key::Vxlan(vni),
            Object::Vxlan(Vxlan {
                local: ip("192.0.2.1"),
                port: 4789,
                mac: device,
                mtu,
                up: true,
                bridged: true,
            }),
        ),
        (
            Key::Port(vni, "weft-0000000002".to_owned()),
            Object::Port(Port {
                mtu,
                up: true,
                bridged: true,
                tap: None,
                far_end: Some(Box::new(PortFarEnd {
                    name: "weftc0000000002".to_owned(),
                    mac: here.mac,
                    sandbox: None,
                    tap_owner: None,
                })),
            }),
        ),
        (Key::Flood(vni, ip("192.0.2.2")), Object::Flood),
        (Key::Fdb(vni, here.mac), Object::Fdb(Fdb { port: Some("weft-0000000002".to_owned()), vtep: None })),
        (
            Key::Fdb(vni, there.mac),
            Object::Fdb(Fdb { port: Some("weft-vx4096".to_owned()), vtep: Some(ip("192.0.2.2")) }),
        ),
        (Key::Neighbour(vni, ip("10.9.0.3")), Object::Neighbour(Neighbour { mac: there.mac })),
        (Key::Group(vni, ip("0.0.0.0"), ip("0.0.0.0")), Object::Group),
        (Key::Group(vni, ip("0.0.0.0"), ip("192.0.2.2")), Object::Group),
        (Key::Group(vni, ip("::"), ip("0.0.0.0")), Object::Group),
        (Key::Group(vni, ip("::"), ip("192.0.2.2")), Object::Group),
    ];
    assert_eq!(plan(&snapshot, &this()), expected.into());
}

#[test]
fn a_network_without_an_endpoint_here_has_no_state_here() {
    let snapshot = snapshot(&two_nodes(), &[network(1, 4096)], &[endpoint(3, 1, 1)]);
    assert_eq!(plan(&snapshot, &this()), [].into());
    assert!(!plan(&snapshot, &id(1)).is_empty());
}

#[test]
fn without_a_record_of_this_node_nothing_is_planned() {
    let [_, other] = two_nodes();
    let records = [endpoint(2, 1, 0), endpoint(3, 1, 1)];
    assert_eq!(plan(&snapshot(&[other], &[network(1, 4096)], &records), &this()), [].into());
}

#[test]
fn an_endpoint_whose_node_has_no_record_or_no_usable_vtep_is_left_out() {
    let [here, there] = two_nodes();
    let records = [endpoint(2, 1, 0), endpoint(3, 1, 1)];
    let alone = entries(&snapshot(std::slice::from_ref(&here), &[network(1, 4096)], &records));
    assert_eq!(alone, ["port weft-0000000002 (VNI 4096)", "fdb 02:42:0a:09:00:02 (VNI 4096)"]);
    // Another family, or no host's address.
    for vtep in ["2001:db8::2", "0.0.0.0", "255.255.255.255", "239.1.1.1"] {
        let there = Node { vteps: vec![ip(vtep)], ..there.clone() };
        assert_eq!(
            entries(&snapshot(&[here.clone(), there], &[network(1, 4096)], &records)),
            alone,
            "{vtep}"
        );
    }
}

#[test]
fn over_an_ipv6_underlay_peers_are_reached_by_their_ipv6_addresses() {
    let nodes = [node(0, &["2001:db8::1", "192.0.2.1"], 1500), node(1, &["192.0.2.2", "2001:db8::2"], 1500)];
    let snapshot = snapshot(&nodes, &[network(1, 4096)], &[endpoint(2, 1, 0), endpoint(3, 1, 1)]);
    let state = plan(&snapshot, &this());
    assert!(state.contains_key(&Key::Flood(vni(4096), ip("2001:db8::2"))));
    let Object::Vxlan(vxlan) = &state[&Key::Vxlan(vni(4096))] else { panic!("not a VXLAN device") };
    assert_eq!((vxlan.local, vxlan.mtu.get()), (ip("2001:db8::1"), 1430));
}

#[test]
fn the_endpoints_of_a_node_whose_lease_is_gone_stay() {
    let mut alive = snapshot(&two_nodes(), &[network(1, 4096)], &[endpoint(2, 1, 0), endpoint(3, 1, 1)]);
    alive.alive = [(id(0), 1), (id(1), 1)].into();
    let mut dead = alive.clone();
    dead.alive.clear();
    assert_eq!(plan(&alive, &this()), plan(&dead, &this()));
}

#[test]
fn the_smallest_underlay_decides_the_mtu_unless_the_network_does() {
    let nodes = [node(0, &["192.0.2.1"], 9000), node(1, &["192.0.2.2"], 1400), node(2, &["192.0.2.3"], 9000)];
    let mtu_of = |network: Network| {
        let state = plan(&snapshot(&nodes, &[network], &[endpoint(2, 1, 0)]), &this());
        let Object::Bridge(bridge) = &state[&Key::Bridge(vni(4096))] else { panic!("not a bridge") };
        bridge.mtu.get()
    };
    assert_eq!(mtu_of(network(1, 4096)), 1350);
    assert_eq!(mtu_of(Network { mtu: Some(Mtu::new(1280).unwrap()), ..network(1, 4096) }), 1280);
}

#[test]
fn two_nodes_at_one_address_get_one_copy_of_a_broadcast_and_we_ourselves_none() {
    let nodes = [
        node(0, &["192.0.2.1"], 1500),
        node(1, &["192.0.2.2"], 1500),
        node(2, &["192.0.2.2"], 1500),
        node(3, &["192.0.2.1"], 1500),
    ];
    let records = [endpoint(2, 1, 0), endpoint(5, 1, 1), endpoint(6, 1, 2), endpoint(7, 1, 3)];
    let entries = entries(&snapshot(&nodes, &[network(1, 4096)], &records));
    let flood: Vec<_> = entries.iter().filter(|e| e.starts_with("flood")).collect();
    assert_eq!(flood, ["flood 192.0.2.2 (VNI 4096)"]);
    assert!(!entries.iter().any(|e| e.contains("10.9.0.7")), "{entries:?}");
}

#[test]
fn of_two_endpoints_with_one_address_the_one_of_the_later_start_has_it() {
    let nodes = [two_nodes().to_vec(), vec![node(2, &["192.0.2.3"], 1500)]].concat();
    let twin = |n: usize, node: usize, epoch: u64, created: u64| Endpoint {
        mac: endpoint(9, 1, 0).mac,
        ipv4: endpoint(9, 1, 0).ipv4,
        epoch,
        created,
        ..endpoint(n, 1, node)
    };
    for (one, other, winner) in [
        ((1, 9), (2, 0), "192.0.2.3"),
        ((2, 0), (1, 9), "192.0.2.2"),
        ((1, 5), (1, 4), "192.0.2.2"),
        ((1, 4), (1, 4), "192.0.2.3"),
    ] {
        let records = [endpoint(2, 1, 0), twin(5, 1, one.0, one.1), twin(6, 2, other.0, other.1)];
        let state = plan(&snapshot(&nodes, &[network(1, 4096)], &records), &this());
        let Object::Fdb(fdb) = &state[&Key::Fdb(vni(4096), endpoint(9, 1, 0).mac)] else { panic!() };
        assert_eq!(fdb.vtep, Some(ip(winner)), "{one:?} {other:?}");
    }
}

#[test]
fn an_address_that_moved_here_is_no_longer_answered_for_by_us() {
    let moved =
        Endpoint { mac: endpoint(3, 1, 1).mac, ipv4: endpoint(3, 1, 1).ipv4, epoch: 2, ..endpoint(5, 1, 0) };
    let records = [endpoint(3, 1, 1), moved];
    let state = plan(&snapshot(&two_nodes(), &[network(1, 4096)], &records), &this());
    assert!(!state.contains_key(&Key::Neighbour(vni(4096), ip("10.9.0.3"))));
    let fdb = Fdb { port: Some("weft-0000000005".to_owned()), vtep: None };
    assert_eq!(state[&Key::Fdb(vni(4096), endpoint(3, 1, 1).mac)], Object::Fdb(fdb));
}

#[test]
fn a_pair_made_after_join_goes_straight_into_the_sandbox() {
    let sandbox = Sandbox {
        configured_by_engine: true,
        inode: Some(7),
        ..Sandbox::namespace("/run/netns/blue", "eth0")
    };
    let joined =
        Endpoint { sandbox: Some(sandbox), ipv6: Some("fd00:9::2/64".parse().unwrap()), ..endpoint(2, 1, 0) };
    let state = plan(&snapshot(&two_nodes(), &[network(1, 4096)], &[joined]), &this());
    let Object::Port(port) = &state[&Key::Port(vni(4096), "weft-0000000002".to_owned())] else { panic!() };
    let expected = FarEndSandbox {
        path: "/run/netns/blue".to_owned(),
        inode: Some(7),
        interface: "eth0".to_owned(),
        addresses: vec!["10.9.0.2/24".parse().unwrap(), "fd00:9::2/64".parse().unwrap()],
        gateways: vec![],
    };
    assert_eq!(port.far_end.as_ref().unwrap().sandbox, Some(expected));
}

#[test]
fn a_tap_device_is_joined_with_an_end_that_stays_in_the_hosts_namespace() {
    let sandbox =
        Sandbox { tap: Some(Tap { owner: Some(107) }), ..Sandbox::namespace(Sandbox::HOST, "tap0") };
    let joined = Endpoint { sandbox: Some(sandbox), ..endpoint(2, 1, 0) };
    let state = plan(&snapshot(&two_nodes(), &[network(1, 4096)], &[joined]), &this());
    let Object::Port(port) = &state[&Key::Port(vni(4096), "weft-0000000002".to_owned())] else { panic!() };
    assert_eq!(port.tap.as_deref(), Some("tap0"));
    let far_end = port.far_end.as_ref().unwrap();
    assert_eq!((far_end.sandbox.as_ref(), far_end.tap_owner), (None, Some(107)));
    let lost = Object::Port(Port { tap: None, ..port.clone() });
    assert!(!crate::is_as_desired(&state[&Key::Port(vni(4096), "weft-0000000002".to_owned())], &lost));
}

#[test]
fn a_holder_is_told_by_what_people_call_it() {
    let named = Endpoint { container: Some(Container::new("c", "web")), ..endpoint(2, 1, 0) };
    let attached = Endpoint { engine: "netns".to_owned(), id: id(5), ..named.clone() };
    let mut snapshot = snapshot(&two_nodes(), &[network(1, 4096)], &[named, endpoint(3, 1, 1), attached]);
    let claims =
        [("10.9.0.2", 0, Some(2)), ("10.9.0.3", 1, Some(3)), ("10.9.0.4", 1, None), ("10.9.0.5", 0, Some(5))];
    for (address, node, holder) in claims {
        let claim = AddressClaim {
            kind: ClaimKind::Endpoint,
            node: id(node),
            endpoint: holder.map(id),
            since: 1_795_552_276,
        };
        snapshot.addresses.entry(id(1)).or_default().insert(ip(address), claim);
    }
    let since = "since 2026-11-24 20:31:16 UTC";
    for (address, expected) in [
        ("10.9.0.2", format!("container \"web\" on node h0, {since}")),
        ("10.9.0.3", format!("endpoint 000000000300 on node h1, {since}")),
        ("10.9.0.4", format!("an engine's address request on node h1, {since}")),
        ("10.9.0.5", format!("namespace \"web\" on node h0, {since}")),
        ("10.9.0.6", "nobody".to_owned()),
    ] {
        assert_eq!(describe_holder(&snapshot, &id(1), ip(address)), expected);
    }
}

#[test]
fn an_endpoint_with_ipv6_answers_for_its_link_local_address_too() {
    let there = Endpoint { ipv6: Some("fd00:9::3/64".parse().unwrap()), ..endpoint(3, 1, 1) };
    let snapshot = snapshot(&two_nodes(), &[network(1, 4096)], &[endpoint(2, 1, 0), there.clone()]);
    let state = plan(&snapshot, &this());
    for address in [ip("10.9.0.3"), ip("fd00:9::3"), there.mac.link_local().into()] {
        let entry = state.get(&Key::Neighbour(vni(4096), address));
        assert_eq!(entry, Some(&Object::Neighbour(Neighbour { mac: there.mac })), "{address}");
    }
}
