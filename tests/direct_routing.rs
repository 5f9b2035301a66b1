//! On a network that is marked direct, packets cross the LAN between two hosts as they are; everywhere else they are carried as ever, and
//! networks stay apart.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::{
    fs,
    net::UdpSocket,
    time::{Duration, Instant},
};
use weft_e2e::{
    drift_repaired, eventually, lab, one_more, only_on, options_with_etcd, ping, refusal, seen,
    traffic::{EndOf, Run, flows_between, moved_on},
    under_traffic_between,
};
use weft_lab::{Capture, Container, Fixture, LabOptions, figures, short_or_long};

const WITHIN: Duration = Duration::from_secs(20);
/// The networks, with their subnets: two are direct.
const NETWORKS: [(&str, &str, bool); 3] = [("red", "21", true), ("blue", "22", true), ("grey", "23", false)];

/// Three hosts with a container each on each of the networks: `hN/c1` on red, `c2` on blue, `c3` on grey. The third host is behind a
/// router.
fn three_hosts(name: &str) -> Option<Fixture> {
    if !only_on("ebpf") {
        return None;
    }
    let options = options_with_etcd(name)?;
    let mut lab = lab(LabOptions { hosts: 3, containers: 0, ..options })?;
    lab.daemon_mut("h3").unwrap().stop().unwrap();
    lab.wire.put_behind_router(lab.host("h3").unwrap(), &lab.hosts).unwrap();
    lab.daemon_mut("h3").unwrap().start().unwrap();
    for (network, number, direct) in NETWORKS {
        let (v4, v6) = (format!("10.{number}.0.0/24"), format!("fd{number}::/64"));
        let mut create = vec!["network", "create", "--subnet", v4.as_str(), "--subnet", v6.as_str()];
        if direct {
            create.extend(["-o", "weft.direct=true"]);
        }
        lab.daemon("h1").unwrap().weft(&[&create[..], &[network]].concat()).unwrap();
    }
    for host in ["h1", "h2", "h3"] {
        for (number, (network, ..)) in (1..).zip(NETWORKS) {
            let mut container = one_more(&mut lab, host, number);
            container.attach(lab.daemon(host).unwrap(), network, &[]).unwrap();
            *lab.containers.last_mut().unwrap() = container;
        }
    }
    lab.save().unwrap();
    knows(&lab, "h1", "h2", true, "");
    knows(&lab, "h2", "h1", true, "");
    knows(&lab, "h1", "h3", false, "it is on another link");
    Some(lab)
}

/// Waits until `host` says whether packets cross to `peer` directly, and why not.
fn knows(lab: &Fixture, host: &str, peer: &str, direct: bool, reason: &str) {
    eventually(&format!("{host} says of {peer}: {direct}"), WITHIN, || {
        let nodes = lab.daemon(host).unwrap().json(&["node", "ls"]).unwrap();
        let node = nodes.as_array().unwrap().iter().find(|node| node["name"] == peer).cloned().unwrap();
        let told = node["not_direct"].as_str().unwrap_or("");
        seen(node["direct"] == direct && told.contains(reason), node)
    });
}

fn container<'a>(lab: &'a Fixture, name: &str) -> &'a Container {
    lab.container(name).unwrap()
}

fn vni(lab: &Fixture, network: &str) -> u64 {
    lab.daemon("h1").unwrap().json(&["network", "inspect", network]).unwrap()[0]["vni"].as_u64().unwrap()
}

/// Captures of what passes a host's wire and concerns a network of these: in VXLAN to one station, and as it is.
fn captures(lab: &Fixture, host: &str, network: &str) -> [Capture; 2] {
    let number = NETWORKS.iter().find(|(name, ..)| *name == network).unwrap().1;
    let namespace = &lab.host(host).unwrap().namespace;
    let tag = vni(lab, network) << 8;
    // The VXLAN header follows the eight bytes of UDP; broadcast and multicast are not direct's business.
    let vxlan = format!("udp port 4789 and (udp[12:4] & 0xffffff00) = {tag} and (udp[16] & 1) = 0");
    let plain = format!("net 10.{number}.0.0/24 or net fd{number}::/64");
    [("vxlan", vxlan), ("plain", plain)].map(|(what, filter)| {
        let file = lab.dir().join(format!("{host}-{network}-{what}.pcap"));
        Capture::start(namespace, "eth0", &filter, &file).unwrap()
    })
}

/// How many frames two captures have, once they have at least so many together.
fn counts(captures: [Capture; 2], least: usize) -> (usize, usize) {
    eventually("the frames in the captures", WITHIN, || {
        let all: usize = captures.iter().map(|capture| capture.frames().unwrap().len()).sum();
        seen(all >= least, all)
    });
    let [vxlan, plain] = captures.map(|capture| capture.stop().unwrap().len());
    (vxlan, plain)
}

/// Everything between all containers of a network: pings, TCP and UDP with known content, over IPv4 and IPv6.
fn exchange(lab: &Fixture, number: usize) {
    let name = |host: &str| format!("{host}/c{number}");
    let (h1, h2, h3) = (name("h1"), name("h2"), name("h3"));
    let mut pairs = Vec::new();
    for (a, b) in [(&h1, &h2), (&h1, &h3), (&h2, &h3), (&h2, &h1)] {
        pairs.extend([(a.as_str(), b.as_str(), 0), (a.as_str(), b.as_str(), 1)]);
    }
    let (flows, run) = (flows_between(lab, &pairs, |number| number % 2 == 0), Run::default());
    std::thread::scope(|scope| {
        let _end = EndOf(&run);
        for flow in &flows {
            scope.spawn(|| flow.send(&run));
            scope.spawn(|| flow.receive(&run));
        }
        moved_on(&flows, "the beginning");
    });
    run.assert_no_fault();
}

#[test]
fn packets_cross_the_lan_as_they_are_and_routers_in_vxlan() {
    let Some(lab) = three_hosts("nedir") else { return };
    // On each processor the first packet to a peer asks for the way, in outer headers.
    exchange(&lab, 1);
    let (lan, routed, grey) =
        (captures(&lab, "h2", "red"), captures(&lab, "h3", "red"), captures(&lab, "h2", "grey"));
    let between = |a: &str, b: &str, number: usize| {
        for family in 0..2 {
            let to = container(&lab, &format!("{b}/c{number}")).addresses[family].to_string();
            for _ in 0..20 {
                ping(container(&lab, &format!("{a}/c{number}")), &to).unwrap();
            }
        }
    };
    between("h1", "h2", 1);
    between("h1", "h2", 3);
    between("h1", "h3", 1);
    let (lan, routed, grey) = (counts(lan, 80), counts(routed, 80), counts(grey, 80));
    assert!(lan.1 >= 80 && lan.0 <= 8, "on the LAN as they are: {lan:?}");
    assert!(routed.0 >= 80 && routed.1 == 0, "behind a router in VXLAN: {routed:?}");
    assert!(grey.0 >= 80 && grey.1 == 0, "a network that is not marked in VXLAN: {grey:?}");
    for number in 1..=3 {
        exchange(&lab, number);
    }
    for host in ["h1", "h2", "h3"] {
        let daemon = lab.daemon(host).unwrap();
        let status = daemon.status().unwrap();
        assert_eq!(status["problems"], Value::Array(vec![]), "{host}");
        assert!(status["node"]["direct"].as_bool().unwrap(), "{host} takes them: {status}");
        assert_eq!(drift_repaired(daemon), 0, "{host}");
        let endpoints = daemon.json(&["endpoint", "ls", "--stats"]).unwrap();
        let rx = endpoints.as_array().unwrap().iter().map(|e| e["rx_packets"].as_u64().unwrap());
        assert!(rx.min().unwrap() > 100, "all are counted: {endpoints}");
    }
}

/// Whether any of some datagrams from a socket arrives at another.
fn arrives(from: &UdpSocket, to: &UdpSocket) -> bool {
    to.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    (0..3).any(|_| {
        let _refused = from.send_to(b"let me in", to.local_addr().unwrap());
        to.recv_from(&mut [0; 64]).is_ok()
    })
}

#[test]
fn networks_stay_apart_and_strangers_outside() {
    let Some(lab) = three_hosts("nediriso") else { return };
    let (red, far_red, blue) = (container(&lab, "h1/c1"), container(&lab, "h2/c1"), container(&lab, "h2/c2"));
    let socket = |namespace: &weft_lab::NetNs, at: String| {
        weft_e2e::traffic::within(namespace, || UdpSocket::bind((at.as_str(), 0)).unwrap())
    };
    let target = socket(&blue.namespace, blue.addresses[0].to_string());
    let honest = socket(&red.namespace, red.addresses[0].to_string());
    let friend = container(&lab, "h1/c2");
    assert!(arrives(&socket(&friend.namespace, friend.addresses[0].to_string()), &target), "its own network");
    let mac = |container: &Container| {
        let links = container.namespace.ip_json(&["link", "show", "eth0"]).unwrap();
        links[0]["address"].as_str().unwrap().to_owned()
    };
    red.namespace.ip(&["route", "add", "10.22.0.0/24", "dev", "eth0"]).unwrap();
    let forged = format!("{}/32", friend.addresses[0]);
    red.namespace.ip(&["addr", "add", &forged, "dev", "eth0"]).unwrap();
    let forged = socket(&red.namespace, friend.addresses[0].to_string());
    let address = blue.addresses[0].to_string();
    for next in [mac(far_red), mac(blue)] {
        red.namespace.ip(&["neigh", "replace", &address, "lladdr", &next, "dev", "eth0"]).unwrap();
        assert!(!arrives(&honest, &target), "from red to blue by {next}");
        assert!(!arrives(&forged, &target), "from red in a friend's name by {next}");
    }
    // The switch is a host on the LAN that is none of the cluster's.
    let switch = &lab.wire.namespace;
    switch.ip(&["route", "add", "10.21.0.0/24", "via", "10.77.0.2"]).unwrap();
    switch.ip(&["addr", "add", "10.21.0.77/32", "dev", "lo"]).unwrap();
    let target = socket(&far_red.namespace, far_red.addresses[0].to_string());
    for at in ["10.77.0.254", "10.21.0.77"] {
        assert!(!arrives(&socket(switch, at.to_owned()), &target), "a stranger with the address {at}");
    }
    assert!(arrives(&honest, &target), "and the network itself goes on");
    // What is refused is refused with the reason.
    let h2 = lab.daemon("h2").unwrap();
    for subnet in ["10.21.0.0/24", "10.22.0.128/25"] {
        let create = ["network", "create", "--subnet", subnet, "-o", "weft.direct=true", "more"];
        let said = refusal(&h2.output(&create).unwrap(), 4);
        assert!(said.contains(subnet) && said.contains("another direct network"), "{said}");
    }
}

/// The direct network, both ways and over both families.
const LAN: [(&str, &str, usize); 3] = [("h1/c1", "h2/c1", 0), ("h2/c1", "h1/c1", 0), ("h1/c1", "h2/c1", 1)];

#[test]
fn a_daemon_that_is_killed_and_upgraded_loses_nothing() {
    let Some(mut lab) = three_hosts("nedirk") else { return };
    let rounds = short_or_long(2, 40);
    let ((), met) = under_traffic_between(&mut lab, &LAN, |lab, flows| {
        for round in 0..rounds {
            for host in ["h1", "h2"] {
                let daemon = lab.daemon_mut(host).unwrap();
                if round % 2 == 0 {
                    daemon.kill().unwrap();
                } else {
                    daemon.stop().unwrap();
                    // As if it was of another release: what is pinned is none of this one's, and packets go through it.
                    let overlay = daemon.options.overlay_netns.clone();
                    let pins = std::path::Path::new("/sys/fs/bpf/weft").join(overlay);
                    fs::rename(pins.join("v2"), pins.join("v1")).unwrap();
                }
                lab.daemon_mut(host).unwrap().start().unwrap();
                lab.save().unwrap();
                moved_on(flows, "the start");
                for (of, peer) in [("h1", "h2"), ("h2", "h1")] {
                    knows(lab, of, peer, true, "");
                }
            }
        }
    });
    figures("direct routing, daemons killed and upgraded", &format!("{rounds} rounds: {met}"));
    assert_eq!(met.lost, 0);
    let captures = captures(&lab, "h2", "red");
    ping(container(&lab, "h1/c1"), &container(&lab, "h2/c1").ip().unwrap()).unwrap();
    let [_, plain] = &captures;
    plain.wait_for("packets as they are", WITHIN, |frames| frames.len() >= 2).unwrap();
}

#[test]
fn a_host_that_goes_to_the_kernels_path_is_sent_vxlan_before_it_needs_it() {
    let Some(mut lab) = three_hosts("nedirp") else { return };
    let ((), met) = under_traffic_between(&mut lab, &LAN, |lab, flows| {
        let daemon = lab.daemon_mut("h2").unwrap();
        daemon.stop().unwrap();
        daemon.options.arguments.push("--datapath=kernel".to_owned());
        daemon.start().unwrap();
        lab.save().unwrap();
        knows(lab, "h1", "h2", false, "it has no eBPF data path");
        knows(lab, "h2", "h1", false, "this host has no eBPF data path");
        moved_on(flows, "the kernel's path");
    });
    figures("direct routing, a host to the kernel's path", &met.to_string());
    // What is on the trunk when that goes is lost, on a network that is not direct as well (16 to 24 datagrams either way). The two seconds
    // that a peer is given to hear of it would be 2400.
    assert!(met.lost <= 100, "{met}");
    exchange(&lab, 1);
    let before = captures(&lab, "h2", "red");
    ping(container(&lab, "h1/c1"), &container(&lab, "h2/c1").ip().unwrap()).unwrap();
    let (vxlan, plain) = counts(before, 2);
    assert!(vxlan >= 2 && plain == 0, "{vxlan} in VXLAN, {plain} plain");
    let ((), met) = under_traffic_between(&mut lab, &LAN, |lab, flows| {
        let daemon = lab.daemon_mut("h2").unwrap();
        daemon.stop().unwrap();
        daemon.options.arguments.pop();
        daemon.start().unwrap();
        lab.save().unwrap();
        knows(lab, "h1", "h2", true, "");
        moved_on(flows, "the programs");
    });
    assert_eq!(met.lost, 0, "{met}");
}

#[test]
fn a_station_that_moves_is_found_where_it_is() {
    let Some(mut lab) = three_hosts("nedirm") else { return };
    let address = container(&lab, "h2/c1").ip().unwrap();
    for (from, to) in [("h2", "h3"), ("h3", "h1"), ("h1", "h2")] {
        let number = if to == "h2" { 8 } else { 7 };
        let here = lab
            .containers
            .iter()
            .position(|c| c.host == from && c.addresses.iter().any(|a| a.to_string() == address));
        let mut leaving = lab.containers[here.unwrap()].clone();
        leaving.detach(lab.daemon(from).unwrap(), "red").unwrap();
        let mut coming = one_more(&mut lab, to, number);
        coming.attach(lab.daemon(to).unwrap(), "red", &["--ip", &address]).unwrap();
        *lab.containers.last_mut().unwrap() = coming;
        lab.containers.retain(|c| c.name != leaving.name || c.host != leaving.host);
        leaving.namespace.remove().unwrap();
        lab.save().unwrap();
        let start = Instant::now();
        for host in ["h1", "h2", "h3"] {
            let on = lab.containers.iter().find(|c| c.host == host && c.name == "c1");
            if let Some(on) = on.filter(|c| c.addresses.iter().all(|a| a.to_string() != address)) {
                eventually(&format!("{address} on {to} from {host}"), WITHIN, || ping(on, &address));
            }
        }
        eprintln!("{address} from {from} to {to}: answers after {} ms", start.elapsed().as_millis());
    }
}
