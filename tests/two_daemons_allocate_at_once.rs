//! However many daemons allocate at once, no address has two owners.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use weft_e2e::{eventually, lab, only_on, options_with_etcd, post, seen};
use weft_lab::{Fixture, LabOptions};

const ADDRESSES: usize = 2_000;
/// Callers at once on each daemon.
const CALLERS: usize = 4;

/// Lets every daemon serve Docker's protocol, with no engine beside it, and returns the sockets.
fn serve_docker_protocol(lab: &mut Fixture) -> Vec<PathBuf> {
    let mut sockets = Vec::new();
    for daemon in &mut lab.daemons {
        let dir = daemon.state_dir().parent().unwrap().to_owned();
        let socket = dir.join("plugin.sock");
        daemon.stop().unwrap();
        daemon.options.docker_socket = Some(dir.join("no-docker.sock"));
        daemon.options.arguments = vec!["--docker-plugin-socket".to_owned(), socket.display().to_string()];
        daemon.start().unwrap();
        sockets.push(socket);
    }
    lab.save().unwrap();
    for socket in &sockets {
        eventually("the plugin's socket", Duration::from_secs(10), || seen(socket.exists(), socket));
    }
    sockets
}

fn request_addresses(socket: &Path, pool: &str, count: usize) -> Vec<String> {
    let call = json!({ "PoolID": pool, "Address": "", "Options": {} });
    (0..count)
        .map(|_| {
            let answer = post(socket, "/IpamDriver.RequestAddress", &call);
            match answer.get("Address").and_then(Value::as_str) {
                Some(address) if !address.is_empty() => address.to_owned(),
                _ => panic!("{answer}"),
            }
        })
        .collect()
}

#[test]
fn two_thousand_addresses_through_two_daemons_and_etcd_have_two_thousand_owners() {
    if !only_on("ebpf") {
        return;
    }
    let Some(options) = options_with_etcd("ipam") else { return };
    let Some(mut lab) = lab(LabOptions { containers: 0, ..options }) else { return };
    let sockets = serve_docker_protocol(&mut lab);
    let h1 = lab.daemon("h1").unwrap();
    h1.weft(&["network", "create", "--subnet", "10.60.0.0/20", "wide"]).unwrap();
    let network = h1.json(&["network", "inspect", "wide"]).unwrap();
    let id = network.pointer("/id").or_else(|| network.pointer("/0/id")).and_then(Value::as_str).unwrap();
    let pool = format!("{id}/10.60.0.0/20");
    let h2 = lab.daemon("h2").unwrap();
    eventually("the network on the other host", Duration::from_secs(2), || {
        h2.weft(&["network", "inspect", "wide"]).map(drop).map_err(|e| e.to_string())
    });

    let start = Instant::now();
    let each = ADDRESSES / (sockets.len() * CALLERS);
    let callers: Vec<_> = sockets
        .iter()
        .flat_map(|socket| vec![socket.clone(); CALLERS])
        .map(|socket| {
            let pool = pool.clone();
            thread::spawn(move || request_addresses(&socket, &pool, each))
        })
        .collect();
    let given: Vec<String> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
    eprintln!("{ADDRESSES} addresses in {} ms", start.elapsed().as_millis());

    assert_eq!(given.len(), ADDRESSES);
    let distinct: BTreeSet<&String> = given.iter().collect();
    assert_eq!(distinct.len(), ADDRESSES, "an address was given twice");
    assert!(!distinct.iter().any(|a| *a == "10.60.0.1/20" || *a == "10.60.0.0/20"), "the gateway was given");
    let records = lab.etcd.as_ref().unwrap().keys("").unwrap();
    let claims = records.iter().filter(|key| key.contains("/addresses/")).count();
    assert_eq!(claims, ADDRESSES, "each address has a record");

    // Given back, each exactly once.
    for (number, address) in given.iter().enumerate() {
        // By the daemon that gave it: the first half came from the first one.
        let socket = &sockets[number * sockets.len() / ADDRESSES];
        let ip = address.split('/').next().unwrap();
        let answer = post(socket, "/IpamDriver.ReleaseAddress", &json!({ "PoolID": pool, "Address": ip }));
        assert!(answer["Error"].as_str().unwrap_or_default().is_empty(), "{answer}");
    }
    let records = lab.etcd.as_ref().unwrap().keys("").unwrap();
    assert_eq!(records.iter().filter(|key| key.contains("/addresses/")).count(), 0);
}
