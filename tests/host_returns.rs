//! A host that comes back as another one, or at another address, is no black hole, and `weft status` tells what it is.
#![allow(clippy::unwrap_used)]

use std::{fs, time::Duration};
use weft_e2e::{eventually, lab, one_more, only_on, options_with_etcd, ping, records, seen};
use weft_lab::{Container, Daemon, Fixture, LabOptions, figures};

/// Longer than the leases of these tests and what etcd adds to them.
const LEASE_ENDS: Duration = Duration::from_secs(20);

/// Two hosts on etcd whose leases end soon.
fn two_hosts(name: &str) -> Option<Fixture> {
    if !only_on("ebpf") {
        return None;
    }
    let options = options_with_etcd(name)?;
    lab(LabOptions { daemon_arguments: vec!["--lease-ttl".to_owned(), "2".to_owned()], ..options })
}

fn node_id(daemon: &Daemon) -> String {
    daemon.status().unwrap()["node"]["id"].as_str().unwrap().to_owned()
}

fn problems(daemon: &Daemon) -> String {
    daemon.status().unwrap()["problems"].to_string()
}

/// They reach each other.
fn meet(one: &Container, other: &Container) -> Duration {
    let both = || ping(one, &other.ip().unwrap()).and_then(|()| ping(other, &one.ip().unwrap()));
    eventually("answers both ways", Duration::from_secs(10), both)
}

#[test]
fn a_host_that_was_installed_anew_takes_its_address_from_the_one_it_was() {
    let Some(mut lab) = two_hosts("nenew") else { return };
    let daemon = lab.daemon_mut("h2").unwrap();
    let old = node_id(daemon);
    daemon.kill().unwrap();
    fs::remove_dir_all(daemon.state_dir()).unwrap();
    daemon.start().unwrap();
    let new = node_id(daemon);
    assert_ne!(old, new);
    lab.save().unwrap();
    let h1 = lab.daemon("h1").unwrap().clone();
    // The old one's endpoint: frames for it would reach the new one, which has no such port.
    let took = eventually("no entry for the old endpoint", LEASE_ENDS, || {
        let fdb = h1.overlay().bridge_json(&["fdb", "show"]).unwrap().to_string();
        seen(!fdb.contains("02:42:0a:00:00:03"), fdb)
    });
    eventually("word of it on both hosts", LEASE_ENDS, || {
        let said = [problems(&h1), problems(lab.daemon("h2").unwrap())];
        let way_out = format!("weft gc --dead-node {}", &old[..12]);
        seen(said.iter().all(|s| s.contains("10.77.0.2") && s.contains(&way_out)), said)
    });
    let mut second = one_more(&mut lab, "h2", 2);
    second.attach(lab.daemon("h2").unwrap(), "lab", &[]).unwrap();
    assert_ne!(second.ip().unwrap(), "10.0.0.3", "the old endpoint's address is not free yet");
    meet(lab.container("h1/c1").unwrap(), &second);

    h1.weft(&["gc", "--dead-node", &old]).unwrap();
    for daemon in &lab.daemons {
        eventually("a status without problems", Duration::from_secs(5), || {
            seen(problems(daemon) == "[]", problems(daemon))
        });
    }
    assert_eq!(h1.json(&["gc", "--dry-run"]).unwrap().as_array().unwrap().len(), 0);
    assert_eq!(h1.json(&["address", "explain", "10.0.0.3"]).unwrap()[0]["free"], true);
    let wrong = records(lab.etcd.as_ref().unwrap()).iter().filter(|key| key.contains(&old)).count();
    figures(
        "host returns with another id at the same address",
        &format!(
            "its old endpoint withdrawn after {} ms, {wrong} records of the old id left",
            took.as_millis()
        ),
    );
    assert_eq!(wrong, 0);
}

#[test]
fn a_host_that_returns_at_another_address_is_itself_there() {
    let Some(mut lab) = two_hosts("neaddr") else { return };
    let before = records(lab.etcd.as_ref().unwrap());
    let namespace = lab.host("h2").unwrap().namespace.clone();
    let daemon = lab.daemon_mut("h2").unwrap();
    let id = node_id(daemon);
    daemon.kill().unwrap();
    for change in [["del", "10.77.0.2/24"], ["add", "10.77.0.99/24"]] {
        namespace.ip(&[&["addr"], &change[..], &["dev", "eth0"]].concat()).unwrap();
    }
    daemon.start().unwrap();
    assert_eq!(node_id(daemon), id);
    lab.save().unwrap();
    let took = meet(lab.container("h1/c1").unwrap(), lab.container("h2/c1").unwrap());
    for daemon in &lab.daemons {
        assert_eq!(problems(daemon), "[]");
        let nodes = daemon.json(&["node", "ls"]).unwrap();
        assert_eq!(nodes.as_array().unwrap().len(), 2, "{nodes}");
    }
    let after = records(lab.etcd.as_ref().unwrap());
    figures(
        "host returns with the same id at another address",
        &format!(
            "reached {} ms after its start, {} records wrong",
            took.as_millis(),
            before.symmetric_difference(&after).count()
        ),
    );
    assert_eq!(before, after);
}

#[test]
fn of_two_hosts_with_one_id_the_first_keeps_its_data_path_and_says_what_is_wrong() {
    let Some(mut lab) = two_hosts("neclone") else { return };
    let h2 = lab.daemon("h2").unwrap().clone();
    let id = fs::read_to_string(h2.state_dir().join("node-id")).unwrap();
    let h1 = lab.daemon_mut("h1").unwrap();
    h1.kill().unwrap();
    fs::write(h1.state_dir().join("node-id"), &id).unwrap();
    h1.start().unwrap();
    lab.save().unwrap();
    eventually("word of it", LEASE_ENDS, || {
        let said = problems(&h2);
        seen(said.contains("node-id") && said.contains("10.77.0.1"), said)
    });
    let links = h2.overlay().ip_json(&["-d", "link"]).unwrap().to_string();
    assert!(links.contains("\"local\":\"10.77.0.2\""), "{links}");
    // The record is not fought for.
    let etcd = lab.etcd.as_ref().unwrap();
    let key = format!("/v1/nodes/{}", id.trim());
    let record = || etcd.ctl(&["get", "--prefix", "-w", "fields", &format!("weft{key}")]).unwrap();
    let version = |text: &str| text.lines().find(|l| l.contains("\"Version\"")).unwrap().to_owned();
    let before = version(&record());
    // What makes daemons look at the records again. Whether it succeeds is not promised here.
    for host in ["h1", "h2"] {
        let mut more = one_more(&mut lab, host, 2);
        more.attach(lab.daemon(host).unwrap(), "lab", &[]).ok();
    }
    let etcd = lab.etcd.as_ref().unwrap();
    let after = etcd.ctl(&["get", "--prefix", "-w", "fields", &format!("weft{key}")]).unwrap();
    assert_eq!(before, version(&after));
}
