//! Containers on one network reach each other as on one switch, on the same host and across hosts.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, time::Duration};
use weft_e2e::{eventually, lab, one_more, options, ping, ping_df, seen};
use weft_lab::{Capture, Container, Fixture, LabOptions, WireOptions};

fn dual_stack(name: &str) -> LabOptions {
    LabOptions {
        containers: 2,
        subnets: vec!["10.0.0.0/24".to_owned(), "fd00:10::/64".to_owned()],
        ..options(name)
    }
}

/// The addresses that answer a ping to a group, as the sender sees them.
fn answers(from: &Container, argv: &[&str]) -> BTreeSet<String> {
    let text =
        from.run(&[&["ping", "-n", "-c", "2", "-i", "0.5", "-W", "2"], argv].concat()).unwrap_or_default();
    let replies = text.lines().filter_map(|line| line.split_once(" bytes from "));
    replies.map(|(_, rest)| rest.split([' ', '%']).next().unwrap().trim_end_matches(':').to_owned()).collect()
}

fn allow_answers_to_broadcasts(lab: &Fixture) {
    for container in &lab.containers {
        container.namespace.sysctl("ipv4/icmp_echo_ignore_broadcasts", "0").unwrap();
    }
}

#[test]
fn every_container_reaches_every_other_by_ipv4_and_ipv6() {
    let Some(lab) = lab(dual_stack("uni")) else { return };
    for from in &lab.containers {
        for to in &lab.containers {
            for address in &to.addresses {
                eventually(
                    &format!("{}/{} to {address}", from.host, from.name),
                    Duration::from_secs(2),
                    || ping(from, &address.to_string()),
                );
            }
        }
    }
    let counts = lab.containers.iter().map(|c| c.addresses.len()).collect::<Vec<_>>();
    assert_eq!(counts, [2, 2, 2, 2]);
}

#[test]
fn a_broadcast_and_a_multicast_reach_the_containers_of_all_hosts() {
    let Some(lab) = lab(dual_stack("multi")) else { return };
    allow_answers_to_broadcasts(&lab);
    let from = lab.container("h1/c1").unwrap();
    let v4: BTreeSet<String> = lab.containers.iter().map(|c| c.ip().unwrap()).collect();
    let mut others = v4.clone();
    others.remove(&from.ip().unwrap());
    let all = |found: BTreeSet<String>| seen(others.is_subset(&found), found);
    eventually("answers to a broadcast", Duration::from_secs(10), || {
        all(answers(from, &["-b", "10.0.0.255"]))
    });
    eventually("answers to a multicast", Duration::from_secs(10), || {
        all(answers(from, &["-I", "eth0", "224.0.0.1"]))
    });
    eventually("answers to an IPv6 multicast", Duration::from_secs(10), || {
        let global = from.addresses[1].to_string();
        let found = answers(from, &["-6", "-I", &global, "ff02::1%eth0"]);
        seen(found.len() == lab.containers.len(), found)
    });
}

#[test]
fn link_local_ipv6_addresses_reach_across_hosts() {
    let Some(lab) = lab(dual_stack("linklocal")) else { return };
    let (near, far) = (lab.container("h1/c1").unwrap(), lab.container("h2/c1").unwrap());
    let text = far.run(&["ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"]).unwrap();
    let local = text.split([' ', '/']).find(|word| word.starts_with("fe80:")).unwrap();
    eventually("an answer", Duration::from_secs(5), || ping(near, &format!("{local}%eth0")));
}

#[test]
fn no_arp_and_no_neighbour_discovery_crosses_the_wire() {
    let Some(lab) = lab(dual_stack("arp")) else { return };
    let (near, far) = (lab.container("h1/c1").unwrap(), lab.container("h2/c1").unwrap());
    let file = lab.dir().join("wire.pcap");
    let capture = Capture::start(&lab.hosts[1].namespace, "eth0", "udp port 4789", &file).unwrap();
    for address in &far.addresses {
        ping(near, &address.to_string()).unwrap();
    }
    // Nobody has this address: the question must not be carried over either.
    assert!(near.run(&["ping", "-n", "-c", "1", "-W", "1", "10.0.0.99"]).is_err());
    capture.wait_for("four echoes", Duration::from_secs(5), |frames| frames.len() >= 4).unwrap();
    for frame in capture.stop().unwrap() {
        let text = weft_wire::frame::decode(&frame.bytes, 4789).unwrap().to_string();
        let told = text.to_lowercase();
        assert!(!told.contains("who has") && !told.contains("arp"), "{text}");
        assert!(!told.contains("neighbour") && !told.contains("solicit"), "{text}");
    }
    let neighbours = near.namespace.ip_json(&["neigh", "show", &far.ip().unwrap()]).unwrap();
    assert_eq!(neighbours[0]["lladdr"], "02:42:0a:00:00:03", "{neighbours}");
}

#[test]
fn the_mtu_is_1450_on_ethernet_and_one_byte_more_does_not_cross() {
    let Some(lab) = lab(options("mtu")) else { return };
    let (near, far) = (lab.container("h1/c1").unwrap(), lab.container("h2/c1").unwrap().ip().unwrap());
    ping_df(&near.namespace, &far, 1422).unwrap();
    assert!(ping_df(&near.namespace, &far, 1423).is_err());
    assert_eq!(near.namespace.ip_json(&["link", "show", "eth0"]).unwrap()[0]["mtu"], 1450);
}

#[test]
fn the_mtu_is_1430_over_an_ipv6_underlay() {
    let wire = WireOptions { ipv4: false, ..WireOptions::default() };
    let Some(lab) = lab(LabOptions { wire, ..dual_stack("mtu6") }) else { return };
    let (near, far) = (lab.container("h1/c1").unwrap(), lab.container("h2/c1").unwrap());
    let v4 = far.ip().unwrap();
    ping_df(&near.namespace, &v4, 1402).unwrap();
    assert!(ping_df(&near.namespace, &v4, 1403).is_err());
    ping(near, &far.addresses[1].to_string()).unwrap();
    assert_eq!(near.namespace.ip_json(&["link", "show", "eth0"]).unwrap()[0]["mtu"], 1430);
}

#[test]
fn the_mtu_is_8950_on_jumbo_frames() {
    let wire = WireOptions { mtu: 9000, ..WireOptions::default() };
    let Some(lab) = lab(LabOptions { wire, ..options("jumbo") }) else { return };
    let (near, far) = (lab.container("h1/c1").unwrap(), lab.container("h2/c1").unwrap().ip().unwrap());
    ping_df(&near.namespace, &far, 8922).unwrap();
    assert!(ping_df(&near.namespace, &far, 8923).is_err());
    assert_eq!(near.namespace.ip_json(&["link", "show", "eth0"]).unwrap()[0]["mtu"], 8950);
}

#[test]
fn two_networks_with_the_same_subnet_do_not_see_each_other() {
    let Some(mut lab) = lab(options("twice")) else { return };
    let mut stranger = one_more(&mut lab, "h2", 7);
    let (h1, h2) = (lab.daemon("h1").unwrap(), lab.daemon("h2").unwrap());
    h1.weft(&["network", "create", "--subnet", "10.0.0.0/24", "other"]).unwrap();
    stranger.attach(h2, "other", &["--ip", "10.0.0.77"]).unwrap();
    let near = lab.container("h1/c1").unwrap();
    let crossed = ping(near, "10.0.0.77");
    let own = ping(near, "10.0.0.3");
    stranger.namespace.remove().unwrap();
    assert!(crossed.is_err());
    own.unwrap();
}
