//! Everything that containers send arrives as it was sent, while daemons die, endpoints come and go, and the hosts'
//! neighbours and routes change.
//!
//! `WEFT_SOAK_SECONDS` says how long (20); `WEFT_DATAPATH` says which data path the daemons use.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    env,
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};
use weft_e2e::{
    eventually, lab, options, ping, seen,
    traffic::{EndOf, Flow, Run, WINDOW, flows, moved_on, watch},
};
use weft_lab::{Container, Fixture, LabOptions, NetNs};

/// The part of all datagrams that may be lost, in percent.
const LOSS: f64 = 2.0;

/// What happens around the traffic, one after the other and then again from the start.
#[derive(Clone, Copy, Debug)]
enum Change {
    DaemonDies(&'static str),
    NeighboursWhileItIsDead(&'static str),
    ContainersComeAndGo,
    Neighbours,
    Routes,
}

impl Change {
    const ALL: [Self; 7] = [
        Self::DaemonDies("h1"),
        Self::ContainersComeAndGo,
        Self::Neighbours,
        Self::DaemonDies("h2"),
        Self::Routes,
        Self::NeighboursWhileItIsDead("h1"),
        Self::NeighboursWhileItIsDead("h2"),
    ];

    fn kind(self) -> &'static str {
        match self {
            Self::DaemonDies(_) | Self::NeighboursWhileItIsDead(_) => "restarts",
            Self::ContainersComeAndGo => "containers",
            Self::Neighbours => "neighbour changes",
            Self::Routes => "route changes",
        }
    }

    fn happen(self, lab: &mut Fixture, flows: &[Flow]) {
        match self {
            Self::DaemonDies(host) => {
                lab.daemon_mut(host).unwrap().kill().unwrap();
                moved_on(flows, "the end of a daemon");
                lab.daemon_mut(host).unwrap().start().unwrap();
            }
            Self::NeighboursWhileItIsDead(host) => {
                lab.daemon_mut(host).unwrap().kill().unwrap();
                neighbours(lab, flows);
                lab.daemon_mut(host).unwrap().start().unwrap();
            }
            Self::ContainersComeAndGo => containers_come_and_go(lab, flows),
            Self::Neighbours => neighbours(lab, flows),
            Self::Routes => routes(lab, flows),
        }
        lab.save().unwrap();
        moved_on(flows, &format!("{self:?}"));
        healthy(lab);
    }
}

/// A further container on each host, which meet; then they go.
fn containers_come_and_go(lab: &mut Fixture, flows: &[Flow]) {
    let hosts = lab.hosts.clone();
    for host in &hosts {
        // The lab takes it away when something fails here.
        lab.containers.push(Container::named(host, 3));
        let daemon = lab.daemon(&host.name).unwrap().clone();
        lab.containers.last_mut().unwrap().attach(&daemon, "lab", &[]).unwrap();
    }
    let (near, far) = (lab.container("h1/c3").unwrap(), lab.container("h2/c3").unwrap());
    for address in &far.addresses {
        eventually("the new containers to meet", WINDOW, || ping(near, &address.to_string()));
    }
    moved_on(flows, "new containers");
    for host in hosts.iter().rev() {
        let daemon = lab.daemon(&host.name).unwrap().clone();
        lab.containers.last_mut().unwrap().detach(&daemon, "lab").unwrap();
        lab.containers.last().unwrap().namespace.remove().unwrap();
        lab.containers.pop();
    }
}

/// The address of the other of two hosts, and the MAC address of its device.
fn peer(lab: &Fixture, number: usize) -> (String, String) {
    let peer = &lab.hosts[1 - number];
    let link = peer.namespace.ip_json(&["link", "show", "eth0"]).unwrap();
    (peer.address.to_string(), link[0]["address"].as_str().unwrap().to_owned())
}

/// Each host forgets its neighbours; is told the right one by hand; is told to doubt it; forgets again.
fn neighbours(lab: &Fixture, flows: &[Flow]) {
    let on_all = |step: &dyn Fn(&NetNs, (&str, &str))| {
        for (number, host) in lab.hosts.iter().enumerate() {
            let (address, mac) = peer(lab, number);
            step(&host.namespace, (&address, &mac));
        }
    };
    let tell = |state: &'static str| {
        move |ns: &NetNs, (address, mac): (&str, &str)| {
            ns.ip(&["neigh", "replace", address, "lladdr", mac, "dev", "eth0", "nud", state]).unwrap();
        }
    };
    let forget = |ns: &NetNs, _: (&str, &str)| {
        ns.ip(&["neigh", "flush", "dev", "eth0"]).unwrap();
    };
    on_all(&forget);
    moved_on(flows, "hosts forgot their neighbours");
    on_all(&tell("permanent"));
    moved_on(flows, "permanent neighbours");
    on_all(&tell("stale"));
    on_all(&forget);
}

/// Each host gets a route of its own to the other, over the same device, and loses it again.
fn routes(lab: &Fixture, flows: &[Flow]) {
    for verb in ["add", "del"] {
        for (number, host) in lab.hosts.iter().enumerate() {
            let (address, _) = peer(lab, number);
            host.namespace.ip(&["route", verb, &address, "dev", "eth0"]).unwrap();
        }
        moved_on(flows, &format!("route {verb}"));
    }
}

/// Waits until both daemons are alive and have nothing to complain about.
fn healthy(lab: &Fixture) {
    for daemon in &lab.daemons {
        assert!(daemon.is_alive(), "{}", daemon.log_tail());
        eventually("a status without problems", 2 * WINDOW, || {
            let status = daemon.status().map_err(|e| e.to_string())?;
            let good = status["problems"].as_array().is_some_and(Vec::is_empty)
                && status["store"]["connected"] == true;
            seen(good, status)
        });
    }
}

/// Checks what arrived, and says it.
fn judge(lab: &Fixture, run: &Run, flows: &[Flow], changes: &BTreeMap<&str, u32>) {
    let (streams, datagrams): (Vec<&Flow>, Vec<&Flow>) = flows.iter().partition(|f| f.is_stream());
    let sum = |flows: &[&Flow], of: &dyn Fn(&Flow) -> u64| flows.iter().map(|f| of(f)).sum::<u64>();
    let bytes = sum(&streams, &|f| f.arrived());
    let (sent, lost) = (sum(&datagrams, &|f| f.sent()), sum(&datagrams, &|f| f.lost()));
    #[allow(clippy::cast_precision_loss)]
    let percent = 100.0 * lost as f64 / sent.max(1) as f64;
    let statuses: Vec<_> = lab.daemons.iter().map(|d| d.status().unwrap()).collect();
    eprintln!(
        "mixed traffic over {}: {bytes} bytes in {} streams, {sent} datagrams, {lost} lost ({percent:.3} %), {changes:?}",
        statuses[0]["datapath"],
        streams.len(),
    );
    for flow in flows {
        eprintln!("  {}: {} arrived, {} lost", flow.what, flow.arrived(), flow.lost());
    }
    for status in &statuses {
        eprintln!("  drops on {}: {}", status["node"]["name"], status["drops"]);
    }
    run.assert_no_fault();
    assert!(percent < LOSS, "{percent:.3} % of the datagrams were lost");
    assert!(streams.iter().all(|f| f.arrived() > 0) && sent > 0);
}

#[test]
fn mixed_traffic_arrives_byte_for_byte_while_everything_around_it_changes() {
    let seconds = env::var("WEFT_SOAK_SECONDS").map_or(20, |text| text.parse().unwrap());
    let options = LabOptions {
        containers: 2,
        subnets: vec!["10.0.0.0/24".to_owned(), "fd00:10::/64".to_owned()],
        ..options("mixed")
    };
    let Some(mut lab) = lab(options) else { return };
    if let Ok(wanted) = env::var("WEFT_DATAPATH").map(|text| text.replace("auto", "")) {
        let status = lab.daemon("h1").unwrap().status().unwrap();
        assert!(status["datapath"].as_str().unwrap().starts_with(&wanted), "{status}");
    }
    let (flows, run) = (flows(&lab), Run::default());
    let (mut changes, (end, ended)) = (BTreeMap::new(), channel());
    thread::scope(|scope| {
        // Dropped in this order whatever happens: nobody judges a window in which the senders have stopped.
        let _end = EndOf(&run);
        let end = end;
        for flow in &flows {
            scope.spawn(|| flow.send(&run));
            scope.spawn(|| flow.receive(&run));
        }
        scope.spawn(|| {
            // The receiver is this thread's alone.
            let ended = ended;
            watch(&flows, &run, &ended);
        });
        let start = Instant::now();
        for change in Change::ALL.into_iter().cycle() {
            if start.elapsed() >= Duration::from_secs(seconds) || run.is_bad() {
                break;
            }
            change.happen(&mut lab, &flows);
            *changes.entry(change.kind()).or_insert(0) += 1;
        }
        drop(end);
    });
    healthy(&lab);
    judge(&lab, &run, &flows, &changes);
}
