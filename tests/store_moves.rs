//! The cluster moves from the embedded store to etcd under traffic, while containers are attached: nothing is lost or
//! doubled, and daemons that start later find the new store by themselves.
#![allow(clippy::unwrap_used)]

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    process::{Child, Stdio},
    thread,
    time::Duration,
};
use weft_e2e::{eventually, lab, one_more, options, ping, seen};
use weft_lab::{Container, Daemon, Etcd, Fixture, NetNs, Tools, cannot_run, figures};

const PATIENCE: Duration = Duration::from_secs(30);
/// Containers attached to each host while the store moves.
const MORE: usize = 4;

/// A ping that goes on until it is asked how it went. Gone with its guard.
struct Pinging(Child);

impl Pinging {
    fn start(from: &Container, to: &str) -> Self {
        let mut command = from.namespace.command("ping");
        command.args(["-n", "-q", "-i", "0.01", to]).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Packets sent, and of them lost.
    fn end(mut self) -> (usize, usize) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGINT).unwrap();
        let mut told = String::new();
        std::io::Read::read_to_string(self.0.stdout.as_mut().unwrap(), &mut told).unwrap();
        let line = told.lines().find(|line| line.contains("packets transmitted")).unwrap();
        let mut numbers = line.split(' ').filter_map(|word| word.parse::<usize>().ok());
        let (sent, received) = (numbers.next().unwrap(), numbers.next().unwrap());
        (sent, sent - received)
    }
}

impl Drop for Pinging {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn addresses(daemon: &Daemon) -> BTreeSet<String> {
    let endpoints = daemon.json(&["endpoint", "ls"]).unwrap();
    let endpoints = endpoints.as_array().unwrap();
    let address = |endpoint: &Value| endpoint["addresses"][0].as_str().unwrap().to_owned();
    let addresses: BTreeSet<String> = endpoints.iter().map(address).collect();
    assert_eq!(addresses.len(), endpoints.len(), "no address twice: {endpoints:?}");
    addresses
}

/// `weft store ARGUMENTS` on a host, with its daemon's directories.
fn store(daemon: &Daemon, arguments: &[&str]) -> String {
    let state = daemon.state_dir().display().to_string();
    daemon.weft(&[&["store"], arguments, &["--state-dir", &state]].concat()).unwrap()
}

fn uses_etcd(lab: &Fixture, endpoints: usize) {
    for host in ["h1", "h2"] {
        let daemon = lab.daemon(host).unwrap();
        eventually("a daemon that uses the new store", PATIENCE, || {
            let status = daemon.status().unwrap();
            let told = !status["problems"].to_string().contains("wait to be told");
            let there = status["store"]["address"].as_str().unwrap().starts_with("etcd://");
            seen(there && told && status["store"]["connected"] == true, status)
        });
        eventually("all endpoints on every host", PATIENCE, || {
            let found = addresses(daemon);
            seen(found.len() == endpoints, found)
        });
    }
}

/// Containers on both hosts that are on no network yet.
fn waiting(lab: &mut Fixture) -> Vec<Container> {
    let mut containers = Vec::new();
    for number in 0..MORE {
        for host in ["h1", "h2"] {
            let container = one_more(lab, host, 2 + number);
            NetNs::create(container.namespace.name()).unwrap();
            containers.push(container);
        }
    }
    containers
}

#[test]
fn a_cluster_moves_from_the_embedded_store_to_etcd_under_traffic() {
    let tools = Tools::from_env();
    if let Err(missing) = tools.etcd() {
        cannot_run("stmove", &missing);
        return;
    }
    let Some(mut lab) = lab(options("stmove")) else { return };
    let mut containers = waiting(&mut lab);
    let target = lab.container("h2/c1").unwrap().ip().unwrap();
    let pinging = Pinging::start(lab.container("h1/c1").unwrap(), &target);

    // Both hosts hold their eight addresses ahead, from the last one of the subnet down: containers start from them meanwhile.
    eventually("a reserve on both hosts", PATIENCE, || {
        let told = lab.daemon("h1").unwrap().json(&["address", "explain", "10.0.0.239"]).unwrap();
        seen(told[0]["free"] == false, told)
    });

    // A backup by the daemon that serves the store, and one by way of the network.
    let backup = lab.dir().join("backup");
    let told = store(lab.daemon("h1").unwrap(), &["backup", &backup.display().to_string()]);
    assert!(told.contains("records of weft://"), "{told}");
    let told = store(lab.daemon("h1").unwrap(), &["check"]);
    assert!(told.contains(" 0 that do not fit"), "{told}");

    let dir = lab.dir();
    lab.etcd = Some(Etcd::start(&lab.wire, &tools, &dir).unwrap());
    lab.save().unwrap();
    let url = lab.etcd.as_ref().unwrap().url();
    let mover = lab.daemon("h1").unwrap().clone();
    let to = url.clone();
    let moving = thread::spawn(move || store(&mover, &["copy", "local", &to]));
    for container in &mut containers {
        let daemon = lab.daemon(&container.host).unwrap();
        container.attach(daemon, "lab", &[]).unwrap();
    }
    let told = moving.join().unwrap();
    assert!(told.contains("records moved from weft://"), "{told}");
    uses_etcd(&lab, 2 + containers.len());
    for (from, to) in [(0, 1), (1, 0), (2, 3)] {
        let to = containers[to].ip().unwrap();
        eventually("containers that were attached meanwhile reach each other", PATIENCE, || {
            ping(&containers[from], &to)
        });
    }
    let told = store(lab.daemon("h2").unwrap(), &["check", &url]);
    assert!(told.contains(" 0 that do not fit"), "{told}");

    // Started as ever, with the old store's URL, and the old store is gone for good.
    for host in ["h1", "h2"] {
        lab.daemon_mut(host).unwrap().stop().unwrap();
    }
    std::fs::remove_file(lab.daemon("h1").unwrap().state_dir().join("store.redb")).unwrap();
    for host in ["h1", "h2"] {
        lab.daemon_mut(host).unwrap().start().unwrap();
    }
    uses_etcd(&lab, 2 + containers.len());
    assert!(!lab.daemon("h1").unwrap().state_dir().join("store.redb").exists());

    let (sent, lost) = pinging.end();
    let attached = containers.len();
    figures(
        "embedded store moved to etcd",
        &format!("{attached} containers attached meanwhile, {lost} of {sent} pings lost, 0 records wrong"),
    );
    assert_eq!(lost, 0, "of {sent} pings");
}
