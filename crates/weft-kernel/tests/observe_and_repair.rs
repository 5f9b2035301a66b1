//! What is observed is what was applied, and what others change is seen and put right.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{GROUPS, Host, can_run, observable, one_network, ping_both_ways, run, two_hosts};
use std::{net::IpAddr, time::Duration};
use weft_kernel::Namespace;
use weft_model::{MacAddr, Vni};
use weft_plan::{Fdb, HostState, Key, Neighbour, Object, Op, diff, vxlan_name};

/// Everything about the devices of the overlay namespace, with their interface indexes.
fn devices(host: &Host) -> String {
    host.ip("-o link")
}

#[tokio::test]
async fn what_was_applied_is_observed_exactly_over_ipv4_and_ipv6() {
    if !can_run("ip") {
        return;
    }
    for ipv6_underlay in [false, true] {
        let (a, b, vni) = one_network(ipv6_underlay).await;
        for (host, peer) in [(&a, &b), (&b, &a)] {
            let desired = host.desired(peer, vni);
            assert_eq!(host.observe().await, observable(&desired));
            let kinds: Vec<&str> = desired.keys().map(Key::kind).collect();
            for kind in ["filter", "bridge", "vxlan", "port", "flood", "fdb", "neighbour", "group"] {
                assert!(kinds.contains(&kind), "the state has a {kind}");
            }
        }
    }
}

#[tokio::test]
async fn applying_again_changes_nothing() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let desired = a.desired(&b, vni);
    let before = devices(&a);
    assert_eq!(a.reconcile(&desired).await, []);
    // Also when every operation is done again, as after a lost answer.
    let again: Vec<Op> = desired.iter().map(|(k, o)| Op::Create(k.clone(), o.clone())).collect();
    for (op, outcome) in again.iter().zip(a.linux.apply(&again).await) {
        assert_eq!(outcome, Ok(()), "{op:?}");
    }
    assert_eq!(devices(&a), before);
    assert_eq!(a.observe().await, observable(&desired));
    ping_both_ways(&a, &b);
}

#[tokio::test]
async fn everything_can_be_removed_twice() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let removals: Vec<Op> = a.desired(&b, vni).into_keys().rev().map(Op::Remove).collect();
    for _ in 0..2 {
        for (op, outcome) in removals.iter().zip(a.linux.apply(&removals).await) {
            assert_eq!(outcome, Ok(()), "{op:?}");
        }
        assert_eq!(a.observe().await, HostState::new());
    }
    let left = run(&format!("ip -n {} -o link", a.container.netns.name));
    assert!(!left.contains("eth0"), "the container's end went with the pair: {left}");
}

#[tokio::test]
async fn what_others_change_is_seen_and_put_right() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let desired = a.desired(&b, vni);
    let [bridge, vxlan] = lab::device_names(vni);
    let (port, mac) = (&a.container.port, b.container.mac);
    let (own, v4, v6, vtep) = (a.container.mac, b.container.v4, b.container.v6, b.vtep);
    let overlay = &a.overlay.0;
    let ip = |what: &str| format!("ip -n {overlay} {what}");
    let fdb = |what: &str| format!("bridge -n {overlay} fdb {what}");
    let damages = [
        fdb(&format!("del {mac} dev {vxlan} self")),
        fdb(&format!("del {mac} dev {vxlan} master")),
        fdb(&format!("del {own} dev {port} master")),
        fdb(&format!("del 00:00:00:00:00:00 dev {vxlan} dst {vtep} self")),
        fdb(&format!("replace {mac} dev {vxlan} dst 192.168.77.66 self")),
        fdb(&format!("replace {mac} dev {vxlan} dst {vtep} port 9999 self")),
        fdb(&format!("replace {mac} dev {port} master static")),
        fdb(&format!("replace {own} dev {port} master dynamic")),
        fdb(&format!("append 00:00:00:00:00:00 dev {vxlan} dst 192.168.77.66 self")),
        fdb(&format!("add 02:00:00:00:00:01 dev {vxlan} dst 192.168.77.66 self")),
        fdb(&format!("add 02:00:00:00:00:02 dev {port} master static")),
        ip(&format!("neigh del {v4} dev {vxlan}")),
        ip(&format!("neigh del {v6} dev {vxlan}")),
        ip(&format!("neigh replace {v4} lladdr 02:00:00:00:00:03 dev {vxlan} nud permanent")),
        ip(&format!("neigh add 10.77.0.200 lladdr 02:00:00:00:00:03 dev {vxlan} nud permanent")),
        ip(&format!("link set {bridge} down")),
        ip(&format!("link set {vxlan} down")),
        ip(&format!("link set {port} down")),
        ip(&format!("link set {port} nomaster")),
        ip(&format!("link set {vxlan} nomaster")),
        ip(&format!("link set {port} type bridge_slave learning on")),
        ip(&format!("link set {bridge} mtu 1400")),
        ip(&format!("link set {port} mtu 1400")),
        ip(&format!("link set {vxlan} mtu 1300")),
        ip(&format!("link set {bridge} address 02:00:00:00:00:04")),
        ip(&format!("link set {vxlan} address 02:00:00:00:00:05")),
        ip(&format!("link set {bridge} type bridge stp_state 1")),
        ip(&format!("link set {bridge} type bridge mcast_snooping 0")),
        ip(&format!("link set {bridge} type bridge mcast_querier 0")),
        ip(&format!("link set {bridge} type bridge mcast_hash_max 512")),
        ip(&format!("link set {vxlan} type bridge_slave mcast_router 1")),
        ip(&format!("addr flush dev {bridge}")),
        format!("ip netns exec {overlay} sysctl -qw net.ipv6.conf.{bridge}.disable_ipv6=1"),
        ip(&format!("link set {vxlan} type vxlan learning")),
        ip(&format!("link set {vxlan} type vxlan id {vni} local 192.168.77.66")),
        format!("ip netns exec {overlay} sysctl -qw net.ipv6.conf.{vxlan}.disable_ipv6=1"),
        ip(&format!("link del {bridge}")),
        ip(&format!("link del {vxlan}")),
        ip(&format!("link del {port}")),
        format!("ip netns exec {overlay} nft delete table bridge weft"),
        format!("ip netns exec {overlay} nft flush chain bridge weft forwarded"),
        format!("ip netns exec {overlay} nft add rule bridge weft own accept"),
        ip("link add weft-junk type bridge"),
        ip("link add weft-br77 type bridge"),
        ip("link add weft-vx78 type bridge"),
    ];
    for damage in damages {
        run(&damage);
        let found = a.observe().await;
        assert_ne!(found, observable(&desired), "`{damage}` is seen");
        a.reconcile(&desired).await;
        assert_eq!(a.observe().await, observable(&desired), "`{damage}` is put right");
    }
    let elsewhere = "192.168.77.66".parse().unwrap();
    let damages = [
        Op::Remove(Key::Group(vni, GROUPS[0], vtep)),
        Op::Remove(Key::Group(vni, lab::V6_ANY, lab::V4_ANY)),
        Op::Create(Key::Group(vni, GROUPS[1], elsewhere), Object::Group),
        Op::Create(Key::Group(vni, "239.9.9.9".parse().unwrap(), elsewhere), Object::Group),
    ];
    for damage in damages {
        assert_eq!(a.linux.apply(std::slice::from_ref(&damage)).await, [Ok(())]);
        assert_ne!(a.observe().await, observable(&desired), "{damage:?} is seen");
        assert_eq!(a.reconcile(&desired).await.len(), 1, "{damage:?}");
        assert_eq!(a.observe().await, observable(&desired), "{damage:?} is put right");
    }
    ping_both_ways(&a, &b);
}

#[tokio::test]
async fn a_device_of_another_kind_or_made_in_the_wrong_place_is_replaced() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let desired = a.desired(&b, vni);
    let [bridge, vxlan] = lab::device_names(vni);
    let port = a.container.port.clone();
    let impostors = [
        (&bridge, "type veth peer name other".to_owned()),
        (&port, "type bridge".to_owned()),
        (&vxlan, "type bridge".to_owned()),
        // Looks right, but its socket is in the overlay namespace, where no route leads out.
        (&vxlan, format!("type vxlan id {vni} local {} dstport 4789 nolearning proxy", a.vtep)),
        (&vxlan, format!("type vxlan id 99 local {} dstport 4790 nolearning proxy", a.vtep)),
    ];
    for (name, kind) in impostors {
        a.ip(&format!("link del {name}"));
        a.ip(&format!("link add {name} {kind}"));
        a.ip(&format!("link set {name} up"));
        assert_ne!(a.observe().await, observable(&desired), "a false {name}: {kind}");
        a.reconcile(&desired).await;
        assert_eq!(a.observe().await, observable(&desired), "a false {name}: {kind}");
        ping_both_ways(&a, &b);
    }
}

#[tokio::test]
async fn a_vxlan_device_keeps_its_entries_when_it_must_be_made_again() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let key = Key::Vxlan(vni);
    let from = a.observe().await;
    let Some(Object::Vxlan(mut vxlan)) = from.get(&key).cloned() else { panic!("{from:?}") };
    for change in ["port", "mac", "local"] {
        match change {
            "port" => vxlan.port = 4790,
            "mac" => vxlan.mac = MacAddr::for_device(7),
            _ => vxlan.local = "192.168.77.66".parse().unwrap(),
        }
        let (from, to) = (from[&key].clone(), Object::Vxlan(vxlan.clone()));
        let outcome = a.linux.apply(&[Op::Change { key: key.clone(), from, to: to.clone() }]).await;
        assert_eq!(outcome, [Ok(())], "{change}");
        let mut expected = a.desired(&b, vni);
        expected.insert(key.clone(), to);
        assert_eq!(a.observe().await, observable(&expected), "{change}");
    }
}

#[tokio::test]
async fn an_endpoint_that_moves_to_another_host_is_one_change() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let (key, vtep) = (Key::Fdb(vni, b.container.mac), Some(b.vtep));
    let local = Object::Fdb(Fdb { port: Some(a.container.port.clone()), vtep: None });
    let remote = Object::Fdb(Fdb { port: Some(vxlan_name(vni)), vtep });
    for (from, to) in [(&remote, &local), (&local, &remote)] {
        let change = Op::Change { key: key.clone(), from: from.clone(), to: to.clone() };
        assert_eq!(a.linux.apply(&[change]).await, [Ok(())]);
        assert_eq!(a.observe().await.get(&key), Some(to));
    }
}

#[tokio::test]
async fn a_restarted_daemon_adopts_everything() {
    if !can_run("ip") {
        return;
    }
    let (mut a, b, vni) = one_network(false).await;
    let desired = a.desired(&b, vni);
    let before = devices(&a);
    a.restart();
    assert_eq!(a.observe().await, observable(&desired));
    assert_eq!(a.reconcile(&desired).await, []);
    assert_eq!(devices(&a), before);
    ping_both_ways(&a, &b);
}

#[tokio::test]
async fn an_overlay_namespace_deleted_by_hand_comes_back_with_all_that_was_in_it() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let before = devices(&a);
    run(&format!("ip netns del {}", a.overlay.0));
    assert_eq!(a.observe().await, observable(&a.desired(&b, vni)));
    assert_eq!(devices(&a), before);
    // Somebody even made another one of the same name.
    run(&format!("ip netns del {}", a.overlay.0));
    run(&format!("ip netns add {}", a.overlay.0));
    assert_eq!(a.reconcile(&a.desired(&b, vni)).await, []);
    assert_eq!(devices(&a), before);
    ping_both_ways(&a, &b);
}

#[tokio::test]
async fn a_daemon_that_starts_without_its_overlay_namespace_makes_it_anew() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let lab::Host { linux, overlay, netns, container, vtep, datapath } = a;
    drop(linux);
    run(&format!("ip netns del {}", overlay.0));
    // The kernel takes namespaces down in its own time; until then the old device has the VNI.
    let gone = || run(&format!("ip -n {} -o link", container.netns.name));
    lab::wait_for("the old namespace is gone", || (!gone().contains("eth0")).then_some(()));
    let linux = lab::start(&netns, &overlay.0, datapath);
    let a = lab::Host { linux, overlay, netns, container, vtep, datapath };
    assert_eq!(a.observe().await, HostState::new());
    a.reconcile(&a.desired(&b, vni)).await;
    ping_both_ways(&a, &b);
}

#[tokio::test]
async fn twenty_thousand_remote_endpoints_are_filled_and_observed() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let mut desired = a.desired(&b, vni);
    for number in 0..20_000u32 {
        let address = std::net::Ipv4Addr::from_bits(u32::from_be_bytes([10, 78, 0, 0]) + number);
        let (mac, address) = (MacAddr::for_address(address.into()), IpAddr::from(address));
        let fdb = Fdb { port: Some(vxlan_name(vni)), vtep: Some(b.vtep) };
        desired.insert(Key::Fdb(vni, mac), Object::Fdb(fdb));
        desired.insert(Key::Neighbour(vni, address), Object::Neighbour(Neighbour { mac }));
    }
    assert_eq!(a.reconcile(&desired).await.len(), 40_000);
    assert_eq!(diff(&desired, &a.observe().await), []);
    // One that cannot be done does not stop the others.
    let nowhere = Vni::new(4242).unwrap();
    let neighbour = Object::Neighbour(Neighbour { mac: b.container.mac });
    let mut ops = vec![Op::Create(Key::Neighbour(nowhere, b.vtep), neighbour)];
    ops.extend(diff(&a.desired(&b, vni), &desired));
    let outcomes = a.linux.apply(&ops).await;
    let error = outcomes[0].clone().unwrap_err().to_string();
    assert!(error.contains("weft-vx4242") && error.contains("not there"), "{error}");
    assert!(outcomes[1..].iter().all(Result::is_ok));
    assert_eq!(a.observe().await, observable(&a.desired(&b, vni)));
}

#[tokio::test]
async fn news_are_reported_once_and_not_lost_in_between() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network(false).await;
    let [bridge, vxlan] = lab::device_names(vni);
    let quiet = Duration::from_millis(300);
    let changed = async || tokio::time::timeout(quiet, a.linux.changed()).await.is_ok();
    assert!(changed().await, "what was applied is news");
    while changed().await {}
    for news in [
        format!("ip -n {} link set {bridge} mtu 1400", a.overlay.0),
        format!("ip -n {} neigh del {} dev {vxlan}", a.overlay.0, b.container.v4),
        format!("bridge -n {} fdb del {} dev {vxlan} self", a.overlay.0, b.container.mac),
        format!("bridge -n {} fdb del {} dev {vxlan} master", a.overlay.0, b.container.mac),
    ] {
        run(&news);
        assert!(changed().await, "`{news}` is news");
        while changed().await {}
    }
}

#[tokio::test]
async fn the_overlay_namespace_is_not_the_hosts() {
    if !can_run("ip") {
        return;
    }
    let (a, _b) = two_hosts(false);
    let options = weft_kernel::LinuxOptions { overlay_netns: a.netns.name.clone() };
    let outcome = a.netns.namespace.run(|| weft_kernel::Linux::new(&options)).unwrap();
    let error = outcome.err().unwrap().to_string();
    assert!(error.contains(&a.netns.name) && error.contains("host's own namespace"), "{error}");
    assert!(Namespace::open("/run/netns/no-such").is_err());
}
