//! Multicast reaches the members of a group on all hosts, and crosses the wire to no other host.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};
use weft_e2e::{
    datapath, eventually, lab, one_more, only_on, options, options_with_etcd, seen, traffic::within,
};
use weft_lab::{Capture, Container, Daemon, Fixture, Frame, LabOptions, figures};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 1, 1, 1));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 1));
const PORT: u16 = 5353;
const MARK: &[u8] = b"weft multicast ";

/// A lab of three hosts with a container each on etcd, once all of them have told that they are members of nothing.
fn three(name: &str) -> Option<Fixture> {
    let subnets = vec!["10.0.0.0/24".to_owned(), "fd00:10::/64".to_owned()];
    let lab = lab(LabOptions { hosts: 3, subnets, ..options_with_etcd(name)? })?;
    eventually("all hosts tell their groups", Duration::from_secs(30), || {
        let told = records(&lab);
        seen(told.len() == 3, told)
    });
    Some(lab)
}

/// What hosts have told of their groups.
fn records(lab: &Fixture) -> Vec<String> {
    let records = lab.records().unwrap().into_iter();
    records.filter(|(key, _)| key.contains("/groups/")).map(|(_, value)| value).collect()
}

/// A socket in a container that is a member of these groups as long as it lives.
fn member(container: &Container, groups: &[IpAddr]) -> UdpSocket {
    let interface = &container.namespace.ip_json(&["link", "show", "eth0"]).unwrap()[0]["ifindex"];
    let interface = u32::try_from(interface.as_u64().unwrap()).unwrap();
    let IpAddr::V4(own) = container.address().unwrap() else { panic!("no IPv4 address") };
    let socket = within(&container.namespace, || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap());
    for group in groups {
        match group {
            IpAddr::V4(group) => socket.join_multicast_v4(group, &own),
            IpAddr::V6(group) => socket.join_multicast_v6(group, interface),
        }
        .unwrap();
    }
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// A socket that multicast and broadcasts of this family leave the container by.
fn sender(container: &Container, v4: bool) -> UdpSocket {
    let own = container.addresses.iter().find(|ip| ip.is_ipv4() == v4).copied().unwrap();
    let socket = within(&container.namespace, || UdpSocket::bind((own, 0)).unwrap());
    socket.set_broadcast(true).unwrap();
    socket
}

/// Sends `count` datagrams that tell the group they are for, 2,000 a second.
fn send(from: &Container, group: IpAddr, count: u32) {
    let socket = sender(from, group.is_ipv4());
    let text = [MARK, group.to_string().as_bytes()].concat();
    for _ in 0..count {
        socket.send_to(&text, SocketAddr::new(group, PORT)).unwrap();
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// How many datagrams for this group have arrived.
fn received(member: &UdpSocket, group: IpAddr) -> usize {
    let (mut buffer, text) = ([0; 200], [MARK, group.to_string().as_bytes()].concat());
    let all = std::iter::from_fn(|| member.recv(&mut buffer).ok().map(|length| buffer[..length] == text));
    all.filter(|is_it| *is_it).count()
}

/// Waits until what is sent to the group arrives; how long that took.
fn until_it_arrives(from: &Container, group: IpAddr, member: &UdpSocket) -> Duration {
    eventually(&format!("multicast to {group} arrives"), Duration::from_secs(10), || {
        send(from, group, 1);
        seen(received(member, group) > 0, "nothing")
    })
}

fn both_arrive(from: &Container, member: &UdpSocket) {
    for group in [V4, V6] {
        until_it_arrives(from, group, member);
    }
}

/// How many of these frames carry a datagram for this group.
fn of_group(frames: &[Frame], group: IpAddr) -> usize {
    let text = [MARK, group.to_string().as_bytes()].concat();
    frames.iter().filter(|frame| frame.bytes.ends_with(&text)).count()
}

/// What reaches a host's wire while `work` is done.
fn on_the_wire(lab: &Fixture, host: usize, work: impl FnOnce()) -> Vec<Frame> {
    let file = lab.dir().join(format!("h{}.pcap", host + 1));
    let capture =
        Capture::start(&lab.hosts[host].namespace, "eth0", "udp port 4789 and inbound", &file).unwrap();
    work();
    capture.stop().unwrap()
}

#[test]
fn only_the_hosts_of_members_get_multicast() {
    let Some(lab) = three("members") else { return };
    let container = |n: usize| lab.container(&format!("h{n}/c1")).unwrap();
    let (from, two, three) = (container(1), container(2), container(3));
    for group in [V4, V6] {
        let there = member(two, &[group]);
        until_it_arrives(from, group, &there);
        // The other host has the network, and no member.
        let frames = on_the_wire(&lab, 2, || {
            send(from, group, 200);
            assert_eq!(received(&there, group), 200);
        });
        assert_eq!(of_group(&frames, group), 0, "host 3 gets what nobody there has asked for");
        let begun = Instant::now();
        let joins = member(three, &[group]);
        until_it_arrives(from, group, &joins);
        let took = begun.elapsed();
        figures(
            &format!("a member's first frame from another host, {}", datapath(lab.daemon("h1").unwrap())),
            &format!("{} ms after it joined", took.as_millis()),
        );
        assert!(took < Duration::from_secs(1), "{took:?}");
        drop(joins);
        eventually("it ceases after the member has left", Duration::from_secs(10), || {
            let frames = on_the_wire(&lab, 2, || send(from, group, 20));
            seen(of_group(&frames, group) == 0, frames.len())
        });
        send(from, group, 20);
        assert!(received(&there, group) >= 20, "the other member goes on");
        drop(there);
    }
    assert!(lab.daemon("h1").unwrap().weft(&["status"]).unwrap().contains("to the hosts of members"));
}

#[test]
fn link_local_multicast_and_broadcasts_reach_all_hosts_and_memberships_stay_on_theirs() {
    // Multicast goes by bridge and VXLAN device on either data path.
    if !only_on("ebpf") {
        return;
    }
    let Some(lab) = three("linklocal") else { return };
    let from = lab.container("h1/c1").unwrap();
    let others: Vec<_> = ["h2/c1", "h3/c1"].map(|name| lab.container(name).unwrap()).into();
    let all: [IpAddr; 3] = ["224.0.0.251", "10.0.0.255", "255.255.255.255"].map(|ip| ip.parse().unwrap());
    let there: Vec<_> = others.iter().map(|container| member(container, &all[..1])).collect();
    for group in all {
        for member in &there {
            until_it_arrives(from, group, member);
        }
    }
    // Who is a member is asked and told on each host for itself.
    let frames = on_the_wire(&lab, 2, || {
        let joined = member(from, &[V4, V6]);
        eventually("the host tells of it", Duration::from_secs(5), || {
            let told = records(&lab);
            seen(told.iter().any(|value| value.contains("239.1.1.1") && value.contains("ff05::1:1")), told)
        });
        drop(joined);
        eventually("and of its end", Duration::from_secs(10), || {
            let told = records(&lab);
            seen(told.iter().all(|value| !value.contains("239.1.1.1")), told)
        });
    });
    // Behind the outer headers of 50 bytes: IPv4 with protocol 2; IPv6 with hop-by-hop options, which only MLD has here.
    let is_membership = |frame: &&Frame| {
        let inner = frame.bytes.get(50..).unwrap_or_default();
        match inner.get(12..14) {
            Some([0x08, 0x00]) => inner.get(23) == Some(&2),
            Some([0x86, 0xdd]) => inner.get(20) == Some(&0),
            _ => false,
        }
    };
    assert_eq!(frames.iter().filter(is_membership).count(), 0);
}

/// Lowers the timers of a host's bridge so that a membership that nobody asks for ends after 4 s.
fn hurry(daemon: &Daemon) {
    let overlay = daemon.overlay();
    let devices = weft_e2e::weft_devices(&overlay);
    let bridge = devices.iter().find(|name| name.starts_with("weft-br")).unwrap();
    let times = "mcast_query_interval 100 mcast_query_response_interval 50 mcast_membership_interval 400 \
                 mcast_querier_interval 300 mcast_startup_query_interval 100";
    for what in [times, "mcast_querier 0", "mcast_querier 1"] {
        let words: Vec<_> =
            ["link", "set", bridge, "type", "bridge"].into_iter().chain(what.split(' ')).collect();
        overlay.ip(&words).unwrap();
    }
}

#[test]
fn memberships_outlive_daemons_and_end_with_their_members() {
    // Multicast goes by bridge and VXLAN device on either data path.
    if !only_on("kernel") {
        return;
    }
    let Some(mut lab) = three("outlive") else { return };
    let (from, two) = (lab.container("h1/c1").unwrap().clone(), lab.container("h2/c1").unwrap().clone());
    let there = member(&two, &[V4, V6]);
    let arrive = |what: &str| {
        for group in [V4, V6] {
            received(&there, group);
            send(&from, group, 100);
            assert_eq!(received(&there, group), 100, "{group}, {what}");
        }
    };
    both_arrive(&from, &there);
    // No daemon asks for anything: the bridges do, and what they hear counts for longer than an answer's time.
    (1..=3).for_each(|n| hurry(lab.daemon(&format!("h{n}")).unwrap()));
    for host in ["h1", "h2"] {
        lab.daemon_mut(host).unwrap().kill().unwrap();
        arrive(&format!("the daemon of {host} killed"));
    }
    std::thread::sleep(Duration::from_secs(9));
    arrive("no daemon for twice the time of a membership");
    for host in ["h1", "h2"] {
        lab.daemon_mut(host).unwrap().start().unwrap();
        arrive(&format!("the daemon of {host} started again"));
    }
    let told = records(&lab);
    assert!(told.iter().any(|value| value.contains("239.1.1.1") && value.contains("ff05::1:1")), "{told:?}");
    let frames = on_the_wire(&lab, 2, || send(&from, V4, 100));
    assert_eq!(of_group(&frames, V4), 0);
    // A container that goes without a word takes its memberships along.
    let mut two = two;
    two.detach(lab.daemon("h2").unwrap(), "lab").unwrap();
    eventually("the record goes with the last endpoint", Duration::from_secs(10), || {
        let told = records(&lab);
        seen(told.len() == 2, told)
    });
}

#[test]
fn what_others_spoil_is_repaired_and_members_hear_on() {
    // Multicast goes by bridge and VXLAN device on either data path.
    if !only_on("kernel") {
        return;
    }
    let Some(lab) = three("spoilt") else { return };
    let (from, two) = (lab.container("h1/c1").unwrap(), lab.container("h2/c1").unwrap());
    let there = member(two, &[V4, V6]);
    both_arrive(from, &there);
    for (host, kind, spoil) in [
        ("h1", "filter", "nft delete table bridge weft"),
        ("h2", "bridge", "ip link set BRIDGE type bridge mcast_snooping 0"),
        ("h2", "bridge", "ip link del BRIDGE"),
        ("h1", "vxlan", "ip link del VXLAN"),
        ("h2", "vxlan", "bridge link set dev VXLAN mcast_router 0"),
    ] {
        let daemon = lab.daemon(host).unwrap();
        let counted = || daemon.status().unwrap()["drift_repaired"][kind].as_u64().unwrap_or(0);
        let before = counted();
        let overlay = daemon.overlay();
        let devices = weft_e2e::weft_devices(&overlay);
        let of = |prefix: &str| devices.iter().find(|name| name.starts_with(prefix)).unwrap().clone();
        let spoil = spoil.replace("BRIDGE", &of("weft-br")).replace("VXLAN", &of("weft-vx"));
        overlay.run(&spoil.split(' ').collect::<Vec<_>>()).unwrap();
        eventually(&format!("`{spoil}` is repaired"), Duration::from_secs(5), || {
            seen(counted() > before, counted())
        });
        both_arrive(from, &there);
    }
    // A host whose bridge was made anew gets everything until the bridge has asked everybody.
    eventually("the members are told of again", Duration::from_secs(30), || {
        let told = records(&lab);
        seen(told.iter().any(|value| value.contains("239.1.1.1") && value.contains("ff05::1:1")), told)
    });
    let frames = on_the_wire(&lab, 2, || send(from, V4, 20));
    assert_eq!(of_group(&frames, V4), 0);
}

/// Sends so many datagrams to a group as fast as it goes; how long it took.
fn flood(from: &Container, group: IpAddr, datagrams: u64) -> Duration {
    let socket = sender(from, group.is_ipv4());
    let text = [MARK, group.to_string().as_bytes()].concat();
    let (mut sent, begun) = (0, Instant::now());
    while sent < datagrams {
        // A full queue is no failure of a flood.
        sent += u64::from(socket.send_to(&text, SocketAddr::new(group, PORT)).is_ok());
    }
    begun.elapsed()
}

/// Frames of this host that were dropped because their sender was above its rate.
fn dropped(daemon: &Daemon) -> u64 {
    daemon.status().unwrap()["drops"]["broadcast or multicast above the sender's rate"].as_u64().unwrap()
}

#[test]
fn a_flood_of_one_container_is_cut_and_counted_and_others_send_on() {
    let subnets = vec!["10.0.0.0/24".to_owned(), "fd00:10::/64".to_owned()];
    let Some(mut lab) = lab(LabOptions { subnets, containers: 2, ..options("flood") }) else { return };
    let (h1, h2) = (lab.daemon("h1").unwrap().clone(), lab.daemon("h2").unwrap().clone());
    let container = |name: &str| lab.container(name).unwrap().clone();
    let (loud, quiet, there) = (container("h1/c1"), container("h1/c2"), container("h2/c1"));
    let link_local: IpAddr = "224.0.0.251".parse().unwrap();
    let broadcast: IpAddr = "10.0.0.255".parse().unwrap();
    let member = member(&there, &[link_local]);
    for group in [link_local, broadcast] {
        let sent = 80_000;
        let attempt = || {
            // All floods of a container draw on one bucket, which the last has emptied. It is full after a second.
            std::thread::sleep(Duration::from_secs(1));
            let before = dropped(&h1);
            let (mut took, mut of_quiet) = (Duration::ZERO, 0);
            let frames = on_the_wire(&lab, 1, || {
                std::thread::scope(|scope| {
                    let flooding = scope.spawn(|| flood(&loud, group, sent));
                    of_quiet = on_the_wire_of(&lab, &quiet, 200);
                    took = flooding.join().unwrap();
                });
            });
            (took, of_quiet, of_group(&frames, group) as u64, dropped(&h1) - before)
        };
        // What a machine that is full of work sends in more time than that is no flood.
        let is_one = |(took, ..): &(Duration, usize, u64, u64)| *took < Duration::from_secs(4);
        let flooded = (0..5).map(|_| attempt()).find(is_one);
        let (took, of_quiet, crossed, cut) = flooded.expect("a flood");
        // Of the other container nothing is cut meanwhile. (A machine that is full of work loses a frame now and then.)
        assert!(of_quiet > 180, "{of_quiet} of 200, while {group} is flooded");
        // One second's worth at once, and one for each second, and a sixth of it for the clock.
        let most = 35_000 * (1_000 + took.as_millis()) / 3_000;
        assert!(
            crossed >= 10_000 && u128::from(crossed) < most,
            "{crossed} of {sent} to {group} in {took:?}"
        );
        // A machine that is full of work loses some of a flood.
        assert!(
            cut * 2 >= sent - crossed && cut + crossed <= sent,
            "{crossed} of {sent} crossed, {cut} were cut"
        );
    }
    drop(member);
    assert_eq!(dropped(&h2), 0);
    assert!(h1.weft(&["status"]).unwrap().contains("above the sender's rate"));

    // A network with a rate of its own, and one without any.
    for (name, rate, subnet) in [("slow", "50", "10.1.0.0/24"), ("any", "0", "10.2.0.0/24")] {
        let option = format!("weft.multicast-rate={rate}");
        h1.weft(&["network", "create", "--subnet", subnet, "-o", &option, name]).unwrap();
        let mut pair = [one_more(&mut lab, "h1", 11), one_more(&mut lab, "h2", 11)];
        pair[0].attach(&h1, name, &[]).unwrap();
        pair[1].attach(&h2, name, &[]).unwrap();
        let before = dropped(&h1);
        let [near, far] = &pair;
        let heard = self::member(far, &[link_local]);
        until_it_arrives(near, link_local, &heard);
        let frames = on_the_wire(&lab, 1, || send(near, link_local, 1000));
        let crossed = of_group(&frames, link_local);
        if rate == "0" {
            // The capture may end before the last one.
            assert!(crossed >= 990, "{crossed}");
            assert_eq!(dropped(&h1), before);
        } else {
            assert!((50..200).contains(&crossed), "{crossed}");
            assert!(dropped(&h1) - before >= 800);
        }
        for (container, daemon) in pair.iter_mut().zip([&h1, &h2]) {
            container.detach(daemon, name).unwrap();
        }
    }
    for bad in ["-1", "many", "10000001"] {
        let refused =
            h1.output(&["network", "create", "-o", &format!("weft.multicast-rate={bad}"), "x"]).unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("frames a second"), "{bad}");
    }
}

/// How many of so many datagrams of this container, sent over a second or so, reach host 2.
fn on_the_wire_of(lab: &Fixture, from: &Container, count: u32) -> usize {
    let group: IpAddr = "224.0.0.250".parse().unwrap();
    let file = lab.dir().join("quiet.pcap");
    let capture =
        Capture::start(&lab.hosts[1].namespace, "eth0", "udp port 4789 and inbound", &file).unwrap();
    let socket = sender(from, true);
    let text = [MARK, group.to_string().as_bytes()].concat();
    for _ in 0..count {
        socket.send_to(&text, SocketAddr::new(group, PORT)).unwrap();
        std::thread::sleep(Duration::from_millis(4));
    }
    of_group(&capture.stop().unwrap(), group)
}
