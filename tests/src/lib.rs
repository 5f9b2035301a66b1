//! What the end-to-end tests share: labs with the `weft` that was built, and looks at what the kernel holds.
//!
//! Every test is a sentence a user would say, in a file named after the promise it belongs to. Labs are gone at
//! a test's end; when a test fails its evidence is kept (see [`weft_lab::Fixture`]).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]

pub mod cni;
mod engines;
pub mod fast_path;
pub mod gate;
pub mod traffic;
mod under_traffic;

pub use engines::{Pair, address, fetch, field, has_network, has_no_network, in_container};
pub use under_traffic::{Met, under_traffic, under_traffic_between};

use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};
use weft_lab::{
    Container, Daemon, Etcd, Fixture, Lab, LabOptions, LabStore, NetNs, Tools, cannot_run, until,
};

/// The `weft` that the tests run: `$WEFT_BIN`, or the debug build beside the tests.
pub fn weft() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/weft");
    let path = std::env::var_os("WEFT_BIN").map_or_else(built, PathBuf::from);
    path.canonicalize().unwrap_or_else(|e| {
        panic!("{}: {e}; `cargo build -p weft` makes it, WEFT_BIN names another", path.display())
    })
}

/// Brings a lab up, or says why the test cannot run.
pub fn lab(options: LabOptions) -> Option<Fixture> {
    if !nix::unistd::geteuid().is_root() {
        cannot_run(&options.name, &"it makes network namespaces and must run as root");
        return None;
    }
    Some(Fixture::up(options).unwrap_or_else(|e| panic!("the lab did not come up: {e}")))
}

/// A lab of this name as most tests want it: two hosts, a container on each, the embedded store.
pub fn options(name: &str) -> LabOptions {
    LabOptions::new(name, weft())
}

/// The same on a real etcd, or `None` where there is none.
pub fn options_with_etcd(name: &str) -> Option<LabOptions> {
    let tools = Tools::from_env();
    if let Err(missing) = tools.etcd().and_then(|_| tools.etcdctl()) {
        cannot_run(name, &missing);
        return None;
    }
    Some(LabOptions { store: LabStore::Etcd(tools), ..options(name) })
}

/// The same on a real Consul, or `None` where there is none.
pub fn options_with_consul(name: &str) -> Option<LabOptions> {
    let tools = Tools::from_env();
    if let Err(missing) = tools.consul() {
        cannot_run(name, &missing);
        return None;
    }
    Some(LabOptions { store: LabStore::Consul(tools), ..options(name) })
}

/// Whether a test whose result does not depend on the data path runs now: the suite is run once with each, and once is
/// enough for it.
pub fn only_on(datapath: &str) -> bool {
    std::env::var("WEFT_DATAPATH").map_or(true, |chosen| chosen.is_empty() || chosen == datapath)
}

/// The data path of this run, for a line of figures.
pub fn datapath(daemon: &Daemon) -> String {
    let told = daemon.status().unwrap()["datapath"].as_str().unwrap().to_owned();
    told.split(' ').next().unwrap_or_default().to_owned()
}

/// One more container on a host of the lab, whose namespace the lab takes down with its own. It is on no network yet.
pub fn one_more(lab: &mut Fixture, host: &str, number: usize) -> Container {
    let container = Container::named(lab.host(host).unwrap(), number);
    lab.containers.push(container.clone());
    container
}

/// Pings once; `Ok` when an answer came.
pub fn ping(from: &Container, to: &str) -> Result<(), String> {
    from.run(&["ping", "-n", "-c", "1", "-W", "2", to]).map(drop).map_err(|e| e.to_string())
}

/// Pings once with `size` bytes of payload and DF set.
pub fn ping_df(namespace: &NetNs, to: &str, size: u32) -> Result<(), String> {
    let size = size.to_string();
    let argv = ["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", &size, to];
    namespace.run(&argv).map(drop).map_err(|e| e.to_string())
}

/// Everything that a daemon has made in its overlay namespace: devices, FDB and neighbours, with what changes by
/// itself (timers, counters) left out. With `identities` the interfaces' numbers are in it as well.
pub fn kernel_picture(daemon: &Daemon, identities: bool) -> Value {
    let overlay = daemon.overlay();
    let link = overlay.ip_json(&["-d", "link", "show"]).unwrap();
    let mut fdb = overlay.bridge_json(&["fdb", "show"]).unwrap();
    if !identities {
        // The bridge has an entry for the address of each of its ports; that of a veth device is random.
        let veth = |l: &&Value| l["linkinfo"]["info_kind"] == "veth";
        let random: Vec<&Value> =
            link.as_array().unwrap().iter().filter(veth).map(|l| &l["address"]).collect();
        fdb.as_array_mut().unwrap().retain(|entry| !random.contains(&&entry["mac"]));
    }
    let neighbours = overlay.ip_json(&["neigh", "show"]).unwrap();
    let mut picture = serde_json::json!({ "link": link, "fdb": fdb, "neighbours": neighbours });
    settle(&mut picture, identities);
    picture
}

/// Sorts every list and drops what changes by itself; without `identities` also what a device that was made anew has
/// another of: interface numbers, a port's number, a veth device's address.
fn settle(value: &mut Value, identities: bool) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !key.contains("timer"));
            if !identities {
                if map.get("linkinfo").is_some_and(|info| info["info_kind"] == "veth") {
                    map.remove("address");
                }
                if let Some(Value::Object(port)) = map.get_mut("info_slave_data") {
                    port.retain(|key, _| !["id", "no", "designated_port"].contains(&key.as_str()));
                }
                map.retain(|key, _| !["ifindex", "link_index", "link_netnsid"].contains(&key.as_str()));
            }
            for value in map.values_mut() {
                settle(value, identities);
            }
        }
        Value::Array(list) => {
            for value in list.iter_mut() {
                settle(value, identities);
            }
            list.sort_by_key(Value::to_string);
        }
        _ => {}
    }
}

/// The keys of all records in etcd, without the addresses that hosts hold ahead and what they tell of multicast groups: those
/// come and go by themselves.
pub fn records(etcd: &Etcd) -> BTreeSet<String> {
    let all = etcd.ctl(&["get", "--prefix", ""]).unwrap();
    let lines: Vec<&str> = all.lines().collect();
    let by_itself =
        |record: &&[&str]| record[1].contains("\"kind\":\"reserved\"") || record[0].contains("/groups/");
    let records = lines.chunks_exact(2).filter(|record| !by_itself(record));
    records.map(|record| record[0].to_owned()).collect()
}

/// The names of all devices in a namespace, sorted.
pub fn devices(namespace: &NetNs) -> Vec<String> {
    let links = namespace.ip_json(&["link", "show"]).unwrap();
    let names = links.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap().to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// How many addresses all hosts hold ahead, as the store has them.
pub fn reserve(lab: &Lab) -> usize {
    let records = lab.records().unwrap();
    records.iter().filter(|(_, value)| value.contains("\"kind\":\"reserved\"")).count()
}

/// weft's devices in a namespace that belong to a network or an endpoint. (The fast path's trunk belongs to the host.)
pub fn weft_devices(namespace: &NetNs) -> Vec<String> {
    if !namespace.exists() {
        return Vec::new();
    }
    let ours = |name: &String| name.starts_with("weft") && name != "weft-trunk";
    devices(namespace).into_iter().filter(ours).collect()
}

/// How often drift was repaired, of all kinds, as `weft status` tells.
pub fn drift_repaired(daemon: &Daemon) -> u64 {
    let status = daemon.status().unwrap();
    status["drift_repaired"].as_object().unwrap().values().filter_map(Value::as_u64).sum()
}

/// Waits until a condition holds and returns how long that took; fails the test when it does not.
#[track_caller]
pub fn eventually(what: &str, within: Duration, look: impl FnMut() -> Result<(), String>) -> Duration {
    match until(what, within, look) {
        Ok(((), took)) => took,
        Err(error) => panic!("{error}"),
    }
}

/// `Ok` if `condition`, else what was seen.
pub fn seen(condition: bool, what: impl std::fmt::Debug) -> Result<(), String> {
    if condition { Ok(()) } else { Err(format!("{what:?}")) }
}

/// What a command that must fail said on standard error; checks its exit code.
#[track_caller]
pub fn refusal(output: &Output, exit_code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit_code), "{said}{}", String::from_utf8_lossy(&output.stdout));
    said
}

/// Runs `weft ARGUMENTS` without a daemon.
pub fn weft_output(arguments: &[&str]) -> Output {
    Command::new(weft()).args(arguments).output().unwrap()
}

/// POSTs JSON to a unix socket, as Docker does with plugins, and returns the answer.
pub fn post(socket: &Path, path: &str, body: &Value) -> Value {
    let (_, answer) = request(socket, "POST", path, body).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{path}: {e}: {answer}"))
}

/// Asks a server on a unix socket, with no body if that is null: the status and the body of its answer. An error when there
/// is none, or half of one.
pub fn request(socket: &Path, method: &str, path: &str, body: &Value) -> io::Result<(u16, String)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: plugin\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parsed.ok_or_else(|| io::Error::other(format!("no answer: {answer:?}")))
}

/// Everything on the machine that carries a lab's name: namespaces, folders, cgroups, processes.
pub fn traces(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for dir in ["/run/netns", LabOptions::DEFAULT_DIR, "/sys/fs/cgroup", "/sys/fs/cgroup/pids"] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(name) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
        if command.contains(&format!("{}/{name}/", LabOptions::DEFAULT_DIR)) {
            found.push(command);
        }
    }
    found
}
