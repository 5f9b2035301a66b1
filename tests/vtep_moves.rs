//! A host whose address changes stays in the network: the others follow, and its containers' connections go on.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};
use weft_e2e::{datapath, eventually, lab, only_on, options_with_etcd, ping, seen, under_traffic};
use weft_lab::{Fixture, LabOptions, figures, short_or_long};

/// How long an address may take to be everywhere.
const FOLLOWS: Duration = Duration::from_secs(30);

fn ip(lab: &Fixture, arguments: &[&str]) {
    lab.host("h2").unwrap().namespace.ip(arguments).unwrap();
}

/// Waits until both hosts send to `address` for h2, and h2 sends from it.
fn is_everywhere(lab: &Fixture, address: &str) {
    let [h1, h2] = ["h1", "h2"].map(|host| lab.daemon(host).unwrap());
    eventually("the new VTEP on both hosts", FOLLOWS, || {
        let (fdb, links) =
            (h1.overlay().bridge_json(&["fdb", "show"]), h2.overlay().ip_json(&["-d", "link"]));
        let (fdb, links) = (fdb.unwrap().to_string(), links.unwrap().to_string());
        let (to, from) = (format!("\"dst\":\"{address}\""), format!("\"local\":\"{address}\""));
        let nodes = [h1, h2].map(|daemon| daemon.json(&["node", "ls"]).unwrap().to_string());
        let known = nodes.iter().all(|nodes| nodes.contains(&format!("[\"{address}\"")));
        seen(fdb.contains(&to) && links.contains(&from) && known, (fdb, nodes))
    });
}

fn without_problems(lab: &Fixture) {
    for daemon in &lab.daemons {
        eventually("a status without problems", FOLLOWS, || {
            let status = daemon.status().unwrap();
            seen(status["problems"].as_array().is_some_and(Vec::is_empty), status["problems"].clone())
        });
    }
}

#[test]
fn an_address_that_dhcp_changes_is_followed_by_every_host_and_connections_survive() {
    let Some(options) = options_with_etcd("nemove") else { return };
    let Some(mut lab) = lab(options) else { return };
    let moves = short_or_long(2, 20);
    let path = datapath(lab.daemon("h2").unwrap());
    // Without it, which systemd sets, a subnet's further addresses go with its first one.
    lab.host("h2").unwrap().namespace.sysctl("ipv4/conf/all/promote_secondaries", "1").unwrap();
    let ((), met) = under_traffic(&mut lab, |lab, flows| {
        let mut address = "10.77.0.2".to_owned();
        for number in 0..moves {
            let next = format!("10.77.0.{}", 100 + number);
            let (old, new) = (format!("{address}/24"), format!("{next}/24"));
            // As dhclient does it, the old one first; and as networkd does it, the new one first.
            let steps =
                if number % 2 == 0 { [["del", &old], ["add", &new]] } else { [["add", &new], ["del", &old]] };
            for [verb, address] in steps {
                ip(lab, &["addr", verb, address, "dev", "eth0"]);
            }
            let start = Instant::now();
            is_everywhere(lab, &next);
            eprintln!("{address} to {next}: everywhere after {} ms", start.elapsed().as_millis());
            weft_e2e::traffic::moved_on(flows, &format!("the address {next}"));
            address = next;
        }
    });
    without_problems(&lab);
    figures(&format!("VTEP address changed, {path}"), &format!("{moves} times, {met}"));
    assert!(met.gap < Duration::from_secs(5), "{met}");
}

#[test]
fn an_interface_that_goes_down_and_comes_up_costs_the_time_it_was_down() {
    let Some(options) = options_with_etcd("nedown") else { return };
    let Some(mut lab) = lab(options) else { return };
    let path = datapath(lab.daemon("h2").unwrap());
    let (down, met) = under_traffic(&mut lab, |lab, _| {
        let start = Instant::now();
        ip(lab, &["link", "set", "eth0", "down"]);
        // Long enough for the daemon to have seen it.
        eventually("a second", Duration::from_secs(5), || {
            seen(start.elapsed() > Duration::from_secs(1), start.elapsed())
        });
        ip(lab, &["link", "set", "eth0", "up"]);
        start.elapsed()
    });
    without_problems(&lab);
    figures(
        &format!("interface of --cluster-advertise down, {path}"),
        &format!("down for {} ms, {met}", down.as_millis()),
    );
    assert!(met.gap < down + Duration::from_secs(5), "{met}");
}

#[test]
fn an_address_that_is_lost_for_a_while_does_not_make_the_host_speak_another_family() {
    if !only_on("ebpf") {
        return;
    }
    let Some(options) = options_with_etcd("nelost") else { return };
    let Some(lab) = lab(options) else { return };
    ip(&lab, &["addr", "del", "10.77.0.2/24", "dev", "eth0"]);
    let h2 = lab.daemon("h2").unwrap();
    eventually("word of it in the status", FOLLOWS, || {
        let problems = h2.status().unwrap()["problems"].to_string();
        seen(problems.contains("10.77.0.2"), problems)
    });
    let nodes = h2.json(&["node", "ls"]).unwrap().to_string();
    assert!(nodes.contains("[\"10.77.0.2\""), "the last known VTEP stays: {nodes}");
    ip(&lab, &["addr", "add", "10.77.0.2/24", "dev", "eth0"]);
    let (near, far) = (lab.container("h1/c1").unwrap(), lab.container("h2/c1").unwrap());
    eventually("an answer", FOLLOWS, || ping(near, &far.ip().unwrap()));
    without_problems(&lab);
}

#[test]
fn a_daemon_that_was_given_a_literal_address_says_so_when_the_host_has_lost_it() {
    if !only_on("ebpf") {
        return;
    }
    let Some(options) = options_with_etcd("neliter") else { return };
    let Some(mut lab) = lab(LabOptions { containers: 0, ..options }) else { return };
    let daemon = lab.daemon_mut("h2").unwrap();
    daemon.stop().unwrap();
    daemon.options.advertise = "10.77.0.2:2375".to_owned();
    daemon.start().unwrap();
    ip(&lab, &["addr", "add", "10.77.0.88/24", "dev", "eth0"]);
    ip(&lab, &["addr", "del", "10.77.0.2/24", "dev", "eth0"]);
    let h2 = lab.daemon("h2").unwrap();
    eventually("word of it in the status", FOLLOWS, || {
        let problems = h2.status().unwrap()["problems"].to_string();
        seen(problems.contains("10.77.0.2") && problems.contains("--cluster-advertise"), problems)
    });
}
