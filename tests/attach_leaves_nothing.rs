//! A namespace that was attached and detached leaves nothing: no device, entry, record or open file.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    time::{Duration, Instant},
};
use weft_e2e::{
    datapath, devices, eventually, fast_path, kernel_picture, lab, one_more, options_with_etcd, ping,
    records, seen,
};
use weft_lab::{Daemon, Fixture, figures, short_or_long};

/// What a daemon's memory may grow by, in KiB: what was used once and is kept, and the allocator's slack. A leak of a few
/// hundred bytes in each cycle of the long form is more.
const SLACK: u64 = 6 * 1024;

/// Everything that could be left behind.
#[derive(Debug, PartialEq)]
struct Holdings {
    host_devices: Vec<Vec<String>>,
    kernel: Vec<serde_json::Value>,
    records: BTreeSet<String>,
    open_files: Vec<usize>,
    /// The entries of the fast path's maps, and its pins.
    fast_path: Vec<BTreeMap<String, usize>>,
}

/// How many entries each of the fast path's maps has, and how many pins there are; nothing on the other data path.
fn entries_and_pins(daemon: &Daemon) -> BTreeMap<String, usize> {
    if datapath(daemon) != "ebpf" {
        return BTreeMap::new();
    }
    let pins = Command::new("find").arg(fast_path::pin(daemon, "")).output().unwrap();
    BTreeMap::from([
        ("stations".to_owned(), fast_path::table::<12, 24>(daemon, "stations").keys().count()),
        ("neighbours".to_owned(), fast_path::table::<20, 8>(daemon, "neighbours").keys().count()),
        ("ports".to_owned(), fast_path::table::<4, 8>(daemon, "ports").keys().count()),
        ("peers".to_owned(), fast_path::table::<16, 4>(daemon, "peers").keys().count()),
        ("pins".to_owned(), String::from_utf8_lossy(&pins.stdout).lines().count()),
    ])
}

/// The memory that a daemon has in use, in KiB.
fn memory(daemon: &Daemon) -> u64 {
    let path = format!("/proc/{}/status", daemon.process().unwrap().pid);
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn holdings(lab: &Fixture) -> Holdings {
    Holdings {
        host_devices: lab.hosts.iter().map(|h| devices(&h.namespace)).collect(),
        kernel: lab.daemons.iter().map(|d| kernel_picture(d, true)).collect(),
        records: records(lab.etcd.as_ref().unwrap()),
        open_files: lab.daemons.iter().map(|d| d.process().unwrap().open_files().unwrap()).collect(),
        fast_path: lab.daemons.iter().map(entries_and_pins).collect(),
    }
}

#[test]
fn many_cycles_leave_everything_as_it_was() {
    let cycles = short_or_long(200_u32, 10_000);
    let Some(options) = options_with_etcd("cycles") else { return };
    let Some(mut lab) = lab(options) else { return };
    let mut container = one_more(&mut lab, "h1", 9);
    let daemon = lab.daemon("h1").unwrap();
    // Once before counting: what is made at first use stays.
    container.attach(daemon, "lab", &[]).unwrap();
    container.detach(daemon, "lab").unwrap();
    let before = holdings(&lab);
    let mut attaching = Duration::ZERO;
    let mut after_some = [0, 0];
    for cycle in 0..cycles {
        if cycle == cycles / 4 {
            // What is used at first, and grows to its size, is there.
            after_some = [memory(&lab.daemons[0]), memory(&lab.daemons[1])];
        }
        let start = Instant::now();
        container.attach(daemon, "lab", &[]).unwrap();
        attaching += start.elapsed();
        assert_eq!(container.ip().unwrap(), "10.0.0.4", "cycle {cycle}: the address is free again");
        if cycle % 50 == 0 {
            // An echo may be late on a busy machine.
            eventually("an answer", Duration::from_secs(10), || ping(&container, "10.0.0.3"));
        }
        container.detach(daemon, "lab").unwrap();
        assert_eq!(devices(&container.namespace), ["lo"], "cycle {cycle}");
    }
    let at_the_end = [memory(&lab.daemons[0]), memory(&lab.daemons[1])];
    eventually("everything as before", Duration::from_secs(10), || {
        let now = holdings(&lab);
        seen(now == before, (&now, &before))
    });
    figures(
        &format!("attached and detached, {}", datapath(daemon)),
        &format!(
            "{cycles} times, {} ms an attach with the command and all; no device, entry, pin, record or descriptor left; memory \
             from {after_some:?} KiB after a quarter to {at_the_end:?}",
            attaching.as_millis() / u128::from(cycles)
        ),
    );
    for (before, after) in after_some.iter().zip(at_the_end) {
        assert!(after < before + SLACK, "memory grows: {after_some:?} KiB, then {at_the_end:?}");
    }
    container.namespace.remove().unwrap();
}

#[test]
fn the_last_endpoint_takes_the_networks_devices_with_it() {
    let Some(options) = options_with_etcd("last") else { return };
    let Some(mut lab) = lab(options) else { return };
    let daemon = lab.daemon("h1").unwrap().clone();
    assert_eq!(weft_e2e::weft_devices(&daemon.overlay()).len(), 3);
    lab.containers[0].detach(&daemon, "lab").unwrap();
    assert_eq!(weft_e2e::weft_devices(&daemon.overlay()), Vec::<String>::new());
    let other = lab.daemon("h2").unwrap();
    eventually("the other host to forget the endpoint", Duration::from_secs(2), || {
        let picture = kernel_picture(other, false).to_string();
        seen(!picture.contains("02:42:0a:00:00:02") && !picture.contains("10.77.0.1\""), picture)
    });
}

#[test]
fn a_namespace_that_is_deleted_without_detach_is_cleaned_up_after() {
    let Some(options) = options_with_etcd("orphan") else { return };
    let Some(mut lab) = lab(options) else { return };
    let mut container = one_more(&mut lab, "h1", 9);
    let daemon = lab.daemon("h1").unwrap();
    let before = holdings(&lab);
    container.attach(daemon, "lab", &[]).unwrap();
    container.namespace.remove().unwrap();
    eventually("the endpoint's end", Duration::from_secs(20), || {
        let now = holdings(&lab);
        seen(now.records == before.records && now.kernel == before.kernel, (&now, &before))
    });
}

#[test]
fn down_takes_a_host_out_of_the_cluster_and_leaves_nothing_in_its_kernel() {
    let Some(options) = options_with_etcd("down") else { return };
    let Some(lab) = lab(options) else { return };
    let (h1, h2) = (lab.daemon("h1").unwrap(), lab.daemon("h2").unwrap());
    h2.weft(&["down"]).ok();
    eventually("the daemon's end", Duration::from_secs(10), || seen(!h2.is_alive(), h2.log_tail()));
    assert!(!h2.overlay().exists());
    assert_eq!(devices(&lab.hosts[1].namespace), ["eth0", "lo"]);
    assert_eq!(devices(&lab.container("h2/c1").unwrap().namespace), ["lo"]);
    let nodes = h1.json(&["node", "ls"]).unwrap();
    assert_eq!(nodes.as_array().unwrap().len(), 1, "{nodes}");
    let endpoints = h1.json(&["endpoint", "ls"]).unwrap();
    assert_eq!(endpoints.as_array().unwrap().len(), 1, "{endpoints}");
    let records = lab.etcd.as_ref().unwrap().keys("").unwrap();
    assert!(!records.iter().any(|key| key.ends_with("/10.0.0.3")), "{records:?}");
}
