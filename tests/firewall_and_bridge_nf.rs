//! weft works on a host whose firewall drops what is forwarded and filters what is bridged, and leaves the
//! firewall's rules as they were.
#![allow(clippy::unwrap_used)]

use weft_e2e::{lab, one_more, options, ping};
use weft_lab::{Host, LabOptions};

/// What Docker does to a host: FORWARD drops, bridged frames pass through iptables, private subnets are
/// masqueraded.
fn raise_firewall(host: &Host) {
    for iptables in ["iptables", "ip6tables"] {
        host.run(&[iptables, "-P", "FORWARD", "DROP"]).unwrap();
        host.run(&[iptables, "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"])
            .unwrap();
    }
    host.run(&["iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.0.0.0/8", "-j", "MASQUERADE"])
        .unwrap();
    for table in ["iptables", "ip6tables", "arptables"] {
        host.namespace.sysctl(&format!("bridge/bridge-nf-call-{table}"), "1").unwrap();
    }
}

/// All rules, without the packet counters and the times of the listing.
fn rules(host: &Host) -> String {
    let mut text = String::new();
    for command in ["iptables-save", "ip6tables-save"] {
        let saved = host.run(&[command]).unwrap();
        for line in saved.lines().filter(|l| !l.starts_with('#')) {
            text += line.split(" [").next().unwrap();
            text.push('\n');
        }
    }
    text + &host.run(&["nft", "-s", "list", "ruleset"]).unwrap()
}

#[test]
fn containers_talk_on_the_same_host_and_across_and_the_rules_stay_as_they_were() {
    let Some(mut lab) = lab(LabOptions { containers: 0, ..options("fw") }) else { return };
    lab.hosts.iter().for_each(raise_firewall);
    let before: Vec<String> = lab.hosts.iter().map(rules).collect();
    assert!(before[0].contains(":FORWARD DROP"), "{}", before[0]);

    lab.daemon("h1").unwrap().weft(&["network", "create", "--subnet", "10.0.0.0/24", "lab"]).unwrap();
    for host in ["h1", "h2"] {
        for number in [1, 2] {
            let daemon = lab.daemon(host).unwrap().clone();
            one_more(&mut lab, host, number);
            lab.containers.last_mut().unwrap().attach(&daemon, "lab", &[]).unwrap();
        }
    }
    let near = &lab.containers[0];
    for far in &lab.containers {
        ping(near, &far.ip().unwrap()).unwrap();
    }
    // Seen from the other side with its own address: nothing was masqueraded.
    let reply =
        lab.containers[3].run(&["ping", "-n", "-c", "1", "-W", "2", "-R", &near.ip().unwrap()]).unwrap();
    assert!(reply.contains("10.0.0.2") && !reply.contains("10.77."), "{reply}");
    assert_eq!(lab.hosts.iter().map(rules).collect::<Vec<_>>(), before);

    // And none appear when a daemon ends, or leaves for good.
    for host in ["h1", "h2"] {
        lab.daemon_mut(host).unwrap().stop().unwrap();
    }
    ping(&lab.containers[0], "10.0.0.3").unwrap();
    assert_eq!(lab.hosts.iter().map(rules).collect::<Vec<_>>(), before);
}
