//! A host that lives and has lost its lease comes back as itself: nothing is renumbered, and no frame is lost.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use weft_e2e::{
    datapath, eventually, kernel_picture, lab, only_on, options_with_etcd, records, seen, traffic::moved_on,
    under_traffic,
};
use weft_lab::{Fixture, LabOptions, figures, short_or_long};

/// How long a lease may take to end or to be taken anew.
const WITHIN: Duration = Duration::from_secs(20);

/// Whether h2 counts as alive.
fn alive(lab: &Fixture, is: bool) -> Duration {
    let h1 = lab.daemon("h1").unwrap();
    eventually(if is { "its return" } else { "the end of its lease" }, WITHIN, || {
        let nodes = h1.json(&["node", "ls"]).unwrap();
        let found = nodes.as_array().unwrap().iter().any(|n| n["name"] == "h2" && n["alive"] == is);
        seen(found, nodes)
    })
}

/// Takes h2's lease away.
fn revoke(lab: &Fixture) {
    let etcd = lab.etcd.as_ref().unwrap();
    let id = lab.daemon("h2").unwrap().status().unwrap()["node"]["id"].as_str().unwrap().to_owned();
    let fields = etcd.ctl(&["get", "--prefix", "-w", "fields", &format!("weft/v1/alive/{id}")]).unwrap();
    let lease = fields.lines().find_map(|l| l.strip_prefix("\"Lease\" : ")).unwrap();
    etcd.ctl(&["lease", "revoke", &format!("{:x}", lease.trim().parse::<u64>().unwrap())]).unwrap();
}

fn comes_back_as_itself(name: &str, fault: &str, lose: impl Fn(&Fixture)) {
    let Some(options) = options_with_etcd(name) else { return };
    let daemon_arguments = vec!["--lease-ttl".to_owned(), "3".to_owned()];
    let Some(mut lab) = lab(LabOptions { daemon_arguments, ..options }) else { return };
    let path = datapath(lab.daemon("h1").unwrap());
    let holdings = |lab: &Fixture| {
        let kernel: Vec<_> = lab.daemons.iter().map(|d| kernel_picture(d, true)).collect();
        (
            kernel,
            records(lab.etcd.as_ref().unwrap()),
            lab.daemon("h1").unwrap().json(&["endpoint", "ls"]).unwrap(),
        )
    };
    let before = holdings(&lab);
    let times = short_or_long(1, 20);
    let (back, met) = under_traffic(&mut lab, |lab, flows| {
        let mut longest = Duration::ZERO;
        for _ in 0..times {
            let start = Instant::now();
            lose(lab);
            alive(lab, true);
            longest = longest.max(start.elapsed());
            moved_on(flows, fault);
        }
        longest
    });
    let after = holdings(&lab);
    let wrong = before.1.symmetric_difference(&after.1).count();
    figures(
        &format!("{fault}, {path}"),
        &format!(
            "{times} times, {met}, {wrong} records wrong, alive again after {} ms at most",
            back.as_millis()
        ),
    );
    assert_eq!((met.lost, wrong), (0, 0));
    assert_eq!(before, after);
}

#[test]
fn a_lease_that_was_revoked_by_hand_is_taken_anew() {
    if !only_on("ebpf") {
        return;
    }
    comes_back_as_itself("nerevoke", "lease revoked", |lab| {
        revoke(lab);
    });
}

#[test]
fn a_daemon_that_stood_still_for_longer_than_its_lease_is_itself_again() {
    comes_back_as_itself("nestill", "daemon stopped for longer than its lease", |lab| {
        let process = lab.daemon("h2").unwrap().process().unwrap();
        process.signal(Signal::SIGSTOP).unwrap();
        alive(lab, false);
        process.signal(Signal::SIGCONT).unwrap();
    });
}
