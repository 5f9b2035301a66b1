//! A network may have IPv6 and nothing else, whatever engine its containers are of.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use std::time::Duration;
use weft_e2e::{Pair, cni::Runtime, eventually, has_network, in_container, one_more, only_on, seen, weft};
use weft_lab::{EngineVersion, NetNs, Podman, PodmanVersion, Tools, cannot_run};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn podman_cni_and_plain_namespaces_meet_by_ipv6_alone_and_docker_says_that_it_cannot() {
    let tools = Tools::from_env();
    if let Err(missing) = tools.podman(PodmanVersion::V5_4).and_then(|_| tools.cni_plugins()) {
        return cannot_run("six", &missing);
    }
    let Some(mut pair) = Pair::up("six", EngineVersion::V26_1) else { return };
    pair.weft_a().weft(&["network", "create", "six", "--subnet", "fd09::/64"]).unwrap();

    let netavark = pair.dir().join("netavark");
    std::fs::create_dir(&netavark).unwrap();
    std::fs::copy(weft().with_file_name("weft-netavark"), netavark.join("weft")).unwrap();
    let socket = pair.daemons[0].socket();
    let podman = Podman::open(&tools, PodmanVersion::V5_4, &pair.hosts[0], &netavark, &socket).unwrap();
    podman.podman(&["network", "create", "-d", "weft", "six"]).unwrap();
    podman.start(&["--name", "pod", "--network", "six"], &["sleep", "600"]).unwrap();

    let runtime = Runtime::new(&pair, 1, "six", &json!({ "subnets": [] }), &[]);
    let sandbox = one_more(&mut pair, "h2", 1);
    let id = sandbox.namespace.name().to_owned();
    NetNs::create(&id).unwrap();
    let result = runtime.add(&id, &json!({ "aliases": ["cni"] })).unwrap();

    let plain = one_more(&mut pair, "h2", 2);
    let name = plain.namespace.name().to_owned();
    NetNs::create(&name).unwrap();
    let netns = plain.namespace.path().display().to_string();
    pair.weft_b().weft(&["attach", "six", "--netns", &netns, "--name", "plain"]).unwrap();

    // By name, both ways, and there is no other address.
    for to in ["cni", "plain"] {
        eventually(&format!("{to} for Podman's"), SOON, || {
            podman.exec("pod", &["ping", "-6", "-c", "1", "-W", "2", to]).map(drop).map_err(|e| e.to_string())
        });
    }
    let addresses = |name: &str| -> Vec<String> {
        let all = pair.weft_a().json(&["endpoint", "ls"]).unwrap();
        let names = |e: &serde_json::Value| {
            e["container"]["name"] == name || e["container"]["id"].as_str().unwrap().ends_with(name)
        };
        let found = all.as_array().unwrap().iter().find(|e| names(e)).unwrap()["addresses"].clone();
        let text = |a: &serde_json::Value| a.as_str().unwrap().split('/').next().unwrap().to_owned();
        found.as_array().unwrap().iter().map(text).collect()
    };
    let pod = addresses("pod");
    assert!(pod.len() == 1 && pod[0].starts_with("fd09::"), "{pod:?}");
    for (from, who) in [(&sandbox, "the CNI runtime's"), (&plain, "the namespace")] {
        eventually(&format!("Podman's for {who}"), SOON, || {
            let found = from.run(&["busybox", "nslookup", "pod", "127.0.0.11"]).map_err(|e| e.to_string())?;
            seen(found.contains(&pod[0]), found)
        });
        eventually(&format!("an answer for {who}"), SOON, || {
            from.run(&["ping", "-n", "-c", "1", "-W", "2", &pod[0]]).map(drop).map_err(|e| e.to_string())
        });
        let v4 = from.namespace.ip(&["-4", "addr", "show", "dev", "eth0"]).unwrap();
        assert!(!v4.contains("inet "), "{v4}");
    }

    // Engines before 28 make no network without IPv4: the operator reads why there is no copy.
    eventually("the reason", SOON, || {
        let problems = pair.weft_a().json(&["status"]).unwrap()["engines"].to_string();
        seen(problems.contains("six") && problems.contains("has no IPv4 subnet"), problems)
    });
    runtime.all("DEL", &id, &json!({}), Some(&result)).unwrap();
    pair.weft_b().weft(&["detach", "six", "--netns", &netns]).unwrap();
    podman.podman(&["rm", "--all", "--force", "--time", "0"]).unwrap();
    pair.weft_a().weft(&["network", "rm", "six"]).unwrap();
    pair.assert_nothing_left();
}

#[test]
fn docker_28_has_networks_of_ipv6_alone() {
    if !only_on("ebpf") {
        return;
    }
    let Some(pair) = Pair::up("sixdock", EngineVersion::V28_5) else { return };
    // One that weft made, and one of Docker's own.
    pair.weft_a().weft(&["network", "create", "six", "--subnet", "fd09::/64"]).unwrap();
    let own = ["network", "create", "-d", "weft", "--ipv6", "--ipv4=false", "--subnet", "fd0a::/64", "own"];
    pair.a().docker(&own).unwrap();
    for network in ["six", "own"] {
        for (engine, name) in [(pair.a(), "left"), (pair.b(), "right")] {
            eventually("the network", SOON, || has_network(engine, network));
            let net = format!("--net={network}");
            engine.docker(&["run", "-d", "--name", name, &net, "box", "sleep", "600"]).unwrap();
        }
        for (engine, from, to) in [(pair.a(), "left", "right"), (pair.b(), "right", "left")] {
            eventually(&format!("{to} on {network}"), SOON, || {
                let ping = ["/bin/ping", "-6", "-c", "1", "-W", "2", to];
                engine.exec(from, &ping).map(drop).map_err(|e| e.to_string())
            });
        }
        for (engine, name) in [(pair.a(), "left"), (pair.b(), "right")] {
            let addresses = in_container(engine, name, &["ip", "-4", "addr", "show", "dev", "eth0"]).unwrap();
            assert!(!addresses.contains("inet "), "{addresses}");
            engine.docker(&["rm", "-f", name]).unwrap();
        }
        pair.a().docker(&["network", "rm", network]).unwrap();
    }
    pair.assert_nothing_left();
}
