//! Packets of direct networks cross the link between two hosts as they are; where they cannot, and on all other networks, frames
//! have outer headers as ever.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod lab;

use lab::{
    Datapath::{self, Ebpf, Kernel},
    can_run,
    cluster::{Cluster, FRAMES, SEGMENTS, ethtool, uplink_mac},
    observable,
    programs::{counters, table},
    run,
    traffic::{assert_none, burst, datagrams, stream, trains, wait_for_path},
    wait_for,
};
use std::{net::UdpSocket, process::Command, time::Duration};
use weft_plan::{Key, Op};

const BULK: usize = 2 << 20;

/// Hosts on a switch with a container each on network 1, which is direct, and on network 2, which is not.
async fn hosts(ipv6_underlay: bool, datapaths: &[Datapath]) -> Cluster {
    let mut cluster = Cluster::on_a_switch(ipv6_underlay, datapaths);
    cluster.direct.insert(1);
    let mtu = cluster.mtu();
    for network in [1, 2] {
        for host in 0..datapaths.len() {
            cluster.attach(host, network, mtu);
        }
    }
    cluster.reconcile().await;
    cluster
}

/// Counts, at a port of the switch, the packets that a host sends.
struct OnTheWire(String);

impl OnTheWire {
    fn of(cluster: &Cluster, host: usize) -> Self {
        let counter = Self(cluster.wires[0].name.clone());
        let port = format!("w{}", host + 1);
        let table = format!("add table netdev {port}");
        let chain =
            format!("add chain netdev {port} c {{ type filter hook ingress device {port} priority 0; }}");
        counter.nft(&[&table]);
        counter.nft(&[&chain]);
        for rule in ["udp dport 4789", "ip daddr 10.1.0.0/24", "ip6 daddr fd01::/64"] {
            counter.nft(&[&format!("add rule netdev {port} c {rule} counter")]);
        }
        Self(format!("{} {port}", counter.0))
    }

    fn nft(&self, arguments: &[&str]) -> String {
        let namespace = self.0.split(' ').next().unwrap();
        let output =
            Command::new("ip").args(["netns", "exec", namespace, "nft"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Packets of VXLAN, and packets of network 1 that came as they are.
    fn count(&self) -> (u64, u64) {
        let port = self.0.split(' ').nth(1).unwrap();
        let told = self.nft(&["list", "table", "netdev", port]);
        let counts = told.split("packets ").skip(1);
        let counts: Vec<u64> = counts.map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect();
        (counts[0], counts[1] + counts[2])
    }
}

fn exchange(cluster: &Cluster, a: usize, b: usize, setting: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for ipv6 in [false, true] {
        let (a, b) = (cluster.attachments[a].end(ipv6), cluster.attachments[b].end(ipv6));
        wait_for_path(a, b);
        let whole = usize::try_from(cluster.mtu().get()).unwrap() - if ipv6 { 48 } else { 28 };
        let outcomes = [
            stream(a, b, BULK),
            datagrams(a, b, &[0, 1, 2, 3, 63, 64, 65, 511, 1400, whole, whole + 1, 1472, 1500, 9000, 60_000]),
            burst(a, b, whole, 100),
            burst(b, a, 512, 100),
            trains(a, b, 1200, 5),
            trains(b, a, 500, 5),
        ];
        let told = |fault| format!("{setting}, IPv6 {ipv6}: {fault}");
        faults.extend(outcomes.into_iter().filter_map(Result::err).map(told));
    }
    faults
}

/// The features of uplinks and of containers' interfaces.
const SETTINGS: [(&str, &str); 6] = [
    (SEGMENTS, "tso on"),
    (FRAMES, "tso on"),
    ("tx off", "tso on"),
    ("tx off sg off tso off gso off gro off", "tso on"),
    ("gro on rx-udp-gro-forwarding on", "tx off tso off"),
    (FRAMES, "tx off sg off tso off gso off gro off"),
];

async fn everything_arrives(ipv6_underlay: bool) {
    let cluster = hosts(ipv6_underlay, &[Ebpf; 2]).await;
    let wires = [OnTheWire::of(&cluster, 0), OnTheWire::of(&cluster, 1)];
    for ipv6 in [false, true] {
        wait_for_path(cluster.attachments[0].end(ipv6), cluster.attachments[1].end(ipv6));
    }
    let before = [wires[0].count(), wires[1].count()];
    let mut faults = Vec::new();
    for (uplinks, interfaces) in SETTINGS {
        for end in 0..2 {
            for features in [SEGMENTS, uplinks] {
                cluster.uplink(end, features);
            }
            for features in [SEGMENTS, interfaces] {
                cluster.interface(end, features);
            }
        }
        faults.extend(exchange(&cluster, 0, 1, uplinks));
    }
    assert_none(&faults);
    for (wire, before) in wires.iter().zip(before) {
        let (vxlan, plain) = wire.count();
        let (vxlan, plain) = (vxlan - before.0, plain - before.1);
        assert!(plain > 500, "they cross the wire as they are: {plain}");
        // The first to a peer on each processor ask for the way, until the neighbour has answered; and again when it was forgotten.
        assert!(vxlan * 100 <= plain, "{vxlan} of {plain} had outer headers");
    }
    for host in 0..2 {
        assert!(counters(&cluster.hosts[host]).await.drops.values().all(|n| *n == 0));
        let carried = cluster.carried(host).await;
        let bulk = u64::try_from(2 * BULK * SETTINGS.len()).unwrap();
        assert!(carried.tx_bytes > bulk && carried.rx_bytes > bulk, "counted as any other: {carried:?}");
        let peer = counters(&cluster.hosts[host]).await.peers[&cluster.hosts[1 - host].vtep];
        assert!(peer.tx_bytes > bulk && peer.rx_bytes > bulk, "{peer:?}");
        assert_eq!(cluster.hosts[host].observe().await, observable(&cluster.desired(host)));
    }
    // The other network is carried as ever.
    let before = wires[0].count();
    assert_none(&exchange(&cluster, 2, 3, "the network that is not direct"));
    assert!(wires[0].count().0 > before.0 + 100);
}

#[tokio::test]
async fn everything_arrives_without_outer_headers_over_ipv4() {
    if can_run("ethtool") && can_run("nft") {
        everything_arrives(false).await;
    }
}

#[tokio::test]
async fn everything_arrives_without_outer_headers_over_ipv6() {
    if can_run("ethtool") && can_run("nft") {
        everything_arrives(true).await;
    }
}

#[tokio::test]
async fn what_an_uplink_puts_together_arrives_whole_and_datagrams_one_by_one() {
    if !can_run("ethtool") || !can_run("nft") {
        return;
    }
    let mut faults = Vec::new();
    for ipv6_underlay in [false, true] {
        let mut cluster = Cluster::on_a_wire_of_bytes(ipv6_underlay, [Ebpf; 2]);
        cluster.direct.insert(1);
        let mtu = cluster.mtu();
        for host in 0..2 {
            cluster.attach(host, 1, mtu);
            // It waits a moment for more of the same flow. A busy one need not.
            let patient = "/sys/class/net/u0/gro_flush_timeout";
            let namespace = &cluster.hosts[host].netns.name;
            run(&format!("ip netns exec {namespace} sh -c echo${{IFS}}200000>{patient}"));
        }
        cluster.reconcile().await;
        let wire = OnTheWire::of(&cluster, 0);
        for features in [
            "gro off",
            "gro on",
            "gro on rx-udp-gro-forwarding on",
            "gro on rx-udp-gro-forwarding off rx-gro-list on",
        ] {
            (0..2).for_each(|host| ethtool(&cluster.hosts[host].netns.name, "u0", features));
            faults.extend(exchange(&cluster, 0, 1, features));
        }
        let (vxlan, plain) = wire.count();
        assert!(plain > 1000 && vxlan < 20, "{plain} as they are, {vxlan} in outer headers");
        for host in 0..2 {
            assert!(counters(&cluster.hosts[host]).await.drops.values().all(|n| *n == 0));
        }
    }
    assert_none(&faults);
}

#[tokio::test]
async fn a_host_on_the_kernels_path_gets_outer_headers() {
    if !can_run("ethtool") || !can_run("nft") {
        return;
    }
    let cluster = hosts(false, &[Ebpf, Kernel, Ebpf]).await;
    let wires = [OnTheWire::of(&cluster, 0), OnTheWire::of(&cluster, 1)];
    assert_none(&exchange(&cluster, 0, 1, "to the kernel's path"));
    let counts = [wires[0].count(), wires[1].count()];
    assert!(counts.iter().all(|(vxlan, plain)| *vxlan > 100 && *plain == 0), "{counts:?}");
    assert_none(&exchange(&cluster, 0, 2, "beside it"));
    assert!(wires[0].count().1 > 100);
}

/// Sends datagrams to an address and tells whether one arrives at the socket.
fn arrives(from: &UdpSocket, to: &UdpSocket) -> bool {
    to.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    for _ in 0..3 {
        let _refused = from.send_to(b"let me in", to.local_addr().unwrap());
        if to.recv_from(&mut [0; 64]).is_ok() {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn a_container_cannot_send_into_another_direct_network() {
    if !can_run("ip") {
        return;
    }
    let mut cluster = Cluster::on_a_switch(false, &[Ebpf; 2]);
    cluster.direct.extend([1, 3]);
    let mtu = cluster.mtu();
    let second = lab::Container::new(9);
    let (inside, neighbour) = (cluster.attach(0, 1, mtu), cluster.attach(1, 1, mtu));
    let victim = cluster.attach_other(1, &second, 3, mtu);
    let third = lab::Container::new(8);
    let friend = cluster.attach_other(0, &third, 3, mtu);
    cluster.reconcile().await;
    for ipv6 in [false, true] {
        let [inside, neighbour, victim, friend] =
            [inside, neighbour, victim, friend].map(|n| cluster.attachments[n].end(ipv6));
        wait_for_path(inside, neighbour);
        wait_for_path(friend, victim);
    }
    // It routes what is for the other network to its neighbour's MAC address, whose host has the victim, or straight at the victim's.
    let [of_neighbour, of_victim, of_friend] =
        [neighbour, victim, friend].map(|n| cluster.attachments[n].clone());
    let open = |end: lab::traffic::End<'_>| {
        let address = end.address;
        end.namespace.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap()
    };
    for (family, address, length, near, source) in [
        ("-4", of_victim.v4, 32, of_neighbour.v4, of_friend.v4),
        ("-6", of_victim.v6, 128, of_neighbour.v6, of_friend.v6),
    ] {
        let ipv6 = family == "-6";
        let target = open(cluster.attachments[victim].end(ipv6));
        let honest = open(cluster.attachments[inside].end(ipv6));
        cluster.ip_in(inside, &format!("{family} route add {address}/{length} via {near} dev eth0"));
        assert!(!arrives(&honest, &target), "by a route to a neighbour, {family}");
        cluster.ip_in(inside, &format!("{family} route replace {address}/{length} dev eth0"));
        // As itself, and with the friend's address as the source.
        let nodad = if ipv6 { "nodad" } else { "" };
        cluster.ip_in(inside, &format!("{family} addr add {source}/{length} dev eth0 {nodad}"));
        let end = cluster.attachments[inside].end(ipv6);
        let forged = open(lab::traffic::End { address: source, ..end });
        for mac in [of_neighbour.mac(), of_victim.mac(), uplink_mac(&cluster.hosts[1])] {
            cluster.ip_in(inside, &format!("neigh replace {address} lladdr {mac} dev eth0"));
            for (from, whose) in [(&honest, "its own"), (&forged, "the friend's")] {
                assert!(!arrives(from, &target), "from {whose} address to {mac}, {family}");
            }
        }
        let friend = open(cluster.attachments[friend].end(ipv6));
        assert!(arrives(&friend, &target), "the friend itself is let in");
    }
}

#[tokio::test]
async fn a_stranger_on_the_link_is_not_let_in_and_a_station_that_is_not_known_yet_is() {
    if !can_run("ip") {
        return;
    }
    let cluster = hosts(false, &[Ebpf; 3]).await;
    let (a, b) = (cluster.attachments[0].clone(), cluster.attachments[1].clone());
    wait_for_path(cluster.attachments[0].end(false), cluster.attachments[1].end(false));
    let target = b.end(false).namespace.run(|| UdpSocket::bind((b.v4, 0)).unwrap()).unwrap();
    // The host itself sends to a station's address: not from one, so it is not carried, whoever the host is.
    let stranger = &cluster.hosts[2];
    let ip = |what: &str| run(&format!("ip -n {} {what}", stranger.netns.name));
    ip(&format!("route add {}/32 via {}", b.v4, cluster.hosts[1].vtep));
    let open = |address: &str| {
        let bind = || UdpSocket::bind((address, 0)).unwrap();
        stranger.netns.namespace.run(bind).unwrap()
    };
    assert!(!arrives(&open("192.168.77.3"), &target), "from the host's own address");
    // From an address of the network that nobody has: let in from a host that is known by its MAC address, and from no other.
    ip("addr add 10.1.0.99/32 dev lo");
    assert!(arrives(&open("10.1.0.99"), &target), "its host is known");
    let (_, spoken_for) = (a, open("10.1.0.99"));
    run(&format!("ip -n {} link set u0 down", stranger.netns.name));
    run(&format!("ip -n {} link set u0 address 02:99:99:99:99:99 up", stranger.netns.name));
    ip(&format!("route replace {}/32 via {}", b.v4, cluster.hosts[1].vtep));
    assert!(!arrives(&spoken_for, &target), "nobody knows this host");
    // What is for the host itself is the host's.
    let own = cluster.hosts[1].netns.namespace.run(|| UdpSocket::bind(("192.168.77.2", 0)).unwrap()).unwrap();
    assert!(arrives(&open("192.168.77.3"), &own));
}

#[tokio::test]
async fn a_gateway_on_the_way_is_seen_at_once_and_passed_in_outer_headers() {
    if !can_run("ethtool") || !can_run("nft") {
        return;
    }
    let cluster = hosts(false, &[Ebpf; 3]).await;
    let wire = OnTheWire::of(&cluster, 0);
    let (a, b) = (cluster.attachments[0].end(false), cluster.attachments[1].end(false));
    wait_for_path(a, b);
    assert_none(&[burst(a, b, 512, 100)].into_iter().filter_map(Result::err).collect::<Vec<_>>());
    let before = wire.count();
    assert!(before.1 >= 99, "{before:?}");
    lab::cluster::forward(&cluster.hosts[2].netns.namespace);
    run(&format!("ip -n {} route add 192.168.77.2/32 via 192.168.77.3", cluster.hosts[0].netns.name));
    // On each processor one is on its way without outer headers when the gateway is found.
    wait_for("the way through the gateway", || burst(a, b, 512, 100).ok());
    let (vxlan, plain) = wire.count();
    assert_none(&[burst(a, b, 512, 100)].into_iter().filter_map(Result::err).collect::<Vec<_>>());
    let after = wire.count();
    assert!(after.0 >= vxlan + 100, "{before:?} {vxlan} {plain} {after:?}");
    run(&format!("ip -n {} route del 192.168.77.2/32", cluster.hosts[0].netns.name));
    wait_for("the way without outer headers", || {
        let before = wire.count().1;
        burst(a, b, 512, 10).ok()?;
        (wire.count().1 >= before + 10).then_some(())
    });
}

#[tokio::test]
async fn what_others_change_of_it_is_put_right() {
    if !can_run("ip") {
        return;
    }
    let cluster = hosts(false, &[Ebpf; 2]).await;
    let host = &cluster.hosts[0];
    let desired = cluster.desired(0);
    let key = table::<16, 12>(host, "directs").keys().next().unwrap().unwrap();
    let link = table::<8, 16>(host, "link_peers").keys().next().unwrap().unwrap();
    let mut unknown = [0; 16];
    unknown[..4].copy_from_slice(&[10, 1, 0, 200]);
    let damages: [(&str, &dyn Fn()); 6] = [
        ("an address is gone", &|| table::<16, 12>(host, "directs").remove(&key).unwrap()),
        ("an address is another's", &|| table::<16, 12>(host, "directs").insert(key, [9; 12], 0).unwrap()),
        ("an address is of no network", &|| {
            table::<16, 12>(host, "directs").insert(key, [0; 12], 0).unwrap();
        }),
        ("an address too many", &|| table::<16, 12>(host, "directs").insert(unknown, [0; 12], 0).unwrap()),
        ("a host is gone", &|| table::<8, 16>(host, "link_peers").remove(&link).unwrap()),
        ("a host is another", &|| table::<8, 16>(host, "link_peers").insert(link, [9; 16], 0).unwrap()),
    ];
    for (what, damage) in damages {
        damage();
        let ops = host.reconcile(&desired).await;
        assert!((1..=2).contains(&ops.len()), "{what}: {ops:?}");
        let concerned = |op: &Op| matches!(op.key(), Key::Direct(..) | Key::LinkPeer(_));
        assert!(ops.iter().all(concerned), "{what}: {ops:?}");
        assert_eq!(host.observe().await, observable(&desired), "{what}");
    }
    // Nothing of it is left when the last network goes.
    host.reconcile(&weft_plan::HostState::new()).await;
    assert_eq!(table::<16, 12>(host, "directs").keys().count(), 0);
    assert_eq!(table::<8, 16>(host, "link_peers").keys().count(), 0);
}
