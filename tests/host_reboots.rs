//! A host reboots and its store is not there yet: its containers come up again with the addresses they had.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use weft_e2e::{Pair, address, eventually, fetch, only_on, reserve, seen, with_both_engines};
use weft_lab::{EngineVersion, NGINX_PAGE, figures, short_or_long};

with_both_engines!(containers_that_restart_have_their_addresses_without_the_store);

/// As long as an engine may take to start its containers again, and weft to find its store.
const COMES_UP: Duration = Duration::from_mins(1);

fn containers_that_restart_have_their_addresses_without_the_store(version: EngineVersion) {
    // In short on one version: Docker restores its containers in the same way.
    if !only_on("ebpf") || !short_or_long(version == EngineVersion::V20_10, true) {
        return;
    }
    let Some(mut pair) = Pair::up("doboot", version) else { return };
    pair.network("net", &["--subnet=10.74.0.0/24"]);
    // Docker gives an address back when it stops a container, and asks for any or for the one of --ip when it starts it.
    let names = ["web", "two", "any"];
    for (name, ip) in names.into_iter().zip([Some("10.74.0.50"), Some("10.74.0.251"), None]) {
        let ip: Vec<&str> = ip.iter().flat_map(|ip| ["--ip", ip]).collect();
        let run = ["run", "-d", "--restart=always", "--net=net", "--name", name];
        pair.b().docker(&[&run[..], &ip, &["nginx"]].concat()).unwrap();
    }
    pair.a().docker(&["run", "-d", "--net=net", "--name=guest", "box", "sleep", "3600"]).unwrap();
    let addresses = |pair: &Pair| {
        names.map(|name| (name, address(pair.b(), name, "net"))).into_iter().collect::<BTreeMap<_, _>>()
    };
    let before = addresses(&pair);
    eventually("the addresses held ahead", Duration::from_secs(20), || {
        let held = reserve(&pair);
        seen(held == 16, held)
    });

    // The power fails: everything that runs on the host goes at once, and what its kernel held. Its disk stays.
    pair.kill_store().unwrap();
    let overlay = pair.weft_b().overlay();
    pair.daemon_mut("h2").unwrap().kill().unwrap();
    pair.engine_mut("h2").unwrap().destroy().unwrap();
    pair.weft_b().remove_pins().unwrap();
    overlay.remove().unwrap();
    let gone = "umount /run/docker/netns/*; rm -rf /run/docker /run/docker.sock; nft flush ruleset; \
                for link in docker0 docker_gwbridge; do ip link del $link; done";
    pair.host("h2").unwrap().run(&["sh", "-e", "-c", gone]).unwrap();

    // weft is there first, as its unit asks for.
    pair.daemon_mut("h2").unwrap().start().unwrap();
    pair.engine_mut("h2").unwrap().start().unwrap();
    let told = pair.weft_b().status().unwrap();
    assert_eq!(told["store"]["connected"], false, "{told}");
    let took = eventually("its containers", COMES_UP, || {
        let running = pair.b().docker(&["ps", "-q"]).map_err(|e| e.to_string())?;
        seen(running.lines().count() == names.len(), running)
    });
    let meanwhile = addresses(&pair);
    assert!(meanwhile.values().all(|ip| ip.starts_with("10.74.0.")), "{meanwhile:?}");

    pair.start_store().unwrap();
    for name in names {
        let url = format!("http://{}", meanwhile[name]);
        eventually("traffic from the other host", COMES_UP, || {
            let page = fetch(pair.a(), "guest", &url)?;
            seen(page == NGINX_PAGE.trim_end(), page)
        });
    }
    eventually("endpoints that are the containers'", COMES_UP, || {
        let endpoints = pair.endpoints_of("h2");
        seen(endpoints.len() == names.len(), endpoints)
    });
    let changed = ["web", "two"].iter().filter(|name| before[*name] != meanwhile[*name]).count();
    assert_eq!(meanwhile.values().collect::<BTreeSet<_>>().len(), names.len(), "{meanwhile:?}");
    figures(
        &format!("host rebooted without its store, Docker {version}"),
        &format!(
            "{} containers up again after {} ms, {changed} of those with --ip at another address, 0 addresses twice",
            names.len(),
            took.as_millis()
        ),
    );
    assert_eq!(changed, 0, "{before:?} became {meanwhile:?}");
}
