//! The fast path carries what it should, beside the kernel's path and with it.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use aya::maps::MapData;
use lab::{
    Container, Datapath, Host, can_run, observable, one_network_with, ping, ping_both_ways,
    programs::{BOTH, counters, of_container, pin, table},
    run, socket,
};
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};
use weft_kernel::{FastPath, LinuxOptions, fast_path};
use weft_model::Vni;
use weft_plan::{Fdb, Key, Object};

/// Bytes that look random and are the same for the same seed (xorshift).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(length).collect()
}

/// Sends bytes over TCP from one container to another, which compares each of them and answers.
fn transfer(from: &Container, to: &Container, ipv6: bool, length: usize) {
    let address = |c: &Container| if ipv6 { c.v6 } else { c.v4 };
    let listen = || TcpListener::bind(SocketAddr::new(address(to), 0)).unwrap();
    let listener = to.netns.namespace.run(listen).unwrap();
    let target = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut received = vec![0; length];
            stream.read_exact(&mut received).unwrap();
            assert!(received == noise(7, length), "every byte is as it was sent");
            stream.write_all(&noise(9, length / 4)).unwrap();
        });
        let connect = || TcpStream::connect_timeout(&target, Duration::from_secs(10)).unwrap();
        let mut stream = from.netns.namespace.run(connect).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(&noise(7, length)).unwrap();
        let mut answer = vec![0; length / 4];
        stream.read_exact(&mut answer).unwrap();
        assert!(answer == noise(9, length / 4), "every byte of the answer too");
        receiver.join().unwrap();
    });
}

/// Frames that the host's VXLAN device has sent and received.
fn through_vxlan(host: &Host, vni: Vni) -> u64 {
    let numbers = run(&format!(
        "ip netns exec {} cat /sys/class/net/weft-vx{vni}/statistics/tx_packets /sys/class/net/weft-vx{vni}/statistics/rx_packets",
        host.overlay.0
    ));
    numbers.split_whitespace().map(|number| number.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn containers_on_two_hosts_reach_each_other_past_bridge_and_vxlan_device() {
    if !can_run("ip") {
        return;
    }
    for ipv6_underlay in [false, true] {
        let (a, b, vni) = one_network_with(ipv6_underlay, BOTH).await;
        ping_both_ways(&a, &b);
        let before = (through_vxlan(&a, vni), through_vxlan(&b, vni));
        for ipv6 in [false, true] {
            transfer(&a.container, &b.container, ipv6, 4 << 20);
            transfer(&b.container, &a.container, ipv6, 4 << 20);
        }
        let after = (through_vxlan(&a, vni), through_vxlan(&b, vni));
        assert!(after.0 - before.0 < 10 && after.1 - before.1 < 10, "{before:?} {after:?}");
        for (host, peer) in [(&a, &b), (&b, &a)] {
            let carried = counters(host).await;
            let (port, with_peer) = (carried.ports[&host.container.port], carried.peers[&peer.vtep]);
            for bytes in [port.tx_bytes, port.rx_bytes, with_peer.tx_bytes, with_peer.rx_bytes] {
                assert!(bytes > 10 << 20, "10 MiB each way: {carried:?}");
            }
            let reasons = MapData::from_pin(pin(host, "maps/drops")).unwrap().info().unwrap().max_entries();
            assert_eq!(carried.drops.len(), reasons as usize, "every reason has its words");
            assert!(carried.drops.values().all(|n| *n == 0), "{carried:?}");
        }
    }
}

#[tokio::test]
async fn a_host_with_programs_and_one_without_understand_each_other() {
    if !can_run("ip") {
        return;
    }
    for ipv6_underlay in [false, true] {
        let (a, b, _) = one_network_with(ipv6_underlay, [Datapath::Ebpf, Datapath::Kernel]).await;
        ping_both_ways(&a, &b);
        for ipv6 in [false, true] {
            transfer(&a.container, &b.container, ipv6, 2 << 20);
            transfer(&b.container, &a.container, ipv6, 2 << 20);
        }
        let sent = of_container(&a, &a.container).await;
        assert!(sent.tx_bytes > 4 << 20, "the programs have sent: {sent:?}");
        assert_eq!(b.linux.counters().await.unwrap(), None, "the kernel's path does not count");
    }
}

#[tokio::test]
async fn containers_on_one_host_reach_each_other_past_the_bridge() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network_with(false, BOTH).await;
    let second = Container::new(3);
    let mut desired = a.desired(&b, vni);
    desired.insert(Key::Port(vni, second.port.clone()), Object::Port(second.desired_port(a.mtu())));
    let fdb = Fdb { port: Some(second.port.clone()), vtep: None };
    desired.insert(Key::Fdb(vni, second.mac), Object::Fdb(fdb));
    a.reconcile(&desired).await;
    assert_eq!(a.observe().await, observable(&desired));
    for ipv6 in [false, true] {
        ping(&a.container, &second, ipv6, 100);
        transfer(&a.container, &second, ipv6, 4 << 20);
        transfer(&second, &a.container, ipv6, 4 << 20);
    }
    let bridged =
        run(&format!("ip netns exec {} cat /sys/class/net/{}/statistics/tx_bytes", a.overlay.0, second.port));
    assert!(bridged.trim().parse::<u64>().unwrap() < 1 << 20, "the port itself sent little: {bridged}");
    let received = of_container(&a, &second).await;
    assert!(received.rx_bytes > 8 << 20 && received.tx_bytes > 8 << 20, "{received:?}");
    // Gone is gone, for programs too.
    a.reconcile(&a.desired(&b, vni)).await;
    assert!(!counters(&a).await.ports.contains_key(&second.port));
    assert_eq!(table::<4, 8>(&a, "ports").keys().count(), 1);
    assert_eq!(table::<12, 24>(&a, "stations").keys().count(), 2);
    ping_both_ways(&a, &b);
}

#[tokio::test]
async fn broadcast_and_multicast_arrive_by_the_kernels_path() {
    if !can_run("ip") {
        return;
    }
    let (a, b, _) = one_network_with(false, BOTH).await;
    let IpAddr::V4(group) = lab::GROUPS[0] else { panic!("not an IPv4 group") };
    let server = socket(&b.container, (Ipv4Addr::UNSPECIFIED, 0));
    server.join_multicast_v4(&group, &Ipv4Addr::new(10, 77, 0, 2)).unwrap();
    let port = server.local_addr().unwrap().port();
    let client = socket(&a.container, (a.container.v4, 0));
    client.set_broadcast(true).unwrap();
    for target in [Ipv4Addr::new(10, 77, 0, 255), Ipv4Addr::BROADCAST, group] {
        let mut buffer = [0; 64];
        lab::wait_for(&format!("a datagram to {target} arrives"), || {
            client.send_to(&target.octets(), (target, port)).unwrap();
            let (length, _) = server.recv_from(&mut buffer).ok()?;
            (buffer[..length] == target.octets()).then_some(())
        });
    }
}

#[test]
fn this_kernel_can_have_the_fast_path() {
    if can_run("ip") {
        assert_eq!(fast_path::probe(), Ok(()));
    }
}

#[tokio::test]
async fn a_second_daemon_in_one_namespace_is_told_why_it_cannot_have_a_trunk() {
    if !can_run("ip") {
        return;
    }
    let (a, b, _) = one_network_with(false, BOTH).await;
    let second = lab::Overlay(format!("{}2", a.overlay.0));
    let options = LinuxOptions { overlay_netns: second.0.clone() };
    let refused = a.netns.namespace.run(|| FastPath::new(&options).err().unwrap().to_string()).unwrap();
    assert!(refused.contains("does another weft daemon run in it?"), "{refused}");
    fast_path::remove(&second.0).unwrap();
    ping_both_ways(&a, &b);
    assert!(of_container(&a, &a.container).await.rx_packets >= 4, "the first one's is as it was");
}
