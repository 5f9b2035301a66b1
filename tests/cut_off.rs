//! A host that is cut off from the store, from its peers, or from both goes on with what it has, and heals by itself.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use weft_e2e::{
    datapath, eventually, kernel_picture, lab, one_more, only_on, options_with_etcd, ping, records, seen,
    traffic::moved_on, under_traffic,
};
use weft_lab::{Daemon, Fixture, LabOptions, figures, short_or_long};

/// How long healing may take.
const HEALED: Duration = Duration::from_secs(40);

/// What is dropped on its way to or from h3, at the switch.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// TCP with etcd.
    Store,
    /// VXLAN.
    Peers,
    /// Everything.
    Both,
}

impl Cut {
    /// Rules for a bridge's ports: a frame that the switch forwards, or takes and sends itself.
    fn rules(self) -> &'static [&'static str] {
        match self {
            Self::Store => &["tcp dport 2379 drop", "tcp sport 2379 drop"],
            Self::Peers => &["udp dport 4789 drop"],
            Self::Both => &["drop"],
        }
    }

    fn make(self, lab: &Fixture) {
        let chain = |(hook, device): (&str, &str)| {
            let rules: String =
                self.rules().iter().map(|rule| [device, " \"h3\" ", rule, "\n"].concat()).collect();
            format!("chain {hook} {{ type filter hook {hook} priority 0;\n{rules}}}\n")
        };
        let chains = [("prerouting", "iifname"), ("postrouting", "oifname")].map(chain).concat();
        let script = format!("table bridge cut {{\n{chains}}}\n");
        lab.wire.namespace.run(&["nft", &script]).unwrap();
    }

    fn heal(lab: &Fixture) {
        lab.wire.namespace.run(&["nft", "delete", "table", "bridge", "cut"]).unwrap();
    }
}

fn three_hosts(name: &str) -> Option<Fixture> {
    let options = options_with_etcd(name)?;
    let daemon_arguments = ["--lease-ttl", "4", "--store-timeout", "2"].map(str::to_owned).to_vec();
    lab(LabOptions { hosts: 3, daemon_arguments, ..options })
}

fn connected(daemon: &Daemon, is: bool) -> Duration {
    eventually("what the daemon says of its store", HEALED, || {
        let status = daemon.status().unwrap();
        let told = !status["problems"].to_string().contains("wait to be told");
        seen(status["store"]["connected"] == is && (told || !is), status)
    })
}

/// Address and id of every endpoint, as a daemon has them.
fn endpoints(daemon: &Daemon) -> BTreeSet<(String, String)> {
    let all = daemon.json(&["endpoint", "ls"]).unwrap();
    let text = |e: &serde_json::Value, key: &str| e[key].to_string();
    all.as_array().unwrap().iter().map(|e| (text(e, "addresses"), text(e, "id"))).collect()
}

/// Waits until all three know the same `count` endpoints and all containers that are named reach each other.
fn converged(lab: &Fixture, count: usize) -> Duration {
    let start = Instant::now();
    eventually("all hosts to know the same", HEALED, || {
        let known: Vec<_> = lab.daemons.iter().map(endpoints).collect();
        seen(known.iter().all(|k| *k == known[0] && k.len() == count), known)
    });
    let on_network = || lab.containers.iter().filter(|c| !c.addresses.is_empty());
    for from in on_network() {
        for to in on_network().filter(|to| to.host != from.host) {
            eventually("everybody to reach everybody", HEALED, || ping(from, &to.ip().unwrap()));
        }
    }
    start.elapsed()
}

/// One container more on h3, and then one less.
fn start_and_stop(lab: &mut Fixture) {
    let mut fresh = one_more(lab, "h3", 2);
    fresh.attach(lab.daemon("h3").unwrap(), "lab", &[]).unwrap();
    *lab.containers.last_mut().unwrap() = fresh.clone();
    ping(&fresh, &lab.container("h3/c1").unwrap().ip().unwrap()).unwrap();
    let mut gone = one_more(lab, "h3", 3);
    gone.attach(lab.daemon("h3").unwrap(), "lab", &[]).unwrap();
    gone.detach(lab.daemon("h3").unwrap(), "lab").unwrap();
}

/// Waits until every host holds addresses ahead.
fn reserve(lab: &Fixture) {
    eventually("a full reserve on every host", HEALED, || {
        let all = lab.etcd.as_ref().unwrap().ctl(&["get", "--prefix", "--print-value-only", ""]).unwrap();
        let held = all.matches("\"kind\":\"reserved\"").count();
        seen(held == 24, held)
    });
}

/// Claims and endpoints in the store that no container has, and containers that they lack.
fn wrong_records(lab: &Fixture) -> usize {
    let addresses: BTreeSet<String> =
        lab.containers.iter().flat_map(|c| &c.addresses).map(ToString::to_string).collect();
    let records = records(lab.etcd.as_ref().unwrap());
    let claimed: BTreeSet<String> = records
        .iter()
        .filter(|key| key.contains("/addresses/"))
        .filter_map(|key| key.rsplit('/').next())
        .map(str::to_owned)
        .collect();
    let endpoints = records.iter().filter(|key| key.contains("/endpoints/")).count();
    addresses.symmetric_difference(&claimed).count() + endpoints.abs_diff(addresses.len())
}

#[test]
fn cut_off_from_the_store_and_then_from_everybody_a_host_goes_on_and_no_record_is_wrong() {
    if !only_on("ebpf") {
        return;
    }
    let Some(mut lab) = three_hosts("necut") else { return };
    reserve(&lab);
    let seconds = short_or_long(1, 120);
    let (without_store, met) = under_traffic(&mut lab, |lab, flows| {
        let start = Instant::now();
        Cut::Store.make(lab);
        connected(lab.daemon("h3").unwrap(), false);
        start_and_stop(lab);
        let h1 = lab.daemon("h1").unwrap();
        // Longer than its lease: the others do not take that for a reason to forget it.
        eventually("the end of its lease", HEALED + Duration::from_secs(seconds), || {
            let nodes = h1.json(&["node", "ls"]).unwrap();
            let dead = nodes.as_array().unwrap().iter().any(|n| n["name"] == "h3" && n["alive"] == false);
            seen(dead && start.elapsed() > Duration::from_secs(seconds), nodes)
        });
        for (from, to) in [("h1/c1", "h3/c1"), ("h3/c1", "h2/c1")] {
            ping(lab.container(from).unwrap(), &lab.container(to).unwrap().ip().unwrap()).unwrap();
        }
        let without_store = start.elapsed();
        Cut::heal(lab);
        Cut::Both.make(lab);
        // The others go on, with addresses that h3 does not hold.
        let mut near = one_more(lab, "h1", 2);
        near.attach(lab.daemon("h1").unwrap(), "lab", &[]).unwrap();
        *lab.containers.last_mut().unwrap() = near;
        lab.daemon("h1").unwrap().weft(&["network", "create", "meanwhile"]).unwrap();
        moved_on(flows, "the second cut");
        Cut::heal(lab);
        without_store
    });
    let healed = connected(lab.daemon("h3").unwrap(), true);
    let all = converged(&lab, 5);
    lab.daemon("h3").unwrap().weft(&["network", "inspect", "meanwhile"]).unwrap();
    let wrong = wrong_records(&lab);
    figures(
        "cut off from the store, then from everybody",
        &format!(
            "{} s without the store, two containers started and one stopped; the others: {met}; healed: connected after {} ms, \
             everybody reached everybody {} ms later, {wrong} records wrong",
            without_store.as_secs(),
            healed.as_millis(),
            all.as_millis()
        ),
    );
    assert_eq!((met.lost, wrong), (0, 0));
    let h1 = lab.daemon("h1").unwrap();
    eventually("its lease, and no garbage", HEALED, || {
        let leaks = h1.json(&["gc", "--dry-run"]).unwrap();
        seen(leaks.as_array().unwrap().is_empty(), leaks)
    });
}

#[test]
fn cut_off_from_its_peers_a_host_keeps_its_entries_and_is_reached_at_once_when_it_heals() {
    let Some(mut lab) = three_hosts("necutp") else { return };
    let path = datapath(lab.daemon("h1").unwrap());
    let before: Vec<_> = lab.daemons.iter().map(|d| kernel_picture(d, true)).collect();
    let (took, met) = under_traffic(&mut lab, |lab, flows| {
        Cut::Peers.make(lab);
        let far = lab.container("h3/c1").unwrap();
        assert!(ping(lab.container("h1/c1").unwrap(), &far.ip().unwrap()).is_err(), "the cut is one");
        moved_on(flows, "the cut");
        for daemon in &lab.daemons {
            connected(daemon, true);
        }
        Cut::heal(lab);
        converged(lab, 3)
    });
    figures(
        &format!("cut off from its peers, {path}"),
        &format!("the others: {met}; healed in {} ms", took.as_millis()),
    );
    assert_eq!(met.lost, 0);
    assert_eq!(lab.daemons.iter().map(|d| kernel_picture(d, true)).collect::<Vec<_>>(), before);
}
