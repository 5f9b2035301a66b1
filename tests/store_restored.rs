//! etcd comes back with less history than it had, or as it was some time ago: nothing that containers use is lost or
//! numbered anew, and what was made since the backup is told.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeMap, time::Duration};
use weft_e2e::{Pair, address, eventually, fetch, has_network, only_on, reserve, seen};
use weft_lab::{Daemon, Engine, EngineVersion, NGINX_PAGE, figures};

/// Longer than a daemon waits before it looks for its store again.
const RETURN: Duration = Duration::from_secs(30);

fn run(engine: &Engine, name: &str, network: &str, image: &[&str]) {
    let net = format!("--net={network}");
    engine.docker(&[&["run", "-d", &net, "--name", name, "--stop-signal=KILL"], image].concat()).unwrap();
}

/// Containers' addresses as a daemon knows them.
fn addresses(daemon: &Daemon) -> BTreeMap<String, String> {
    let endpoints = daemon.json(&["endpoint", "ls"]).unwrap();
    let told = endpoints.as_array().unwrap().iter().map(|e| {
        let name = e["container"]["name"].as_str().unwrap_or_default().to_owned();
        (name, e["addresses"][0].as_str().unwrap().to_owned())
    });
    told.collect()
}

fn connected(daemon: &Daemon) {
    eventually("the store to be back", RETURN, || {
        let status = daemon.status().unwrap();
        seen(status["store"]["connected"] == true, &status["store"])
    });
}

fn page(from: &Engine, name: &str, url: &str) {
    eventually("a page from the other host", RETURN, || {
        let page = fetch(from, name, url)?;
        seen(page == NGINX_PAGE.trim_end(), page)
    });
}

/// A pair with a web server on A and a guest on B, and the server's address.
fn pair(name: &str) -> Option<(Pair, String)> {
    let pair = Pair::up(name, EngineVersion::V26_1)?;
    pair.network("net", &["--subnet=10.76.0.0/24"]);
    run(pair.a(), "web", "net", &["nginx"]);
    for (engine, name) in [(pair.a(), "near"), (pair.b(), "guest")] {
        run(engine, name, "net", &["box", "sleep", "3600"]);
    }
    eventually("a reserve on both hosts", RETURN, || seen(reserve(&pair) == 16, reserve(&pair)));
    let url = format!("http://{}", address(pair.a(), "web", "net"));
    Some((pair, url))
}

#[test]
fn etcd_that_has_forgotten_its_history_is_listed_anew() {
    if !only_on("ebpf") {
        return;
    }
    let Some((pair, url)) = pair("docompact") else { return };
    let etcd = pair.etcd.as_ref().unwrap();
    let h2 = pair.host("h2").unwrap();
    // B alone is cut off, while A goes on and the history that B would need is thrown away.
    let drop_store = |do_it: &str| format!("iptables -{do_it} OUTPUT -p tcp --dport 2379 -j DROP");
    h2.run(&["sh", "-c", &drop_store("I")]).unwrap();
    eventually("B to see that it is cut off", RETURN, || {
        let status = pair.weft_b().status().unwrap();
        seen(status["store"]["connected"] == false, &status["store"])
    });
    pair.a().docker(&["network", "create", "--driver=weft", "--subnet=10.77.9.0/24", "new"]).unwrap();
    run(pair.a(), "second", "net", &["nginx"]);
    run(pair.b(), "meanwhile", "net", &["box", "sleep", "3600"]);
    let revision = etcd.ctl(&["get", "weft", "-w", "json"]).unwrap();
    let revision: serde_json::Value = serde_json::from_str(&revision).unwrap();
    etcd.ctl(&["compact", &revision["header"]["revision"].to_string()]).unwrap();
    page(pair.b(), "guest", &url);
    h2.run(&["sh", "-c", &drop_store("D")]).unwrap();
    connected(pair.weft_b());
    let took = eventually("both hosts to know the same", RETURN, || {
        let [a, b] = [pair.weft_a(), pair.weft_b()].map(addresses);
        seen(a == b && a.len() == 5, (a, b))
    });
    eventually("the network that was made meanwhile", RETURN, || has_network(pair.b(), "new"));
    page(pair.b(), "meanwhile", &format!("http://{}", address(pair.a(), "second", "net")));
    figures(
        "store back with compacted history",
        &format!(
            "1 network and 2 containers made meanwhile are known on both hosts {} ms after",
            took.as_millis()
        ),
    );
}

#[test]
fn etcd_restored_from_a_backup_takes_nothing_from_containers_that_run() {
    if !only_on("ebpf") {
        return;
    }
    let Some((mut pair, url)) = pair("dorestore") else { return };
    let backup = pair.dir().join("backup.db");
    pair.etcd.as_ref().unwrap().ctl(&["snapshot", "save", &backup.display().to_string()]).unwrap();
    // What the backup does not know of.
    run(pair.b(), "late", "net", &["nginx"]);
    let late = format!("http://{}", address(pair.b(), "late", "net"));
    page(pair.a(), "near", &late);
    let before = addresses(pair.weft_a());
    assert_eq!(before.len(), 4, "{before:?}");

    let etcd = pair.etcd.as_mut().unwrap();
    etcd.kill().unwrap();
    etcd.restore(&backup).unwrap();
    for daemon in &pair.daemons {
        connected(daemon);
    }
    page(pair.b(), "guest", &url);
    // A container that runs keeps its address, in the record as well, and nobody else is given it.
    eventually("the endpoint that the backup lacks", RETURN, || {
        let [a, b] = [pair.weft_a(), pair.weft_b()].map(addresses);
        seen(a == before && b == before, (a, b))
    });
    page(pair.a(), "near", &late);
    run(pair.a(), "next", "net", &["nginx"]);
    run(pair.b(), "another", "net", &["nginx"]);
    let after = addresses(pair.weft_a());
    let distinct: std::collections::BTreeSet<_> = after.values().collect();
    assert_eq!((after.len(), distinct.len()), (6, 6), "{after:?}");
    figures(
        "etcd restored from an older backup",
        "1 container newer than the backup: its endpoint and address recorded again, 0 of 4 renumbered, 0 addresses twice",
    );
}
