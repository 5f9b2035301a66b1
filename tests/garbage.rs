//! What a host that was lost leaves behind is found, explained and removed, and a host that comes back after that does no harm.
#![allow(clippy::unwrap_used)]

use std::time::Duration;
use weft_e2e::{eventually, lab, only_on, options_with_etcd, ping, records, refusal, seen, weft_devices};
use weft_lab::{Capture, LabOptions, figures};

#[test]
fn a_lost_hosts_addresses_are_freed_when_the_operator_says_that_it_is_dead() {
    if !only_on("ebpf") {
        return;
    }
    let Some(options) = options_with_etcd("gc") else { return };
    let daemon_arguments = vec!["--lease-ttl".to_owned(), "2".to_owned()];
    let Some(mut lab) = lab(LabOptions { daemon_arguments, ..options }) else { return };
    let explain = |lab: &weft_lab::Fixture, ip: &str| {
        lab.daemon("h1").unwrap().json(&["address", "explain", ip]).unwrap()[0].clone()
    };
    let theirs = explain(&lab, "10.0.0.3");
    assert_eq!(theirs["free"], false);
    assert!(theirs["reason"].as_str().unwrap().contains("h2/c1"), "{theirs}");
    assert!(explain(&lab, "10.0.0.1")["reason"].as_str().unwrap().contains("gateway"));

    // Its daemon ends, and nothing else.
    let (near, far) = (lab.container("h1/c1").unwrap().clone(), lab.container("h2/c1").unwrap().clone());
    let wire = lab.hosts[1].namespace.clone();
    lab.daemon_mut("h2").unwrap().kill().unwrap();
    let h1 = lab.daemon("h1").unwrap().clone();
    let ended = eventually("the end of the lease", Duration::from_secs(20), || {
        let reason = explain(&lab, "10.0.0.3")["reason"].to_string();
        seen(reason.contains("lease has ended"), reason)
    });
    let knows_the_way =
        || h1.overlay().bridge_json(&["fdb", "show"]).unwrap().to_string().contains("10.77.0.2");
    let state = || h1.weft(&["node", "ls"]).unwrap().lines().find(|l| l.contains(" h2 ")).unwrap().to_owned();
    let refusals = "src host 10.77.0.2 and tcp src port 4789 and tcp[tcpflags] & tcp-rst != 0";
    let capture = Capture::start(&wire, "eth0", refusals, &lab.dir().join("looks.pcap")).unwrap();
    // More looks than it takes to miss a host.
    capture.wait_for("h1 to look at h2", Duration::from_secs(30), |frames| frames.len() > 4).unwrap();
    capture.stop().unwrap();
    assert!(state().contains("no lease") && knows_the_way(), "its kernel answers: {}", state());
    ping(&near, &far.ip().unwrap()).unwrap();

    // The whole host loses its cable, and gets it back.
    wire.ip(&["link", "set", "eth0", "down"]).unwrap();
    let withdrawn = eventually("no way to it", Duration::from_secs(40), || {
        seen(!knows_the_way(), "h1 has entries for it")
    });
    assert!(state().contains("absent"), "{}", state());
    let theirs = explain(&lab, "10.0.0.3");
    assert!(theirs["free"] == false && theirs["reason"].to_string().contains("not seen"), "{theirs}");
    wire.ip(&["link", "set", "eth0", "up"]).unwrap();
    let back = eventually("to reach it", Duration::from_secs(20), || ping(&near, &far.ip().unwrap()));
    assert!(state().contains("no lease"), "{}", state());
    wire.ip(&["link", "set", "eth0", "down"]).unwrap();
    eventually("no way to it", Duration::from_secs(40), || seen(!knows_the_way(), "h1 has entries for it"));

    let leaks = h1.json(&["gc", "--dry-run"]).unwrap();
    let leaks = leaks.as_array().unwrap();
    assert!(
        !leaks.is_empty() && leaks.iter().all(|l| l["safe"] == false && l["node_name"] == "h2"),
        "{leaks:?}"
    );
    assert_eq!(h1.json(&["gc"]).unwrap().as_array().unwrap().len(), 0, "nothing of it is safe");
    let said = refusal(&h1.output(&["gc", "--dead-node", "h1"]).unwrap(), 5);
    assert!(said.contains("h1 lives"), "{said}");

    let removed = h1.json(&["gc", "--dead-node", "h2"]).unwrap();
    let removed = removed.as_array().unwrap().len();
    assert!(removed >= 3, "node, endpoint, claim: {removed}");
    assert_eq!(explain(&lab, "10.0.0.3")["free"], true);
    let wrong = records(lab.etcd.as_ref().unwrap()).iter().filter(|key| key.contains("10.0.0.3")).count();
    figures(
        "host dead for good",
        &format!(
            "its lease of 2 s ended after {} ms; with its kernel answering nothing was withdrawn; without, its endpoint was after \
             {} ms, and was back {} ms after it answered again; {removed} records freed when fenced, {wrong} records wrong",
            ended.as_millis(),
            withdrawn.as_millis(),
            back.as_millis()
        ),
    );
    assert_eq!(wrong, 0);
    wire.ip(&["link", "set", "eth0", "up"]).unwrap();
    // It comes back: its container's interface is no longer one of the network's.
    lab.daemon_mut("h2").unwrap().start().unwrap();
    let h2 = lab.daemon("h2").unwrap();
    eventually("no device of the network on it", Duration::from_secs(10), || {
        let devices = weft_devices(&h2.overlay());
        seen(devices.is_empty(), devices)
    });
    assert_eq!(h1.json(&["gc", "--dry-run"]).unwrap().as_array().unwrap().len(), 0);
}
