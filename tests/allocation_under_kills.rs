//! Hosts allocate addresses at once while their daemons are killed: no address has two containers, and nothing is left over.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};
use weft_e2e::{eventually, lab, only_on, options_with_etcd, records, request, seen, weft_devices};
use weft_lab::{Daemon, Fixture, LabOptions, NetNs, figures, short_or_long};

/// Callers at once on each host, and the namespaces that each of them has.
const CALLERS: usize = 2;
const NAMESPACES: usize = 4;
/// How long a daemon that was killed may take to answer again.
const RETURNS: Duration = Duration::from_secs(30);

/// What all callers share.
#[derive(Default)]
struct Ledger {
    /// Addresses that a container has: entered when the daemon has answered, taken out before it is asked to free it.
    held: Mutex<BTreeSet<String>>,
    /// Addresses that were given.
    given: AtomicUsize,
    /// Requests whose answer was lost.
    unanswered: AtomicUsize,
    duplicates: Mutex<Vec<String>>,
    done: AtomicBool,
}

/// Asks until there is an answer.
fn ask(ledger: &Ledger, daemon: &Daemon, path: &str, body: &Value) -> (u16, String) {
    let mut answer = None;
    eventually("an answer of the daemon", RETURNS, || match request(&daemon.socket(), "POST", path, body) {
        // The daemon ends in the middle, or is not back yet.
        Err(error) => {
            ledger.unanswered.fetch_add(1, SeqCst);
            Err(error.to_string())
        }
        Ok(found) => {
            answer = Some(found);
            Ok(())
        }
    });
    answer.unwrap()
}

/// The address of a namespace's interface, as its kernel has it.
fn address_of(namespace: &NetNs) -> Option<String> {
    let links = namespace.ip_json(&["addr", "show", "scope", "global"]).unwrap();
    let infos =
        links.as_array().unwrap().iter().flat_map(|l| l["addr_info"].as_array().cloned().unwrap_or_default());
    infos.filter(|info| info["family"] == "inet").find_map(|info| info["local"].as_str().map(str::to_owned))
}

fn attach(ledger: &Ledger, daemon: &Daemon, namespace: &NetNs) {
    let netns = namespace.path().display().to_string();
    let (status, body) = ask(ledger, daemon, "/v1/attach", &json!({ "network": "wide", "netns": netns }));
    // 409: the answer to an earlier attempt was lost, not the attempt. Its port may still be on its way.
    assert!(status == 200 || status == 409, "attach: {status} {body}");
    let mut address = None;
    eventually("the container's address", RETURNS, || {
        address = address_of(namespace);
        seen(address.is_some(), &body)
    });
    let address = address.unwrap();
    ledger.given.fetch_add(1, SeqCst);
    if !ledger.held.lock().unwrap().insert(address.clone()) {
        ledger.duplicates.lock().unwrap().push(address);
    }
}

fn detach(ledger: &Ledger, daemon: &Daemon, namespace: &NetNs) {
    let address = address_of(namespace).unwrap();
    ledger.held.lock().unwrap().remove(&address);
    let netns = namespace.path().display().to_string();
    let (status, body) = ask(ledger, daemon, "/v1/detach", &json!({ "network": "wide", "netns": netns }));
    assert!(status < 300 || status == 404 || status == 409, "detach: {status} {body}");
    eventually("the end of its interface", RETURNS, || {
        let left = address_of(namespace);
        seen(left.is_none(), left)
    });
}

/// One caller: its containers come and go until `each` addresses were given to them; those that are left stay.
fn call(ledger: &Ledger, daemon: &Daemon, namespaces: &[NetNs], each: usize) {
    for number in 0..each {
        let namespace = &namespaces[number % namespaces.len()];
        if number >= namespaces.len() {
            detach(ledger, daemon, namespace);
        }
        attach(ledger, daemon, namespace);
    }
}

/// Kills the daemons in turn until the callers are done; how often.
fn kill_in_turn(lab: &mut Fixture, ledger: &Ledger, every: Duration) -> usize {
    let mut kills = 0;
    while !ledger.done.load(SeqCst) {
        let start = Instant::now();
        eventually("the next kill", every + RETURNS, || {
            seen(ledger.done.load(SeqCst) || start.elapsed() > every, start.elapsed())
        });
        let daemon = lab.daemon_mut(["h1", "h2"][kills % 2]).unwrap();
        daemon.kill().unwrap();
        daemon.start().unwrap();
        lab.save().unwrap();
        kills += 1;
    }
    kills
}

/// The addresses of the claims in the store.
fn claims(lab: &Fixture) -> BTreeSet<String> {
    let keys = records(lab.etcd.as_ref().unwrap()).into_iter().filter(|key| key.contains("/addresses/"));
    keys.filter_map(|key| key.rsplit('/').next().map(str::to_owned)).collect()
}

#[test]
fn two_hosts_allocate_at_once_while_their_daemons_are_killed_and_nothing_is_doubled_or_left() {
    if !only_on("ebpf") {
        return;
    }
    let Some(options) = options_with_etcd("nealloc") else { return };
    let Some(mut lab) = lab(LabOptions { containers: 0, ..options }) else { return };
    lab.daemon("h1").unwrap().weft(&["network", "create", "--subnet", "10.60.0.0/24", "wide"]).unwrap();
    for daemon in &lab.daemons {
        eventually("the network on every host", RETURNS, || {
            daemon.weft(&["network", "inspect", "wide"]).map(drop).map_err(|e| e.to_string())
        });
    }
    let addresses = short_or_long(120, 10_000);
    let each = addresses / (lab.daemons.len() * CALLERS);
    let mut callers = Vec::new();
    for (host, daemon) in lab.hosts.clone().iter().zip(lab.daemons.clone()) {
        for caller in 0..CALLERS {
            let numbers = caller * NAMESPACES + 1..=(caller + 1) * NAMESPACES;
            let containers: Vec<_> =
                numbers.map(|number| weft_e2e::one_more(&mut lab, &host.name, number)).collect();
            let namespaces = containers.iter().map(|c| NetNs::create(c.namespace.name()).unwrap());
            callers.push((daemon.clone(), namespaces.collect::<Vec<_>>()));
        }
    }
    let ledger = Ledger::default();
    let start = Instant::now();
    let kills = thread::scope(|scope| {
        let working: Vec<_> = callers
            .iter()
            .map(|(daemon, namespaces)| {
                let ledger = &ledger;
                scope.spawn(move || call(ledger, daemon, namespaces, each))
            })
            .collect();
        let waiting = scope.spawn(|| {
            let failed =
                working.into_iter().map(thread::ScopedJoinHandle::join).filter(Result::is_err).count();
            ledger.done.store(true, SeqCst);
            failed
        });
        let kills = kill_in_turn(&mut lab, &ledger, Duration::from_millis(short_or_long(500, 3000)));
        assert_eq!(waiting.join().unwrap(), 0, "a caller failed");
        kills
    });
    let took = start.elapsed();
    let live: BTreeSet<String> =
        callers.iter().flat_map(|(_, namespaces)| namespaces.iter().filter_map(address_of)).collect();
    let duplicates = ledger.duplicates.into_inner().unwrap();
    eventually("records that fit the containers that live", RETURNS, || {
        let claims = claims(&lab);
        let known: Vec<_> = lab.daemons.iter().map(|d| d.json(&["endpoint", "ls"]).unwrap()).collect();
        let count = |known: &Value| known.as_array().unwrap().len();
        seen(claims == live && known.iter().all(|k| count(k) == live.len()), (claims, &live))
    });
    for daemon in &lab.daemons {
        eventually("no garbage", RETURNS, || {
            let leaks = daemon.json(&["gc", "--dry-run"]).unwrap();
            seen(leaks.as_array().unwrap().is_empty(), leaks)
        });
        // A bridge, a VXLAN device, and a port for each container.
        let devices = weft_devices(&daemon.overlay());
        assert_eq!(devices.len(), 2 + CALLERS * NAMESPACES, "{devices:?}");
    }
    figures(
        "two hosts allocate at once under kills",
        &format!(
            "{} addresses given in {} s, {kills} kills, {} requests without an answer, {} duplicates, 0 leaks, {} containers \
             live at the end with as many records",
            ledger.given.into_inner(),
            took.as_secs(),
            ledger.unanswered.into_inner(),
            duplicates.len(),
            live.len()
        ),
    );
    assert_eq!(live.len(), lab.daemons.len() * CALLERS * NAMESPACES);
    assert!(duplicates.is_empty(), "{duplicates:?}");
}
