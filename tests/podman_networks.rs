//! Podman's containers are on the cluster's networks: `podman network create -d weft`, `podman run --network`.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::{fs, path::PathBuf, time::Duration};
use weft_e2e::{devices, eventually, lab, options, seen, weft};
use weft_lab::{Daemon, Fixture, LabOptions, Podman, PodmanVersion, Tools, cannot_run};

/// A lab with a Podman on each host.
fn podmans(name: &str, version: PodmanVersion) -> Option<(Fixture, Vec<Podman>)> {
    let tools = Tools::from_env();
    if let Err(missing) = tools.podman(version) {
        cannot_run(name, &missing);
        return None;
    }
    let lab = lab(LabOptions { containers: 0, ..options(name) })?;
    let plugins = plugins(&lab);
    let open = |(host, daemon): (_, &Daemon)| {
        Podman::open(&tools, version, host, &plugins, &daemon.socket()).unwrap()
    };
    let podmans = lab.hosts.iter().zip(&lab.daemons).map(open).collect();
    Some((lab, podmans))
}

/// weft's plugins under the names that the engines look for.
fn plugins(lab: &Fixture) -> PathBuf {
    let folder = lab.dir().join("plugins");
    if fs::create_dir(&folder).is_ok() {
        fs::copy(weft().with_file_name("weft-netavark"), folder.join("weft")).unwrap();
        fs::copy(weft().with_file_name("weft-cni"), folder.join("weft-cni")).unwrap();
    }
    folder
}

const SERVE: [&str; 3] = ["sh", "-c", "while :; do echo hello | nc -l -p 80; done"];

fn hear(from: &weft_lab::NetNs, address: &str, port: &str) -> Result<(), String> {
    let said = from.run(&["busybox", "nc", "-w", "2", address, port]).map_err(|e| e.to_string())?;
    seen(said.trim() == "hello", said)
}

fn pings(podman: &Podman, container: &str, to: &str) -> Result<(), String> {
    podman.exec(container, &["ping", "-c", "1", "-W", "2", to]).map(drop).map_err(|e| e.to_string())
}

#[test]
fn a_network_made_on_one_host_is_joined_on_the_other() {
    let Some((lab, podmans)) = podmans("pod", PodmanVersion::V5_4) else { return };
    let (here, there) = (&podmans[0], &podmans[1]);
    let before = devices(&lab.hosts[0].namespace);
    here.podman(&[
        "network",
        "create",
        "-d",
        "weft",
        "--subnet",
        "10.9.0.0/24",
        "--subnet",
        "fd09::/64",
        "--ipv6",
        "blue",
    ])
    .unwrap();
    there.podman(&["network", "create", "-d", "weft", "blue"]).unwrap();
    let joined: Value =
        serde_json::from_str(&there.podman(&["network", "inspect", "blue"]).unwrap()).unwrap();
    assert_eq!(joined[0]["subnets"][0]["subnet"], "10.9.0.0/24");
    // Static addresses, an alias, a published port; on the other host whatever is free.
    let at = "blue:ip=10.9.0.77,mac=02:00:00:00:00:77,alias=also";
    here.start(&["--name", "web", "--network", at, "-p", "8080:80"], &SERVE).unwrap();
    there.start(&["--name", "client", "--network", "blue"], &["sleep", "600"]).unwrap();
    eventually("the other host's container", Duration::from_secs(5), || pings(there, "client", "10.9.0.77"));
    for name in ["web", "also"] {
        let found = there.exec("client", &["nslookup", name]).unwrap();
        assert!(found.contains("10.9.0.77"), "{found}");
    }
    let link = here.exec("web", &["ip", "link", "show", "eth0"]).unwrap();
    assert!(link.contains("02:00:00:00:00:77"), "{link}");
    let v6 = here.exec("web", &["ip", "-6", "-o", "addr", "show", "dev", "eth0"]).unwrap();
    assert!(v6.contains("inet6 fd09::2/64"), "{v6}");
    let host = lab.hosts[0].address.to_string();
    for from in [&lab.hosts[1].namespace, &lab.hosts[0].namespace] {
        eventually("the published port", Duration::from_secs(5), || hear(from, &host, "8080"));
    }
    pings(there, "client", &host).unwrap();
    // Two networks: the way out stays when the one that it came with goes; an internal one has none.
    here.podman(&["network", "create", "-d", "weft", "--subnet", "10.8.0.0/24", "green"]).unwrap();
    here.podman(&["network", "create", "-d", "weft", "--subnet", "10.7.0.0/24", "--internal", "inside"])
        .unwrap();
    for network in ["green", "inside"] {
        here.podman(&["network", "connect", network, "web"]).unwrap();
    }
    let outside = lab.hosts[1].address.to_string();
    for network in ["blue", "green"] {
        pings(here, "web", &outside).unwrap();
        eventually("the published port", Duration::from_secs(5), || {
            hear(&lab.hosts[1].namespace, &host, "8080")
        });
        here.podman(&["network", "disconnect", network, "web"]).unwrap();
    }
    assert!(pings(here, "web", &outside).is_err());
    // A port that is taken, and a daemon that is away, are told; nothing is left.
    here.start(&["--name", "first", "--network", "green", "-p", "9090:80"], &SERVE).unwrap();
    let refused = here.start(&["--name", "second", "--network", "green", "-p", "9090:80"], &SERVE);
    assert!(refused.is_err());
    here.podman(&["rm", "--all", "--force", "--time", "0"]).unwrap();
    there.podman(&["rm", "--all", "--force", "--time", "0"]).unwrap();
    assert_eq!(devices(&lab.hosts[0].namespace), before);
    let left = lab.daemons[0].weft(&["endpoint", "ls", "--format", "json"]).unwrap();
    assert_eq!(left.trim(), "[]");
}

#[test]
fn podman_with_cni_has_weft_as_any_other_plugin() {
    let Some((lab, podmans)) = podmans("podc", PodmanVersion::V4_3) else { return };
    let list = json!({ "cniVersion": "1.0.0", "name": "blue", "plugins": [{ "type": "weft-cni", "subnets": ["10.9.0.0/24"],
        "capabilities": { "portMappings": true, "ips": true, "mac": true, "aliases": true } }] });
    for podman in &podmans {
        podman.write("/weft/networks/blue.conflist", &list.to_string()).unwrap();
    }
    let (here, there) = (&podmans[0], &podmans[1]);
    here.start(
        &[
            "--name",
            "web",
            "--network",
            "blue",
            "--ip",
            "10.9.0.77",
            "--network-alias",
            "also",
            "-p",
            "8080:80",
        ],
        &SERVE,
    )
    .unwrap();
    there.start(&["--name", "client", "--network", "blue"], &["sleep", "600"]).unwrap();
    eventually("the other host's container", Duration::from_secs(5), || pings(there, "client", "10.9.0.77"));
    let found = there.exec("client", &["nslookup", "also"]).unwrap();
    assert!(found.contains("10.9.0.77"), "{found}");
    let host = lab.hosts[0].address.to_string();
    eventually("the published port", Duration::from_secs(5), || hear(&lab.hosts[1].namespace, &host, "8080"));
    here.podman(&["rm", "--force", "--time", "0", "web"]).unwrap();
    assert!(hear(&lab.hosts[1].namespace, &host, "8080").is_err());
}
