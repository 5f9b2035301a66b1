//! The fast path outlives the daemon, is put right when others change it, and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use aya::maps::{HashMap as BpfMap, Map, MapData};
use lab::{
    Datapath, Host, can_run, observable, one_network_with, ping_both_ways,
    programs::{BOTH, counters, identities, of_container, pin, programs_at, table, wait_until_detached},
    run, socket,
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use weft_kernel::fast_path;
use weft_model::MacAddr;
use weft_plan::HostState;

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
                for slot in 0..hosts.len() {
                    hosts.set(slot, [0; 36], 0).unwrap();
                }
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
async fn maps_of_another_layout_are_not_adopted() {
    if !can_run("ip") {
        return;
    }
    let (mut a, b, vni) = one_network_with(false, BOTH).await;
    let foreign = BpfMap::<MapData, u32, [u8; 999]>::create(16, 0).unwrap();
    std::fs::remove_file(pin(&a, "maps/stations")).unwrap();
    foreign.pin(pin(&a, "maps/stations")).unwrap();
    a.restart();
    a.reconcile(&a.desired(&b, vni)).await;
    assert_eq!(a.observe().await, observable(&a.desired(&b, vni)));
    ping_both_ways(&a, &b);
    assert!(of_container(&a, &a.container).await.rx_packets >= 4);
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
