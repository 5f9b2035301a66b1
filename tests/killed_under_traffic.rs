//! Daemons are killed again and again, in their starts too, while containers talk: not one frame is lost.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};
use weft_e2e::{
    datapath, drift_repaired, eventually, kernel_picture, lab, options_with_etcd, records, seen,
    traffic::moved_on, under_traffic,
};
use weft_lab::{Fixture, figures, short_or_long};

/// How far into a start the kills come: before it has read its store, while it adopts the kernel's state, after.
const STARTS: [u64; 6] = [5, 20, 40, 80, 150, 300];

/// Kills a host's daemon, then its successor `into` its start, and lets the third live.
fn kill_twice(lab: &mut Fixture, host: &str, into: Duration) {
    let daemon = lab.daemon_mut(host).unwrap();
    daemon.kill().unwrap();
    daemon.spawn().unwrap();
    let start = Instant::now();
    eventually("a moment of its start", 2 * into + Duration::from_secs(5), || {
        seen(start.elapsed() >= into, start.elapsed())
    });
    daemon.kill().unwrap();
    daemon.start().unwrap();
}

#[test]
fn daemons_killed_in_a_loop_lose_no_frame_and_no_record() {
    let Some(options) = options_with_etcd("nekill") else { return };
    let Some(mut lab) = lab(options) else { return };
    let rounds = short_or_long(4, 150);
    let path = datapath(lab.daemon("h1").unwrap());
    let holdings = |lab: &Fixture| {
        let kernel: Vec<_> = lab.daemons.iter().map(|d| kernel_picture(d, true)).collect();
        (kernel, records(lab.etcd.as_ref().unwrap()))
    };
    let before = holdings(&lab);
    let (kills, met) = under_traffic(&mut lab, |lab, flows| {
        let mut kills = 0;
        for round in 0..rounds {
            let into = Duration::from_millis(STARTS[round % STARTS.len()]);
            for host in [&["h1"][..], &["h2"], &["h1", "h2"]][round % 3] {
                kill_twice(lab, host, into);
                kills += 2;
            }
            lab.save().unwrap();
            moved_on(flows, "the kills");
        }
        kills
    });
    for daemon in &lab.daemons {
        eventually("a status without problems", Duration::from_secs(20), || {
            let status = daemon.status().unwrap();
            seen(status["problems"].as_array().is_some_and(Vec::is_empty), status)
        });
        assert_eq!(drift_repaired(daemon), 0, "a start finds everything as it should be");
    }
    let after = holdings(&lab);
    let wrong = before.1.symmetric_difference(&after.1).count();
    figures(&format!("daemon killed, {path}"), &format!("{kills} kills, {met}, {wrong} records wrong"));
    assert_eq!((met.lost, wrong), (0, 0));
    assert_eq!(before, after);
}
