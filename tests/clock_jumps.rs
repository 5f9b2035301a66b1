//! A host's wall clock may jump hours forward and back: leases, reserves and addresses do not depend on it.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};
use weft_e2e::{
    eventually, lab, one_more, only_on, options_with_etcd, ping, records, seen, traffic::moved_on,
    under_traffic,
};
use weft_lab::{Fixture, LabOptions, Tools, cannot_run, figures, short_or_long};

/// The lease of both daemons.
const LEASE: Duration = Duration::from_secs(2);

/// The wall clock of h2's daemon, and of nothing else.
struct Clock(PathBuf);

impl Clock {
    /// Starts h2's daemon again with a clock of its own. The monotonic clock stays the machine's, as when NTP or a person
    /// sets the time.
    fn of_h2(lab: &mut Fixture, library: &std::path::Path) -> Self {
        let file = lab.dir().join("clock");
        let clock = Self(file.clone());
        clock.jump("+0");
        let daemon = lab.daemon_mut("h2").unwrap();
        daemon.stop().unwrap();
        daemon.options.environment = [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        daemon.start().unwrap();
        clock
    }

    fn jump(&self, by: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, by).unwrap();
        fs::rename(&new, &self.0).unwrap();
    }
}

/// The lease that h2's sign of life is bound to.
fn lease(lab: &Fixture) -> String {
    let id = lab.daemon("h2").unwrap().status().unwrap()["node"]["id"].as_str().unwrap().to_owned();
    let key = format!("weft/v1/alive/{id}");
    let fields = lab.etcd.as_ref().unwrap().ctl(&["get", "-w", "fields", &key]).unwrap();
    fields.lines().find(|l| l.starts_with("\"Lease\"")).unwrap_or("none").to_owned()
}

/// For longer than a lease's time: h2 is alive, and nobody misses an endpoint.
fn nothing_is_withdrawn(lab: &Fixture, endpoints: usize) {
    let start = Instant::now();
    eventually("more than a lease's time", 10 * LEASE, || {
        for daemon in &lab.daemons {
            let status = daemon.status().unwrap();
            assert_eq!(
                (&status["nodes_alive"], &status["endpoints"]),
                (&2.into(), &endpoints.into()),
                "{status}"
            );
            assert_eq!(status["problems"], Value::Array(Vec::new()));
            assert_eq!(daemon.json(&["gc", "--dry-run"]).unwrap(), Value::Array(Vec::new()));
        }
        seen(start.elapsed() > LEASE * 3 / 2, start.elapsed())
    });
}

#[test]
fn the_wall_clock_jumps_hours_forward_and_back_and_nothing_is_withdrawn() {
    if !only_on("ebpf") {
        return;
    }
    let Some(options) = options_with_etcd("neclock") else { return };
    let library = match Tools::from_env().faketime() {
        Ok(library) => library,
        Err(missing) => return cannot_run("neclock", &missing),
    };
    let daemon_arguments = vec!["--lease-ttl".to_owned(), LEASE.as_secs().to_string()];
    let Some(mut lab) = lab(LabOptions { daemon_arguments, ..options }) else { return };
    let clock = Clock::of_h2(&mut lab, &library);
    lab.save().unwrap();
    eventually("a full reserve on both hosts", Duration::from_secs(20), || {
        let all = lab.etcd.as_ref().unwrap().ctl(&["get", "--prefix", "--print-value-only", ""]).unwrap();
        let held = all.matches("\"kind\":\"reserved\"").count();
        seen(held == 16, held)
    });
    let (before, held) = (records(lab.etcd.as_ref().unwrap()), lease(&lab));
    assert!(held.contains("Lease"), "{held}");
    let mut fresh = one_more(&mut lab, "h2", 2);
    let jumps = short_or_long(&["+5h", "-5h"][..], &["+5h", "-5h", "+90d", "-400d", "+1m", "+0"][..]);
    let ((), met) = under_traffic(&mut lab, |lab, flows| {
        for jump in jumps {
            clock.jump(jump);
            let daemon = lab.daemon("h2").unwrap().clone();
            fresh.attach(&daemon, "lab", &[]).unwrap();
            ping(&fresh, &lab.container("h1/c1").unwrap().ip().unwrap()).unwrap();
            let all = daemon.json(&["endpoint", "ls"]).unwrap();
            let created: Vec<i64> =
                all.as_array().unwrap().iter().filter_map(|e| e["created"].as_i64()).collect();
            let span = created.iter().max().unwrap() - created.iter().min().unwrap();
            assert!(
                *jump == "+1m" || *jump == "+0" || span > 3600,
                "the daemon sees the clock jump by {jump}: {created:?}"
            );
            nothing_is_withdrawn(lab, 3);
            fresh.detach(&daemon, "lab").unwrap();
            moved_on(flows, jump);
        }
        assert_eq!(lease(lab), held, "the lease is the same one");
        // And one that starts in the past.
        let daemon = lab.daemon_mut("h2").unwrap();
        daemon.kill().unwrap();
        daemon.start().unwrap();
        lab.save().unwrap();
        nothing_is_withdrawn(lab, 2);
        clock.jump("+0");
        moved_on(flows, "the right time");
    });
    let after = records(lab.etcd.as_ref().unwrap());
    let wrong = before.symmetric_difference(&after).count();
    figures(
        "wall clock jumped",
        &format!(
            "by {}, and a start in the past; {met}, {wrong} records wrong, lease kept",
            jumps.join(", ")
        ),
    );
    assert_eq!((met.lost, wrong), (0, 0));
}
