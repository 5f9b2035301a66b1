//! The fast path carries what it should, beside the kernel's path and with it, and outlives the daemon.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use aya::{
    maps::{HashMap as BpfMap, Map, MapData},
    programs::{
        SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
    },
};
use lab::{
    Container, Datapath, Host, can_run, observable, one_network_with, ping, ping_both_ways, run, socket,
};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use weft_kernel::{Counter, Counters, FastPath, LinuxOptions, fast_path};
use weft_model::{MacAddr, Vni};
use weft_plan::{Fdb, HostState, Key, Object};

const BOTH: [Datapath; 2] = [Datapath::Ebpf; 2];

/// What a host's programs have carried.
async fn counters(host: &Host) -> Counters {
    host.linux.counters().await.unwrap().unwrap()
}

async fn of_container(host: &Host, container: &Container) -> Counter {
    counters(host).await.ports[&container.port]
}

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

fn pin(host: &Host, name: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/weft/{}/v1/{name}", host.overlay.0))
}

fn table<const K: usize, const V: usize>(host: &Host, name: &str) -> BpfMap<MapData, [u8; K], [u8; V]> {
    let data = MapData::from_pin(pin(host, &format!("maps/{name}"))).unwrap();
    BpfMap::try_from(Map::from_map_data(data).unwrap()).unwrap()
}

/// The kernel's numbers of all maps and links.
fn identities(host: &Host) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for folder in ["maps", "links/from_container", "links/to_wire", "links/from_wire", "links/to_container"] {
        for entry in std::fs::read_dir(pin(host, folder)).unwrap() {
            let path = entry.unwrap().path();
            let id = if folder == "maps" {
                MapData::from_pin(&path).unwrap().info().unwrap().id()
            } else {
                FdLink::from(PinnedLink::from_pin(&path).unwrap()).info().unwrap().id()
            };
            found.push((path, id));
        }
    }
    found.sort();
    found
}

/// How many programs are attached to a device of the host's namespace or of the overlay namespace.
fn programs_at(host: &Host, in_overlay: bool, device: &str) -> usize {
    let look = || SchedClassifier::query_tcx(device, TcAttachType::Ingress).unwrap().1.len();
    if !in_overlay {
        return host.netns.namespace.run(look).unwrap();
    }
    let overlay = weft_kernel::Namespace::open(format!("/run/netns/{}", host.overlay.0));
    overlay.unwrap().run(look).unwrap()
}

/// The kernel lets go of a program a moment after its pin.
fn wait_until_detached(host: &Host, in_overlay: bool, device: &str) {
    lab::wait_for(&format!("no program is at {device}"), || {
        (programs_at(host, in_overlay, device) == 0).then_some(())
    });
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
            assert!(carried.drops.len() >= 3 && carried.drops.values().all(|n| *n == 0), "{carried:?}");
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
    let group = Ipv4Addr::new(239, 1, 2, 3);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_daemon_adopts_all_of_it_and_no_packet_is_lost() {
    if !can_run("ip") {
        return;
    }
    let (mut a, b, vni) = one_network_with(false, BOTH).await;
    ping_both_ways(&a, &b);
    let (desired, before, carried) = (a.desired(&b, vni), identities(&a), counters(&a).await);
    assert!(before.len() >= 11, "seven maps and four links: {before:?}");
    let over = AtomicBool::new(false);
    let server = socket(&b.container, (b.container.v4, 0));
    let client = socket(&a.container, (a.container.v4, 0));
    client.connect(server.local_addr().unwrap()).unwrap();
    let (sent, received) = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0u64;
            while !over.load(Ordering::SeqCst) {
                client.send(&sent.to_le_bytes()).unwrap();
                sent += 1;
                thread::sleep(Duration::from_micros(100));
            }
            sent
        });
        let receiver = scope.spawn(|| {
            let (mut received, mut buffer) = (0u64, [0; 8]);
            // Reading gives up after a fifth of a second of silence.
            while server.recv(&mut buffer).is_ok() {
                received += 1;
            }
            received
        });
        for _ in 0..2 {
            a.restart();
            let ops = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(a.reconcile(&desired))
            });
            assert_eq!(ops, [], "adoption changes nothing");
        }
        over.store(true, Ordering::SeqCst);
        (sender.join().unwrap(), receiver.join().unwrap())
    });
    assert!(sent > 100, "{sent} datagrams were sent meanwhile");
    assert_eq!(received, sent);
    assert_eq!(identities(&a), before, "maps and links are the same ones");
    let now = counters(&a).await;
    let port = &a.container.port;
    assert!(now.ports[port].tx_packets >= carried.ports[port].tx_packets + sent, "{carried:?} {now:?}");
}

/// What somebody does, in words and in deed.
type Damage<'a> = (&'static str, Box<dyn Fn() + 'a>);

/// Makes the first entry of a map another one, or takes it away.
fn damage<const K: usize, const V: usize>(host: &Host, name: &str, value: Option<[u8; V]>) {
    let mut table = table::<K, V>(host, name);
    let key = table.keys().next().unwrap().unwrap();
    match value {
        Some(value) => table.insert(key, value, 0).unwrap(),
        None => table.remove(&key).unwrap(),
    }
}

/// Whether the host is told to be not as it should be. The kernel lets go of a program a moment after its pin.
async fn is_seen(host: &Host, desired: &HostState) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if host.observe().await != observable(desired) {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn what_others_change_of_maps_programs_and_trunk_is_seen_and_put_right() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network_with(false, BOTH).await;
    let desired = a.desired(&b, vni);
    let unpin = |name: &str| std::fs::remove_file(pin(&a, name)).unwrap();
    let port = a.container.port.clone();
    let damages: [Damage<'_>; 16] = [
        ("a station is gone", Box::new(|| damage::<12, 24>(&a, "stations", None))),
        ("a station is elsewhere", Box::new(|| damage::<12, 24>(&a, "stations", Some([9; 24])))),
        ("a port is gone", Box::new(|| damage::<4, 8>(&a, "ports", None))),
        ("a port is of another network", Box::new(|| damage::<4, 8>(&a, "ports", Some([9; 8])))),
        ("a neighbour is gone", Box::new(|| damage::<20, 8>(&a, "neighbours", None))),
        ("a neighbour is another", Box::new(|| damage::<20, 8>(&a, "neighbours", Some([9; 8])))),
        ("a peer is gone", Box::new(|| damage::<16, 4>(&a, "peers", None))),
        (
            "a station too many",
            Box::new(|| {
                let mut key = [0; 12];
                key[..4].copy_from_slice(&vni.get().to_ne_bytes());
                key[4..10].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
                table::<12, 24>(&a, "stations").insert(key, [0; 24], 0).unwrap();
            }),
        ),
        (
            "a neighbour too many",
            Box::new(|| {
                let mut key = [7; 20];
                key[..4].copy_from_slice(&vni.get().to_ne_bytes());
                table::<20, 8>(&a, "neighbours").insert(key, [2; 8], 0).unwrap();
            }),
        ),
        (
            "this host is forgotten",
            Box::new(|| {
                let data = MapData::from_pin(pin(&a, "maps/hosts")).unwrap();
                let map = Map::from_map_data(data).unwrap();
                let mut hosts = aya::maps::Array::<_, [u8; 36]>::try_from(map).unwrap();
                hosts.set(0, [0; 36], 0).unwrap();
            }),
        ),
        ("a near end has no program", Box::new(|| unpin(&format!("links/from_container/{port}")))),
        ("the uplink has no program", Box::new(|| unpin("links/from_wire/u0"))),
        ("the trunk has no program here", Box::new(|| unpin("links/to_wire/weft-trunk"))),
        ("the trunk has no program there", Box::new(|| unpin("links/to_container/weft-trunk"))),
        ("the trunk is gone", Box::new(|| drop(run(&format!("ip -n {} link del weft-trunk", a.netns.name))))),
        (
            "the trunk forwards nothing",
            Box::new(|| {
                let off = || std::fs::write("/proc/sys/net/ipv4/conf/weft-trunk/forwarding", "0").unwrap();
                a.netns.namespace.run(off).unwrap();
            }),
        ),
    ];
    for (what, damage) in damages {
        damage();
        assert!(is_seen(&a, &desired).await, "{what}: that is seen");
        let ops = a.reconcile(&desired).await;
        assert_eq!(ops.len(), 1, "{what}: one object is told: {ops:?}");
        assert_eq!(a.observe().await, observable(&desired), "{what}: that is put right");
        let before = of_container(&a, &a.container).await;
        ping_both_ways(&a, &b);
        let after = of_container(&a, &a.container).await;
        assert!(
            after.tx_packets >= before.tx_packets + 4 && after.rx_packets >= before.rx_packets + 4,
            "{what}: the programs carry again: {before:?} {after:?}"
        );
    }
    assert_eq!(table::<20, 8>(&a, "neighbours").keys().count(), 2);
    assert_eq!(table::<12, 24>(&a, "stations").keys().count(), 2);
}

#[tokio::test]
async fn pins_that_are_all_gone_are_made_again() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network_with(false, BOTH).await;
    let desired = a.desired(&b, vni);
    std::fs::remove_dir_all(pin(&a, "links")).unwrap();
    for (in_overlay, device) in [(true, a.container.port.as_str()), (false, "u0"), (false, "weft-trunk")] {
        wait_until_detached(&a, in_overlay, device);
    }
    // Nothing is lost meanwhile: the kernel's path is there.
    ping_both_ways(&a, &b);
    a.reconcile(&desired).await;
    assert_eq!(a.observe().await, observable(&desired));
    let before = of_container(&a, &a.container).await;
    ping_both_ways(&a, &b);
    assert!(of_container(&a, &a.container).await.rx_packets >= before.rx_packets + 4);
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

#[test]
fn this_kernel_can_have_the_fast_path() {
    if can_run("ip") {
        assert_eq!(fast_path::probe(), Ok(()));
    }
}

#[tokio::test]
async fn a_near_end_that_was_made_again_has_its_new_number_everywhere() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network_with(false, BOTH).await;
    let index = |host: &Host| table::<4, 8>(host, "ports").keys().next().unwrap().unwrap();
    let before = index(&a);
    a.ip(&format!("link del {}", a.container.port));
    a.reconcile(&a.desired(&b, vni)).await;
    assert_ne!(index(&a), before);
    assert_eq!(table::<4, 8>(&a, "ports").keys().count(), 1, "the old number is gone");
    assert_eq!(a.observe().await, observable(&a.desired(&b, vni)));
    ping_both_ways(&a, &b);
    assert!(of_container(&a, &a.container).await.rx_packets >= 4);
}

#[tokio::test]
async fn the_program_at_the_uplink_follows_the_vtep_address() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network_with(false, BOTH).await;
    let ip = |what: &str| run(&format!("ip -n {} {what}", a.netns.name));
    ip("link add u1 type bridge");
    ip("link set u0 master u1");
    ip("addr del 192.168.77.1/24 dev u0");
    ip("addr add 192.168.77.1/24 dev u1");
    ip("link set u1 up");
    a.reconcile(&a.desired(&b, vni)).await;
    assert_eq!(programs_at(&a, false, "u1"), 1);
    wait_until_detached(&a, false, "u0");
    let before = counters(&a).await.peers[&b.vtep];
    ping_both_ways(&a, &b);
    let after = counters(&a).await.peers[&b.vtep];
    assert!(after.rx_packets >= before.rx_packets + 4, "{before:?} {after:?}");
}

#[tokio::test]
async fn a_host_goes_back_to_the_kernels_path_and_forth() {
    if !can_run("ip") {
        return;
    }
    let (mut a, b, vni) = one_network_with(false, BOTH).await;
    let desired = a.desired(&b, vni);
    ping_both_ways(&a, &b);
    fast_path::remove(&a.overlay.0).unwrap();
    a.datapath = Datapath::Kernel;
    a.restart();
    assert_eq!(a.reconcile(&desired).await, []);
    wait_until_detached(&a, true, &a.container.port);
    wait_until_detached(&a, false, "u0");
    assert!(!pin(&a, "").exists());
    assert!(!run(&format!("ip -n {} link", a.netns.name)).contains("weft-trunk"));
    ping_both_ways(&a, &b);
    a.datapath = Datapath::Ebpf;
    a.restart();
    a.reconcile(&desired).await;
    assert_eq!(a.observe().await, observable(&desired));
    ping_both_ways(&a, &b);
    assert!(of_container(&a, &a.container).await.rx_packets >= 4);
}

#[tokio::test]
async fn the_last_network_takes_what_is_hosts_with_it_and_removal_leaves_nothing() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network_with(false, BOTH).await;
    ping_both_ways(&a, &b);
    a.reconcile(&HostState::new()).await;
    assert_eq!(a.observe().await, HostState::new());
    wait_until_detached(&a, false, "u0");
    for count in [
        table::<12, 24>(&a, "stations").keys().count(),
        table::<20, 8>(&a, "neighbours").keys().count(),
        table::<4, 8>(&a, "ports").keys().count(),
        table::<16, 4>(&a, "peers").keys().count(),
    ] {
        assert_eq!(count, 0);
    }
    a.reconcile(&a.desired(&b, vni)).await;
    ping_both_ways(&a, &b);
    let remove = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(weft_kernel::remove_everything(&a.overlay.0))
    };
    a.netns.namespace.run(remove).unwrap().unwrap();
    assert!(!pin(&a, "").parent().unwrap().exists());
    wait_until_detached(&a, false, "u0");
    assert!(!run(&format!("ip -n {} link", a.netns.name)).contains("weft"));
}

#[tokio::test]
async fn a_hundred_thousand_stations_are_read_at_once() {
    if !can_run("ip") {
        return;
    }
    let (a, b, vni) = one_network_with(false, BOTH).await;
    let mut stations = table::<12, 24>(&a, "stations");
    let mut key = [0; 12];
    key[..4].copy_from_slice(&vni.get().to_ne_bytes());
    for number in 0..100_000u32 {
        key[4..10].copy_from_slice(&MacAddr::for_device(number).0);
        stations.insert(key, [1; 24], 0).unwrap();
    }
    // They are at a port that is not there: nobody is told of them, and the next change sweeps them away.
    let begun = Instant::now();
    assert_eq!(a.observe().await, observable(&a.desired(&b, vni)));
    eprintln!("100,000 stations observed in {:?}", begun.elapsed());
    a.linux.apply(&[]).await;
    assert_eq!(stations.keys().count(), 2);
}
