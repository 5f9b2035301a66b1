//! Bad input and bad circumstances: each has a clear message and an exit code, and leaves nothing half done.
//!
//! A kernel without VXLAN cannot be had on a machine that tests VXLAN: that row is a test of weft-kernel's
//! `requirements.rs`, where the kernel's answer is given.
#![allow(clippy::unwrap_used)]

use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use std::{collections::BTreeSet, fs, net::UdpSocket, process::Command, thread, time::Duration};
use weft_e2e::{
    eventually, kernel_picture, lab, one_more, only_on, options_with_etcd, records, refusal, seen, weft,
};
use weft_lab::{Daemon, DaemonOptions, Fixture, Host, LabOptions, output};

/// Everything that a refused request must leave as it was.
fn state(lab: &Fixture) -> (BTreeSet<String>, Vec<Value>, Vec<Vec<String>>) {
    let records = records(lab.etcd.as_ref().unwrap());
    let kernels = lab.daemons.iter().filter(|d| d.overlay().exists()).map(|d| kernel_picture(d, true));
    let hosts = lab.hosts.iter().map(|h| weft_e2e::devices(&h.namespace));
    (records, kernels.collect(), hosts.collect())
}

/// A request to h1's daemon that must be refused.
struct Refused {
    arguments: &'static [&'static str],
    exit_code: i32,
    says: &'static [&'static str],
}

const fn refused(
    arguments: &'static [&'static str],
    exit_code: i32,
    says: &'static [&'static str],
) -> Refused {
    Refused { arguments, exit_code, says }
}

#[test]
fn a_refused_request_says_why_and_changes_nothing() {
    if !only_on("ebpf") {
        return;
    }
    let Some(options) = options_with_etcd("refuse") else { return };
    let Some(mut lab) = lab(options) else { return };
    let (mut only, spare) = (one_more(&mut lab, "h2", 8), one_more(&mut lab, "h1", 9));
    let (h1, h2) = (lab.daemon("h1").unwrap(), lab.daemon("h2").unwrap());
    h1.weft(&["network", "create", "--subnet", "10.3.0.0/30", "tiny"]).unwrap();
    eventually("the network on h2", Duration::from_secs(2), || {
        only.attach(h2, "tiny", &[]).map_err(|e| e.to_string())
    });
    weft_lab::NetNs::create(spare.namespace.name()).unwrap();
    let netns = spare.namespace.path().display().to_string();
    let attached = lab.container("h1/c1").unwrap().namespace.path().display().to_string();
    let before = state(&lab);

    let table = [
        refused(&["network", "create", "--subnet", "10.9.0.5/24", "n"], 5, &["10.9.0.5/24", "10.9.0.0/24"]),
        refused(&["network", "create", "--subnet", "ten", "n"], 5, &["--subnet", "ten"]),
        refused(&["network", "create", "--subnet", "10.9.0.0/24", "a/b"], 5, &["a/b"]),
        refused(
            &["network", "create", "--subnet", "10.77.0.0/25", "n"],
            4,
            &["10.77.0.0/25", "10.77.0.0/24", "dev eth0 of node h"],
        ),
        refused(&["network", "create", "--subnet", "10.8.0.0/16", "lab"], 4, &["lab"]),
        refused(
            &["network", "create", "--gateway", "10.9.1.1", "--subnet", "10.9.0.0/24", "n"],
            5,
            &["10.9.1.1"],
        ),
        refused(&["network", "create", "--vni", "4096", "--subnet", "10.9.0.0/24", "n"], 4, &["4096", "lab"]),
        refused(&["network", "create", "--mtu", "9", "n"], 5, &["MTU 9"]),
        refused(&["network", "inspect", "nothing"], 3, &["nothing"]),
        refused(&["network", "rm", "nothing"], 3, &["nothing"]),
        refused(&["network", "rm", "lab"], 4, &["2 endpoints", "10.0.0.2", "10.0.0.3"]),
        refused(&["attach", "nothing", "--netns", "NETNS"], 3, &["nothing"]),
        refused(&["attach", "lab", "--netns", "/run/netns/not-there"], 3, &["not-there"]),
        refused(&["attach", "lab", "--netns", "ATTACHED"], 4, &["already", "eth0"]),
        refused(&["attach", "lab", "--netns", "NETNS", "--ip", "10.0.0.3"], 4, &["10.0.0.3", "h2/c1"]),
        refused(&["attach", "lab", "--netns", "NETNS", "--ip", "10.0.0.1"], 5, &["10.0.0.1", "gateway"]),
        refused(&["attach", "lab", "--netns", "NETNS", "--ip", "10.1.0.7"], 5, &["10.1.0.7", "10.0.0.0/24"]),
        refused(&["attach", "tiny", "--netns", "NETNS"], 4, &["10.3.0.0/30"]),
        refused(&["detach", "lab", "--netns", "NETNS"], 3, &["lab"]),
        refused(&["endpoint", "inspect", "nothing"], 3, &["nothing"]),
        refused(&["network", "create"], 2, &["NAME"]),
    ];
    let mut wrong = Vec::new();
    for row in &table {
        let real = row.arguments.iter().map(|a| match *a {
            "NETNS" => netns.as_str(),
            "ATTACHED" => attached.as_str(),
            other => other,
        });
        let real: Vec<&str> = real.collect();
        let output = h1.output(&real).unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        let missing: Vec<_> = row.says.iter().filter(|words| !said.contains(**words)).collect();
        if output.status.code() != Some(row.exit_code) || !missing.is_empty() {
            wrong.push(format!("weft {}: {}, without {missing:?}: {said}", real.join(" "), output.status));
        }
        let now = state(&lab);
        if now != before {
            wrong.push(format!("weft {}: it changed something", real.join(" ")));
        }
    }
    assert_eq!(weft_e2e::devices(&spare.namespace), ["lo"]);
    spare.namespace.remove().unwrap();
    only.namespace.remove().unwrap();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A daemon on h2, where none runs, with a state of its own.
fn newcomer(lab: &Fixture, change: impl FnOnce(&mut DaemonOptions)) -> Daemon {
    let host = lab.host("h2").unwrap();
    let mut options = DaemonOptions {
        weft: weft(),
        overlay_netns: format!("weft-{}", host.namespace.name()),
        store: lab.etcd.as_ref().unwrap().url(),
        advertise: "eth0:2375".to_owned(),
        join_token_file: None,
        docker_socket: None,
        arguments: vec!["--store-timeout".to_owned(), "1".to_owned()],
        environment: Vec::new(),
    };
    change(&mut options);
    Daemon::new(host, options)
}

/// Starts a daemon that must fail at once with this exit code, and returns what it said.
fn fails_to_start(lab: &Fixture, daemon: &Daemon, exit_code: i32) -> String {
    let before = state(lab);
    // `timeout` ends one that does not fail; then the exit code is 124.
    let start = daemon.start_command();
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "15"]).arg(start.get_program()).args(start.get_args());
    let said = refusal(&output(&mut command).unwrap(), exit_code);
    assert!(said.contains("weft: "), "{said}");
    assert_eq!(state(lab), before, "it left something: {said}");
    assert!(!daemon.overlay().exists(), "it left its overlay namespace: {said}");
    assert!(!daemon.socket().exists(), "it left its socket: {said}");
    said
}

#[test]
fn a_daemon_that_cannot_start_says_why_and_leaves_nothing() {
    let Some(options) = options_with_etcd("nostart") else { return };
    let Some(lab) = lab(LabOptions { containers: 0, ..options }) else { return };
    let h2 = lab.daemon("h2").unwrap();
    h2.weft(&["down", "--purge", "--overlay-netns", &h2.options.overlay_netns]).ok();
    eventually("the end of h2's daemon", Duration::from_secs(10), || seen(!h2.is_alive(), h2.log_tail()));

    let unknown = newcomer(&lab, |o| o.store = "redis://10.77.0.254:1".to_owned());
    let said = fails_to_start(&lab, &unknown, 5);
    assert!(said.contains("redis") && said.contains("etcd://"), "{said}");

    let nobody = newcomer(&lab, |o| o.store = "etcd://10.77.0.254:9".to_owned());
    let said = fails_to_start(&lab, &nobody, 6);
    assert!(said.contains("10.77.0.254:9") && said.contains("hint:"), "{said}");

    let advertise = newcomer(&lab, |o| o.advertise = "eth7:2375".to_owned());
    let said = fails_to_start(&lab, &advertise, 5);
    assert!(said.contains("eth7"), "{said}");

    let taken = bind_udp(lab.host("h2").unwrap(), 4789);
    let said = fails_to_start(&lab, &newcomer(&lab, |_| {}), 8);
    assert!(said.contains("4789") && said.contains(&format!("process {}", std::process::id())), "{said}");
    drop(taken);
    let mut daemon = newcomer(&lab, |_| {});
    daemon.start().unwrap();
    daemon.stop().unwrap();
}

/// A UDP socket of this process in a host's namespace.
fn bind_udp(host: &Host, port: u16) -> UdpSocket {
    let namespace = fs::File::open(host.namespace.path()).unwrap();
    // Only that thread enters the namespace; its socket stays there.
    let bind = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        UdpSocket::bind(("0.0.0.0", port)).unwrap()
    };
    thread::spawn(bind).join().unwrap()
}

#[test]
fn a_wrong_join_token_is_refused_and_the_right_one_is_not() {
    let Some(lab) = lab(LabOptions { containers: 0, hosts: 2, ..weft_e2e::options("token") }) else { return };
    let h2 = lab.daemon("h2").unwrap();
    h2.weft(&["down"]).ok();
    eventually("the end of h2's daemon", Duration::from_secs(10), || seen(!h2.is_alive(), h2.log_tail()));
    let right = fs::read_to_string(h2.options.join_token_file.as_ref().unwrap()).unwrap();
    // Of the right shape and wrong: the last digit changed.
    let right = right.trim();
    let last = if right.ends_with('0') { '1' } else { '0' };
    let wrong = lab.dir().join("wrong-token");
    fs::write(&wrong, format!("{}{last}\n", &right[..right.len() - 1])).unwrap();

    let options = DaemonOptions {
        join_token_file: Some(wrong),
        arguments: vec!["--store-timeout".to_owned(), "2".to_owned()],
        ..h2.options.clone()
    };
    let daemon = Daemon::new(lab.host("h2").unwrap(), options);
    let start = daemon.start_command();
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "15"]).arg(start.get_program()).args(start.get_args());
    let said = refusal(&output(&mut command).unwrap(), 7);
    assert!(said.contains("token"), "{said}");
    assert!(!daemon.overlay().exists(), "{said}");

    let mut daemon = Daemon::new(lab.host("h2").unwrap(), h2.options.clone());
    daemon.start().unwrap();
    daemon.stop().unwrap();
}

#[test]
fn without_root_the_daemon_says_so() {
    if !nix::unistd::geteuid().is_root() {
        return weft_lab::cannot_run("without root", &"it has to become somebody else first");
    }
    // A copy where everybody may read it.
    let dir = std::env::temp_dir().join(format!("weft-not-root-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let copy = dir.join("weft");
    fs::copy(weft(), &copy).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(&copy);
        output(command.args(arguments)).unwrap()
    };
    let daemon =
        run(&["daemon", "--state-dir", "/tmp/weft-no-state", "--run-dir", "/tmp/weft-no-run", "--no-docker"]);
    let lab = run(&["lab", "up"]);
    fs::remove_dir_all(&dir).unwrap();
    assert!(refusal(&daemon, 7).contains("root"));
    assert!(refusal(&lab, 7).contains("root"));
    assert!(!std::path::Path::new("/tmp/weft-no-state").exists());
}
