//! While the store is away containers go on starting and stopping on every host, and nothing of it is lost or doubled when it
//! is back.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};
use weft_e2e::{
    Pair, address, eventually, fetch, lab, one_more, only_on, options_with_etcd, ping, reserve, seen,
    with_both_engines,
};
use weft_lab::{Container, Daemon, EngineVersion, Fixture, LabOptions, NGINX_PAGE, NetNs, figures};

/// Longer than a daemon waits before it looks for its store again.
const RETURN: Duration = Duration::from_secs(20);

fn connected(daemon: &Daemon, is: bool) {
    eventually("what the daemon says of its store", RETURN, || {
        let status = daemon.status().unwrap();
        let told = !status["problems"].to_string().contains("wait to be told");
        seen(status["store"]["connected"] == is && (told || !is), status)
    });
}

fn endpoints(daemon: &Daemon) -> Vec<Value> {
    daemon.json(&["endpoint", "ls"]).unwrap().as_array().unwrap().clone()
}

/// Addresses of all endpoints, each once.
fn addresses(daemon: &Daemon) -> BTreeSet<String> {
    let endpoints = endpoints(daemon);
    let addresses: BTreeSet<String> =
        endpoints.iter().map(|e| e["addresses"][0].as_str().unwrap().to_owned()).collect();
    assert_eq!(addresses.len(), endpoints.len(), "no address twice: {endpoints:?}");
    addresses
}

/// One more container on a host, in a namespace that goes with the lab.
fn start(lab: &mut Fixture, host: &str, number: usize) -> Container {
    let mut container = one_more(lab, host, number);
    NetNs::create(container.namespace.name()).unwrap();
    let network = "lab";
    container.attach(lab.daemon(host).unwrap(), network, &[]).unwrap();
    container
}

#[test]
fn namespaces_come_and_go_and_a_daemon_is_killed_while_the_store_is_away() {
    let Some(options) = options_with_etcd("gone") else { return };
    let daemon_arguments = vec!["--store-timeout".to_owned(), "2".to_owned()];
    let Some(mut lab) = lab(LabOptions { daemon_arguments, ..options }) else { return };
    eventually("a full reserve on both hosts", RETURN, || seen(reserve(&lab) == 16, reserve(&lab)));
    lab.kill_store().unwrap();
    for host in ["h1", "h2"] {
        connected(lab.daemon(host).unwrap(), false);
    }
    let near = start(&mut lab, "h1", 2);
    let far = start(&mut lab, "h2", 2);
    ping(&near, &lab.container("h1/c1").unwrap().ip().unwrap()).unwrap();
    // The other host does not know of the new one yet; the old ones reach each other.
    ping(lab.container("h1/c1").unwrap(), &lab.container("h2/c1").unwrap().ip().unwrap()).unwrap();

    let daemon = lab.daemon_mut("h1").unwrap();
    daemon.kill().unwrap();
    daemon.start().unwrap();
    connected(lab.daemon("h1").unwrap(), false);
    ping(&near, &lab.container("h1/c1").unwrap().ip().unwrap()).unwrap();
    let third = start(&mut lab, "h1", 3);
    let mut second =
        lab.containers.iter().find(|c| c.namespace.name() == near.namespace.name()).unwrap().clone();
    second.detach(lab.daemon("h1").unwrap(), "lab").unwrap();

    lab.start_store().unwrap();
    for host in ["h1", "h2"] {
        connected(lab.daemon(host).unwrap(), true);
    }
    eventually("both hosts to know the same", RETURN, || {
        let [one, two] = ["h1", "h2"].map(|host| addresses(lab.daemon(host).unwrap()));
        seen(one == two && one.len() == 4, (one, two))
    });
    for (from, to) in [(&third, &far), (&far, &third)] {
        ping(from, &to.ip().unwrap()).unwrap();
    }
    let refused = lab.daemon("h1").unwrap().status().unwrap()["problems"].to_string();
    assert!(!refused.contains("refused"), "{refused}");
}

with_both_engines!(containers_start_and_stop_while_the_store_is_away);

fn containers_start_and_stop_while_the_store_is_away(version: EngineVersion) {
    let Some(pair) = Pair::up_on_one_path("noetcd", version) else { return };
    the_store_goes_and_comes_back(pair, "etcd");
}

#[test]
fn containers_start_and_stop_while_consul_is_away() {
    // Once is enough: what weft does then does not depend on the data path.
    if !only_on("ebpf") {
        return;
    }
    let Some(pair) = Pair::up_on_consul("noconsul", EngineVersion::V26_1) else { return };
    the_store_goes_and_comes_back(pair, "Consul");
}

fn the_store_goes_and_comes_back(mut pair: Pair, store: &str) {
    pair.network("net", &["--subnet", "10.64.0.0/24"]);
    for (engine, name) in [(pair.a(), "web"), (pair.b(), "guest")] {
        let image = if name == "web" { &["nginx"][..] } else { &["box", "sleep", "3600"] };
        engine.docker(&[&["run", "-d", "--net=net", "--name", name], image].concat()).unwrap();
    }
    let url = format!("http://{}", address(pair.a(), "web", "net"));
    eventually("a reserve on both hosts", RETURN, || seen(reserve(&pair) == 16, reserve(&pair)));
    pair.kill_store().unwrap();
    for daemon in &pair.daemons {
        connected(daemon, false);
    }

    assert_eq!(fetch(pair.b(), "guest", &url).unwrap(), NGINX_PAGE.trim_end(), "traffic flows");
    for engine in [pair.a(), pair.b()] {
        for name in ["one", "two"] {
            engine.docker(&["run", "-d", "--net=net", "--name", name, "box", "sleep", "3600"]).unwrap();
        }
        engine.docker(&["rm", "-f", "one"]).unwrap();
        engine.docker(&["restart", "-t", "0", "two"]).unwrap();
    }
    assert_eq!(
        fetch(pair.a(), "two", &url).unwrap(),
        NGINX_PAGE.trim_end(),
        "with a new container on the same host"
    );

    pair.start_store().unwrap();
    for daemon in &pair.daemons {
        connected(daemon, true);
    }
    eventually("both hosts to know the same", RETURN, || {
        let [one, two] = [pair.weft_a(), pair.weft_b()].map(addresses);
        seen(one == two && one.len() == 4, (one, two))
    });
    assert_eq!(
        fetch(pair.b(), "two", &url).unwrap(),
        NGINX_PAGE.trim_end(),
        "and across hosts when it is back"
    );
    figures(
        &format!("{store} away while containers start and stop"),
        "4 started, 2 removed, 2 restarted meanwhile; 0 of 4 endpoints lost, 0 addresses twice",
    );
    for engine in [pair.a(), pair.b()] {
        engine.docker(&["rm", "-f", "two"]).unwrap();
    }
    pair.a().docker(&["rm", "-f", "web"]).unwrap();
    pair.b().docker(&["rm", "-f", "guest"]).unwrap();
    pair.a().docker(&["network", "rm", "net"]).unwrap();
    pair.assert_nothing_left();
}
