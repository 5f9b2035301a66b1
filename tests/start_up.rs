//! A container on weft's network starts about as fast as on its engine's own bridge network.
//!
//! `WEFT_LONG=1 cargo test --package weft-e2e --test start_up -- --nocapture --test-threads=1` measures what docs/engines.md has.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::json;
use std::{
    fs,
    time::{Duration, Instant},
};
use weft_e2e::{Pair, cni::Runtime, lab, one_more, only_on, options, weft};
use weft_lab::{
    EngineVersion, LabOptions, NetNs, Podman, PodmanVersion, Tools, cannot_run, figures, short_or_long,
};

/// What a start may take longer than on the engine's own network: far more than it does, for a machine that is busy.
const ALLOWANCE: Duration = Duration::from_secs(1);

/// The medians of `start(network)` on weft's network and on the engine's own, by turns.
fn compare(engine: &str, mut start: impl FnMut(bool)) {
    let rounds = short_or_long(3, 21);
    let (mut weft, mut own) = (Vec::new(), Vec::new());
    // The first start of all makes what the later ones find.
    for round in 0..=rounds {
        for (on_weft, times) in [(true, &mut weft), (false, &mut own)] {
            let begun = Instant::now();
            start(on_weft);
            if round > 0 {
                times.push(begun.elapsed());
            }
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (weft, own) = (median(&mut weft), median(&mut own));
    let ms = |time: Duration| time.as_millis();
    figures(
        &format!("start-up time, {engine}"),
        &format!("weft {} ms, its own bridge {} ms (medians of {rounds})", ms(weft), ms(own)),
    );
    assert!(weft < own + ALLOWANCE, "{engine}: {weft:?} on weft, {own:?} on its own network");
}

#[test]
fn docker_starts_containers_as_fast_as_on_its_bridge() {
    if !only_on("ebpf") {
        return;
    }
    let Some(pair) = Pair::up("fastd", EngineVersion::V26_1) else { return };
    let docker = pair.a();
    docker.docker(&["network", "create", "-d", "weft", "--subnet", "10.9.0.0/24", "blue"]).unwrap();
    docker.docker(&["network", "create", "own"]).unwrap();
    compare("docker run (26.1)", |on_weft| {
        let network = if on_weft { "blue" } else { "own" };
        docker.docker(&["run", "--rm", "--network", network, "box", "true"]).unwrap();
    });
}

#[test]
fn podman_starts_containers_as_fast_as_on_its_bridge() {
    if !only_on("ebpf") {
        return;
    }
    let tools = Tools::from_env();
    if let Err(missing) = tools.podman(PodmanVersion::V5_4) {
        return cannot_run("start-up of Podman", &missing);
    }
    let Some(lab) = lab(LabOptions { containers: 0, hosts: 1, ..options("fastp") }) else { return };
    let plugins = lab.dir().join("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::copy(weft().with_file_name("weft-netavark"), plugins.join("weft")).unwrap();
    let podman =
        Podman::open(&tools, PodmanVersion::V5_4, &lab.hosts[0], &plugins, &lab.daemons[0].socket()).unwrap();
    podman.podman(&["network", "create", "-d", "weft", "--subnet", "10.9.0.0/24", "blue"]).unwrap();
    podman.podman(&["network", "create", "--disable-dns", "own"]).unwrap();
    compare("podman run (5.4)", |on_weft| {
        let network = if on_weft { "blue" } else { "own" };
        podman.podman(&["run", "--rm", "--network", network, "--rootfs", "/weft/box", "true"]).unwrap();
    });
}

#[test]
fn a_cni_runtime_attaches_containers_as_fast_as_to_the_bridge_plugins_bridge() {
    if !only_on("ebpf") {
        return;
    }
    if let Err(missing) = Tools::from_env().cni_plugins() {
        return cannot_run("start-up with CNI", &missing);
    }
    let Some(mut lab) = lab(LabOptions { containers: 0, hosts: 1, ..options("fastc") }) else { return };
    let weft = Runtime::new(&lab, 0, "blue", &json!({}), &[]);
    let data = lab.dir().join("host-local");
    let own = Runtime::of(
        &lab,
        0,
        "own",
        &[json!({ "type": "bridge", "bridge": "own0", "isGateway": true, "ipMasq": true,
            "ipam": { "type": "host-local", "dataDir": data, "ranges": [[{ "subnet": "10.8.0.0/24" }]],
                "routes": [{ "dst": "0.0.0.0/0" }] } })],
    );
    let container = one_more(&mut lab, "h1", 1);
    let id = container.namespace.name().to_owned();
    NetNs::create(&id).unwrap();
    let nothing = json!({});
    compare("CNI ADD and DEL", |on_weft| {
        let runtime = if on_weft { &weft } else { &own };
        let result = runtime.add(&id, &nothing).unwrap();
        runtime.all("DEL", &id, &nothing, Some(&result)).unwrap();
    });
}
