//! The data path outlives the daemon: it may be killed, and started again, without a lost packet or a changed
//! kernel object.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use std::{fs, time::Duration};
use weft_e2e::{eventually, kernel_picture, lab, options, options_with_etcd, ping, seen};
use weft_lab::{Fixture, LabOptions, Process};

/// Runs `disturb` under `ping -i 0.01` from h1/c1 to h2/c1 and returns what ping told at its end.
fn under_ping(lab: &mut Fixture, disturb: impl FnOnce(&mut Fixture)) -> String {
    let near = lab.container("h1/c1").unwrap().clone();
    let far = lab.container("h2/c1").unwrap().ip().unwrap();
    let log = lab.dir().join("ping.log");
    let mut command = near.namespace.command("ping");
    command.args(["-n", "-i", "0.01", "-W", "2", &far]);
    let process = Process::spawn("ping", &mut command, &log).unwrap();
    let lines = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    let progress = |more: usize| {
        let target = lines() + more;
        eventually("more answers", Duration::from_secs(10), || seen(lines() >= target, lines()));
    };
    progress(50);
    disturb(lab);
    progress(100);
    process.signal(Signal::SIGINT).unwrap();
    process.wait(Duration::from_secs(5)).unwrap();
    fs::read_to_string(&log).unwrap()
}

fn assert_nothing_lost(text: &str) {
    let summary = text.lines().find(|l| l.contains("packets transmitted")).unwrap();
    let numbers: Vec<u32> = summary.split([' ', ',']).filter_map(|w| w.parse().ok()).collect();
    assert!(numbers[0] >= 150 && numbers[0] == numbers[1], "{summary}");
}

fn killed_and_started_again(options: LabOptions) {
    let Some(mut lab) = lab(options) else { return };
    let before = ["h1", "h2"].map(|h| kernel_picture(lab.daemon(h).unwrap(), true));
    assert!(before[0].to_string().contains("weft-vx"), "{}", before[0]);
    let text = under_ping(&mut lab, |lab| {
        for host in ["h1", "h2"] {
            lab.daemon_mut(host).unwrap().kill().unwrap();
        }
        assert_eq!(["h1", "h2"].map(|h| kernel_picture(lab.daemon(h).unwrap(), true)), before);
        for host in ["h1", "h2"] {
            lab.daemon_mut(host).unwrap().start().unwrap();
        }
        lab.save().unwrap();
    });
    assert_nothing_lost(&text);
    for host in ["h1", "h2"] {
        let daemon = lab.daemon(host).unwrap();
        eventually("the start's own look at the kernel", Duration::from_secs(10), || {
            let status = daemon.status().unwrap();
            let (applied, objects) = (&status["store"]["applied"], &status["kernel_objects"]);
            seen(applied == &status["store"]["revision"] && objects.as_u64() > Some(0), status.clone())
        });
        assert_eq!(daemon.status().unwrap()["drift_repaired"].to_string(), "{}");
    }
    assert_eq!(["h1", "h2"].map(|h| kernel_picture(lab.daemon(h).unwrap(), true)), before);
}

#[test]
fn killed_under_ping_on_the_embedded_store_nothing_is_lost_and_nothing_changes() {
    killed_and_started_again(options("kill"));
}

#[test]
fn killed_under_ping_on_etcd_nothing_is_lost_and_nothing_changes() {
    let Some(options) = options_with_etcd("killetcd") else { return };
    killed_and_started_again(options);
}

#[test]
fn ended_by_sigterm_under_ping_nothing_is_lost() {
    let Some(mut lab) = lab(options("term")) else { return };
    let text = under_ping(&mut lab, |lab| {
        lab.daemon_mut("h2").unwrap().stop().unwrap();
        lab.daemon_mut("h2").unwrap().start().unwrap();
    });
    assert_nothing_lost(&text);
}

#[test]
fn a_daemon_that_starts_while_the_store_is_away_carries_on_with_what_it_knew() {
    let Some(options) = options_with_etcd("away") else { return };
    let Some(mut lab) =
        lab(LabOptions { daemon_arguments: vec!["--store-timeout".to_owned(), "2".to_owned()], ..options })
    else {
        return;
    };
    let before = kernel_picture(lab.daemon("h1").unwrap(), true);
    let kept = lab.daemon("h1").unwrap().state_dir().join("snapshot.json");
    eventually("the snapshot on disk", Duration::from_secs(5), || {
        let text = fs::read_to_string(&kept).unwrap_or_default();
        seen(text.contains("02:42:0a:00:00:03"), text)
    });
    lab.etcd.as_mut().unwrap().kill().unwrap();
    let text = under_ping(&mut lab, |lab| {
        let daemon = lab.daemon_mut("h1").unwrap();
        daemon.kill().unwrap();
        daemon.start().unwrap();
        let status = daemon.status().unwrap();
        assert_eq!(status["store"]["connected"], false, "{status}");
    });
    assert_nothing_lost(&text);
    assert_eq!(kernel_picture(lab.daemon("h1").unwrap(), true), before);
    lab.etcd.as_mut().unwrap().start_again().unwrap();
    let h1 = lab.daemon("h1").unwrap();
    eventually("the store's return", Duration::from_secs(20), || {
        let status = h1.status().unwrap();
        seen(status["store"]["connected"] == true, status["store"].clone())
    });
    h1.weft(&["network", "create", "after"]).unwrap();
    ping(lab.container("h1/c1").unwrap(), "10.0.0.3").unwrap();
}
