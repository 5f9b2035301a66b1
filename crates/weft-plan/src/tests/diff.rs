//! The operations lead from any state to any other, and there are no more than needed.

use super::cluster::{ip, seen, vni};
use crate::{
    Bridge, Direct, Fdb, Filter, Gateway, GatewayPort, HostState, Key, Neighbour, Object, Op, Port,
    PortFarEnd, Vxlan, diff, is_as_desired, model_kernel::apply_ops, vxlan_name,
};
use proptest::prelude::*;
use std::{collections::BTreeSet, net::IpAddr};
use weft_model::{MacAddr, Mtu, Vni};

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn port_of(number: u8) -> String {
    if number == 0 { vxlan_name(vni(7)) } else { format!("weft-{number}") }
}

fn any_port(
    vni: impl Strategy<Value = Vni>,
    mtu: impl Strategy<Value = Mtu>,
) -> impl Strategy<Value = (Key, Object)> {
    let mostly = prop::bool::weighted(0.8);
    let tap = prop::option::weighted(0.3, prop::sample::select(vec!["tap0", "tap1"]));
    (vni, 1..4u8, mtu, mostly, mostly, tap, any::<bool>()).prop_map(|(vni, n, mtu, up, bridged, tap, far)| {
        let far_end = far.then(|| {
            Box::new(PortFarEnd { name: "weftc1".to_owned(), mac: mac(n), sandbox: None, tap_owner: None })
        });
        let tap = tap.map(str::to_owned);
        (Key::Port(vni, port_of(n)), Object::Port(Port { mtu, up, bridged, tap, far_end }))
    })
}

fn any_object() -> impl Strategy<Value = (Key, Object)> {
    let mtu = prop::sample::select(vec![1450u32, 1430]).prop_map(|bytes| Mtu::new(bytes).unwrap());
    let vtep = prop::sample::select(vec!["192.0.2.2", "192.0.2.3"]).prop_map(ip);
    let mostly = prop::bool::weighted(0.8);
    let vni = (7..9u32).prop_map(vni);
    prop_oneof![
        2 => (vni.clone(), mtu.clone(), mostly).prop_map(|(vni, mtu, up)| {
            (Key::Bridge(vni), Object::Bridge(Bridge { mac: mac(9), mtu, up }))
        }),
        2 => (vni.clone(), vtep.clone(), mtu.clone(), mostly, mostly).prop_map(|(vni, local, mtu, up, bridged)| {
            (Key::Vxlan(vni), Object::Vxlan(Vxlan { local, port: 4789, mac: mac(9), mtu, up, bridged }))
        }),
        3 => any_port(vni.clone(), mtu),
        2 => (vni.clone(), vtep.clone()).prop_map(|(vni, vtep)| (Key::Flood(vni, vtep), Object::Flood)),
        6 => (vni.clone(), 0..4u8, prop::option::of(0..4u8), prop::option::of(vtep)).prop_map(|(vni, m, port, vtep)| {
            (Key::Fdb(vni, mac(m)), Object::Fdb(Fdb { port: port.map(port_of), vtep }))
        }),
        3 => (vni.clone(), 0..4u8, 0..3u8).prop_map(|(vni, n, m)| {
            let address = IpAddr::from([10, 9, 0, n]);
            (Key::Neighbour(vni, address), Object::Neighbour(Neighbour { mac: mac(m) }))
        }),
        2 => (vni.clone(), 0..3u8, prop::sample::select(vec!["192.0.2.2", "0.0.0.0"])).prop_map(|(vni, g, vtep)| {
            (Key::Group(vni, std::net::IpAddr::from([239, 1, 1, g]), ip(vtep)), Object::Group)
        }),
        1 => (mostly, 0..2u32).prop_map(|(sound, n)| {
            let rates = (0..n).map(|n| (Vni::new(n + 7).unwrap(), "5".parse().unwrap())).collect();
            (Key::Filter, Object::Filter(Filter { rates, sound }))
        }),
        2 => (any::<bool>(), mostly).prop_map(|(second, sound)| {
            let subnets = [if second { "10.213.0.0/20" } else { "10.213.16.0/20" }.parse().unwrap()].into();
            (Key::Gateway, Object::Gateway(Box::new(Gateway { subnets, published: BTreeSet::new(), sound })))
        }),
        2 => (1..4u8, mostly, any::<bool>()).prop_map(|(n, up, routed)| {
            let sandbox = routed.then(|| ip("10.213.0.2")).into_iter().collect();
            let (mtu, gateways) = (Mtu::new(1500).unwrap(), BTreeSet::from([ip("10.213.0.1")]));
            let port = GatewayPort { mtu, up, gateways, sandbox, far_end: None };
            (Key::GatewayPort(format!("weftg{n}")), Object::GatewayPort(Box::new(port)))
        }),
        3 => (vni.clone(), 1..4u8, 1..4u8, any::<bool>()).prop_map(|(vni, n, m, sends)| {
            let direct = Direct { mac: mac(m), prefix: 24, sends };
            (Key::Direct(vni, IpAddr::from([10, 9, 0, n])), Object::Direct(direct))
        }),
        2 => (1..4u8, 1..4u8).prop_map(|(m, n)| {
            (Key::LinkPeer(mac(m)), Object::LinkPeer(IpAddr::from([192, 0, 2, n])))
        }),
    ]
}

/// Any state that a kernel can be in.
fn any_state() -> impl Strategy<Value = HostState> {
    prop::collection::vec(any_object(), 0..40).prop_map(|objects| possible(objects.into_iter().collect()))
}

/// Any state as the plan makes them: everything up, all ports in the bridge.
fn any_plan() -> impl Strategy<Value = HostState> {
    prop::collection::vec(any_object(), 0..40).prop_map(|mut objects| {
        for (_, object) in &mut objects {
            match object {
                Object::Bridge(bridge) => bridge.up = true,
                Object::Vxlan(vxlan) => (vxlan.up, vxlan.bridged) = (true, true),
                Object::Port(port) => (port.up, port.bridged) = (true, true),
                Object::Filter(filter) => filter.sound = true,
                Object::Gateway(gateway) => gateway.sound = true,
                Object::GatewayPort(port) => port.up = true,
                _ => {}
            }
        }
        possible(objects.into_iter().collect())
    })
}

/// The part of a state that can be: nothing hangs on what is not there. In the order of the keys, as what
/// something hangs on comes before it.
fn possible(wild: HostState) -> HostState {
    let mut state = HostState::new();
    for (key, mut object) in wild {
        let Some(vni) = key.vni() else {
            state.insert(key, object);
            continue;
        };
        let vxlan_up = match state.get(&Key::Vxlan(vni)) {
            Some(Object::Vxlan(vxlan)) => Some(vxlan.up),
            _ => None,
        };
        let bridge = state.contains_key(&Key::Bridge(vni));
        let can_be = match &mut object {
            Object::Filter(_)
            | Object::Bridge(_)
            | Object::Direct(_)
            | Object::LinkPeer(_)
            | Object::Gateway(_)
            | Object::GatewayPort(_) => true,
            Object::Vxlan(vxlan) => {
                vxlan.bridged &= bridge;
                true
            }
            Object::Port(port) => {
                port.bridged &= bridge;
                true
            }
            Object::Flood | Object::Group => vxlan_up.is_some(),
            Object::Neighbour(_) => vxlan_up == Some(true),
            Object::Fdb(fdb) => {
                fdb.vtep = fdb.vtep.filter(|_| vxlan_up.is_some());
                fdb.port = fdb.port.take().filter(|port| {
                    let key =
                        if *port == vxlan_name(vni) { Key::Vxlan(vni) } else { Key::Port(vni, port.clone()) };
                    match state.get(&key) {
                        Some(Object::Vxlan(vxlan)) => vxlan.bridged,
                        Some(Object::Port(port)) => port.bridged,
                        _ => false,
                    }
                });
                fdb.vtep.is_some() || fdb.port.is_some()
            }
        };
        if can_be {
            state.insert(key, object);
        }
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn leads_from_any_state_to_any_other(desired in any_state(), observed in any_state()) {
        let mut kernel = seen(&observed);
        let ops = diff(&desired, &kernel);
        apply_ops(&mut kernel, &ops).unwrap();
        prop_assert_eq!(&kernel, &seen(&desired));
        prop_assert_eq!(diff(&desired, &kernel), vec![]);
    }

    #[test]
    fn operations_may_be_done_twice(desired in any_state(), observed in any_state()) {
        let mut kernel = seen(&observed);
        for op in diff(&desired, &kernel) {
            apply_ops(&mut kernel, &[op.clone(), op]).unwrap();
        }
        prop_assert_eq!(kernel, seen(&desired));
    }

    #[test]
    fn all_of_it_may_be_done_twice(desired in any_state(), observed in any_state()) {
        let mut kernel = seen(&observed);
        let ops = diff(&desired, &kernel);
        apply_ops(&mut kernel, &ops).unwrap();
        apply_ops(&mut kernel, &ops).unwrap();
        prop_assert_eq!(kernel, seen(&desired));
    }

    #[test]
    fn operations_that_do_not_need_one_another_may_be_done_in_any_order(
        desired in any_state(), observed in any_state(), weights in prop::collection::vec(any::<u32>(), 200)
    ) {
        let mut kernel = seen(&observed);
        let ops = shuffled(diff(&desired, &kernel), &observed, &weights);
        apply_ops(&mut kernel, &ops).unwrap();
        prop_assert_eq!(kernel, seen(&desired), "in this order: {:?}", told(&ops));
    }

    #[test]
    fn an_object_is_touched_once_and_only_if_it_is_wrong_or_lost(desired in any_state(), observed in any_state()) {
        let observed = seen(&observed);
        let ops = diff(&desired, &observed);
        let (removals, rest): (Vec<_>, Vec<_>) = ops.iter().cloned().partition(|op| matches!(op, Op::Remove(_)));
        for part in [&removals, &rest] {
            let keys: BTreeSet<&Key> = part.iter().map(Op::key).collect();
            prop_assert_eq!(keys.len(), part.len(), "a key is touched twice: {:?}", told(part));
        }
        let mut left = observed.clone();
        apply_ops(&mut left, &removals).unwrap();
        for op in &rest {
            let right = |state: &HostState| state.get(op.key()).is_some_and(|o| is_as_desired(&desired[op.key()], o));
            prop_assert!(!right(&left), "it is right already: {} of {:?}", op.key(), told(&ops));
        }
        for op in &removals {
            let goes = !desired.contains_key(op.key());
            prop_assert!(goes || is_device(op.key()), "only a device is made anew: {}", op.key());
        }
    }

    #[test]
    fn between_like_states_there_is_nothing_to_do(state in any_state()) {
        prop_assert_eq!(diff(&state, &state), vec![]);
        prop_assert_eq!(diff(&state, &seen(&state)), vec![]);
    }
}

proptest! {
    // Each case tries every operation.
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn no_operation_can_be_left_out(desired in any_plan(), observed in any_state()) {
        let ops = diff(&desired, &seen(&observed));
        for left_out in 0..ops.len() {
            let mut fewer = ops.clone();
            fewer.remove(left_out);
            let mut kernel = seen(&observed);
            // Without it something else is refused, or the outcome is another.
            let outcome = apply_ops(&mut kernel, &fewer);
            let needed = outcome.is_err() || kernel != seen(&desired);
            prop_assert!(needed, "{:?} could do without {}", told(&ops), ops[left_out].key());
        }
    }
}

fn is_device(key: &Key) -> bool {
    matches!(
        key,
        Key::Filter | Key::Bridge(_) | Key::Vxlan(_) | Key::Port(..) | Key::Gateway | Key::GatewayPort(_)
    )
}

/// The bridge ports that an FDB entry names, in the operation or in what was there before.
fn ports_of(op: &Op, observed: &HostState) -> Vec<String> {
    let (from, to) = match op {
        Op::Create(_, to) => (None, Some(to)),
        Op::Change { from, to, .. } => (Some(from), Some(to)),
        Op::Remove(_) => (None, None),
    };
    let objects = [from, to, observed.get(op.key())].into_iter().flatten();
    objects.filter_map(|object| if let Object::Fdb(fdb) = object { fdb.port.clone() } else { None }).collect()
}

/// Whether one of two operations has to wait for the other: they are about one object, or one is about a device that the
/// other's object stands on.
fn need_one_another(a: &Op, b: &Op, observed: &HostState) -> bool {
    let stands_on = |above: &Op, below: &Op| match (above.key(), below.key()) {
        (Key::Vxlan(_) | Key::Port(..) | Key::Fdb(..), Key::Bridge(_))
        | (Key::Flood(..) | Key::Neighbour(..) | Key::Group(..) | Key::Fdb(..), Key::Vxlan(_)) => true,
        (Key::Fdb(..), Key::Port(_, port)) => ports_of(above, observed).contains(port),
        _ => false,
    };
    a.key().vni() == b.key().vni() && (a.key() == b.key() || stands_on(a, b) || stands_on(b, a))
}

/// Another order of the operations that keeps those in order that need one another: of those that may be next, always the
/// one that weighs least.
fn shuffled(mut ops: Vec<Op>, observed: &HostState, weights: &[u32]) -> Vec<Op> {
    let mut done = Vec::new();
    let mut weights = weights.iter().cycle();
    let mut left: Vec<(u32, Op)> = ops.drain(..).map(|op| (*weights.next().unwrap(), op)).collect();
    while !left.is_empty() {
        let free = (0..left.len())
            .filter(|&i| left[..i].iter().all(|(_, before)| !need_one_another(before, &left[i].1, observed)));
        let next = free.min_by_key(|&i| left[i].0).unwrap();
        done.push(left.remove(next).1);
    }
    done
}

fn vxlan(local: &str) -> (Key, Object) {
    let mtu = Mtu::new(1450).unwrap();
    let vxlan = Vxlan { local: ip(local), port: 4789, mac: mac(9), mtu, up: true, bridged: true };
    (Key::Vxlan(vni(7)), Object::Vxlan(vxlan))
}

fn host(local: &str) -> HostState {
    let mtu = Mtu::new(1450).unwrap();
    let remote = Fdb { port: Some(port_of(0)), vtep: Some(ip("192.0.2.2")) };
    let here = Fdb { port: Some(port_of(1)), vtep: None };
    [
        (Key::Bridge(vni(7)), Object::Bridge(Bridge { mac: mac(9), mtu, up: true })),
        vxlan(local),
        (
            Key::Port(vni(7), port_of(1)),
            Object::Port(Port { mtu, up: true, bridged: true, tap: None, far_end: None }),
        ),
        (Key::Flood(vni(7), ip("192.0.2.2")), Object::Flood),
        (Key::Fdb(vni(7), mac(1)), Object::Fdb(here)),
        (Key::Fdb(vni(7), mac(2)), Object::Fdb(remote)),
        (Key::Neighbour(vni(7), ip("10.9.0.3")), Object::Neighbour(Neighbour { mac: mac(2) })),
    ]
    .into()
}

fn told(ops: &[Op]) -> Vec<String> {
    let verb = |op: &Op| match op {
        Op::Create(..) => "create",
        Op::Change { .. } => "change",
        Op::Remove(_) => "remove",
    };
    ops.iter().map(|op| format!("{} {}", verb(op), op.key())).collect()
}

#[test]
fn a_changed_vtep_address_makes_the_device_and_all_on_it_anew_and_nothing_else() {
    let ops = diff(&host("192.0.2.9"), &host("192.0.2.1"));
    let expected = [
        "remove vxlan weft-vx7",
        "create vxlan weft-vx7",
        "create flood 192.0.2.2 (VNI 7)",
        "create fdb 02:00:00:00:00:02 (VNI 7)",
        "create neighbour 10.9.0.3 (VNI 7)",
    ];
    assert_eq!(told(&ops), expected);
}

#[test]
fn a_device_that_vanished_comes_back_with_its_entries_even_if_they_were_seen_a_moment_before() {
    let mut observed = host("192.0.2.1");
    observed.remove(&Key::Vxlan(vni(7)));
    observed.remove(&Key::Port(vni(7), port_of(1)));
    let ops = diff(&host("192.0.2.1"), &observed);
    let expected = [
        "create vxlan weft-vx7",
        "create port weft-1 (VNI 7)",
        "create flood 192.0.2.2 (VNI 7)",
        "create fdb 02:00:00:00:00:01 (VNI 7)",
        "create fdb 02:00:00:00:00:02 (VNI 7)",
        "create neighbour 10.9.0.3 (VNI 7)",
    ];
    assert_eq!(told(&ops), expected);
}

#[test]
fn a_bridge_that_vanished_takes_its_ports_back_in() {
    let mut kernel = host("192.0.2.1");
    apply_ops(&mut kernel, &[Op::Remove(Key::Bridge(vni(7)))]).unwrap();
    let expected = [
        "create bridge weft-br7",
        "change vxlan weft-vx7",
        "change port weft-1 (VNI 7)",
        "create fdb 02:00:00:00:00:01 (VNI 7)",
        "change fdb 02:00:00:00:00:02 (VNI 7)",
    ];
    assert_eq!(told(&diff(&host("192.0.2.1"), &kernel)), expected);
}

#[test]
fn half_an_fdb_entry_is_repaired_and_a_foreign_one_removed() {
    let mut kernel = host("192.0.2.1");
    kernel.insert(Key::Fdb(vni(7), mac(2)), Object::Fdb(Fdb { port: Some(port_of(0)), vtep: None }));
    let foreign = Fdb { port: Some("veth-of-somebody".to_owned()), vtep: None };
    kernel.insert(Key::Fdb(vni(7), mac(3)), Object::Fdb(foreign));
    let expected = ["remove fdb 02:00:00:00:00:03 (VNI 7)", "change fdb 02:00:00:00:00:02 (VNI 7)"];
    assert_eq!(told(&diff(&host("192.0.2.1"), &kernel)), expected);
}

#[test]
fn the_model_refuses_what_a_kernel_refuses() {
    let (key, object) = vxlan("192.0.2.1");
    let refused = apply_ops(&mut HostState::new(), &[Op::Create(key, object)]).unwrap_err();
    assert_eq!(refused.to_string(), "vxlan weft-vx7 cannot be made or changed: its bridge is not there");
    let flood = Op::Create(Key::Flood(vni(7), ip("192.0.2.2")), Object::Flood);
    assert!(apply_ops(&mut HostState::new(), &[flood]).unwrap_err().to_string().contains("VXLAN device"));
    let (key, to) = vxlan("192.0.2.9");
    let from = vxlan("192.0.2.1").1;
    let refused = apply_ops(&mut host("192.0.2.1"), &[Op::Change { key, from, to }]).unwrap_err();
    assert!(refused.to_string().contains("socket"), "{refused}");
}
