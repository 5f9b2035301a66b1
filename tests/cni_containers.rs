//! Containers of CNI's runtimes are on the cluster's networks, reach out, publish ports, and leave nothing.
//!
//! A runner plays the runtime by the specification, plugin after plugin; containerd is the real one.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::{path::Path, time::Duration};
use weft_e2e::{
    Pair, address,
    cni::{Runtime, plugins},
    devices, eventually, lab, one_more, only_on, options, ping, seen,
};
use weft_lab::{Container, Containerd, Daemon, EngineVersion, Fixture, LabOptions, Tools, cannot_run};

fn cni_lab(name: &str) -> Option<Fixture> {
    if let Err(missing) = Tools::from_env().cni_plugins() {
        cannot_run(name, &missing);
        return None;
    }
    lab(LabOptions { containers: 0, ..options(name) })
}

/// A namespace for a container, and its name, which is the container's id as well.
fn sandbox(lab: &mut Fixture, host: &str, number: usize) -> (Container, String) {
    let container = one_more(lab, host, number);
    let name = container.namespace.name().to_owned();
    weft_lab::NetNs::create(&name).unwrap();
    (container, name)
}

/// Serves one line on a port of a namespace, for as long as the lab is there.
fn serve(container: &Container, port: &str) {
    let script = format!("while :; do echo hello | nc -l -p {port} >/dev/null; done");
    let mut command = container.namespace.command("busybox");
    let log = Path::new("/dev/null");
    weft_lab::Process::spawn("nc", command.args(["sh", "-c", &script]), log).unwrap();
}

fn hear(from: &weft_lab::NetNs, address: &str, port: &str) -> Result<(), String> {
    let said = from.run(&["busybox", "nc", "-w", "2", address, port]).map_err(|e| e.to_string())?;
    seen(said.trim() == "hello", said)
}

fn endpoints(daemon: &Daemon) -> Vec<Value> {
    serde_json::from_str(&daemon.weft(&["endpoint", "ls", "--format", "json"]).unwrap()).unwrap()
}

#[test]
fn containers_of_two_hosts_meet_reach_out_and_leave_nothing() {
    let Some(mut lab) = cni_lab("cni") else { return };
    let on = |lab: &Fixture, n| Runtime::new(lab, n, "blue", &json!({}), &[]);
    let (here, there) = (on(&lab, 0), on(&lab, 1));
    let ((a, id_a), (b, id_b)) = (sandbox(&mut lab, "h1", 1), sandbox(&mut lab, "h2", 1));
    let before = devices(&lab.hosts[0].namespace);
    let asked = json!({ "ips": ["10.9.0.77/24"], "mac": "02:00:00:00:00:77", "aliases": ["also"] });
    let result = here.add(&id_a, &asked).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.9.0.77/24");
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:77");
    assert_eq!(result["dns"]["nameservers"], json!(["127.0.0.11"]));
    there.add(&id_b, &json!({})).unwrap();
    // One network, made by whoever came first; a name of the other host's; the world outside.
    eventually("the other host's container", Duration::from_secs(5), || ping(&b, "10.9.0.77"));
    let found = b.run(&["busybox", "nslookup", "also", "127.0.0.11"]).unwrap();
    assert!(found.contains("10.9.0.77"), "{found}");
    ping(&a, &lab.hosts[1].address.to_string()).unwrap();
    // Once more is refused, and changes nothing; CHECK finds what is there and misses what is not.
    assert_eq!(here.add(&id_a, &json!({})).unwrap_err()["code"], 104);
    here.all("CHECK", &id_a, &asked, Some(&result)).unwrap();
    a.namespace.ip(&["addr", "del", "10.9.0.77/24", "dev", "eth0"]).unwrap();
    let error = here.all("CHECK", &id_a, &asked, Some(&result)).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("has lost its address 10.9.0.77/24"), "{error}");
    assert_eq!(here.all("CHECK", "nobody", &asked, Some(&result)).unwrap_err()["code"], 3);
    // DEL when the namespace is gone already, and again.
    a.namespace.remove().unwrap();
    for _ in 0..2 {
        here.all("DEL", &id_a, &json!({}), Some(&result)).unwrap();
    }
    assert_eq!(devices(&lab.hosts[0].namespace), before);
    let left = endpoints(&lab.daemons[0]);
    assert_eq!(left.len(), 1, "{left:?}");
    // GC removes what the runtime does not know any more; STATUS tells that the daemon is there.
    let mut modern = on(&lab, 1);
    modern.version = "1.1.0";
    modern.list[0]["cni.dev/valid-attachments"] = json!([]);
    modern.all("STATUS", "", &json!({}), None).unwrap();
    modern.all("GC", "", &json!({}), None).unwrap();
    assert_eq!(endpoints(&lab.daemons[1]), Vec::<Value>::new());
    let daemon = &mut lab.daemons[1];
    daemon.stop().unwrap();
    assert_eq!(modern.all("STATUS", "", &json!({}), None).unwrap_err()["code"], 50);
    assert_eq!(modern.add(&id_b, &json!({})).unwrap_err()["code"], 11);
}

#[test]
fn ports_are_published_by_portmap_or_by_weft_and_an_internal_network_has_no_way_out() {
    let Some(mut lab) = cni_lab("cnip") else { return };
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    let ways = [
        (
            Runtime::new(
                &lab,
                0,
                "mapped",
                &json!({ "portmap": true, "subnets": ["10.8.0.0/24"] }),
                &[portmap],
            ),
            "8081",
        ),
        (Runtime::new(&lab, 0, "own", &json!({ "capabilities": { "portMappings": true } }), &[]), "8082"),
    ];
    for (number, (runtime, port)) in (1..).zip(&ways) {
        let (container, id) = sandbox(&mut lab, "h1", number);
        let asked = json!({ "portMappings": [{ "hostPort": port.parse::<u16>().unwrap(), "containerPort": 80, "protocol": "tcp" }] });
        let result = runtime.add(&id, &asked).unwrap();
        serve(&container, "80");
        let host = lab.hosts[0].address.to_string();
        for from in [&lab.hosts[1].namespace, &lab.hosts[0].namespace] {
            eventually(&format!("port {port}"), Duration::from_secs(5), || hear(from, &host, port));
        }
        eventually("the loopback address", Duration::from_secs(5), || {
            hear(&lab.hosts[0].namespace, "127.0.0.1", port)
        });
        runtime.all("DEL", &id, &asked, Some(&result)).unwrap();
        assert!(hear(&lab.hosts[1].namespace, &host, port).is_err());
    }
    let inside =
        Runtime::new(&lab, 0, "inside", &json!({ "internal": true, "subnets": ["10.7.0.0/24"] }), &[]);
    let (container, id) = sandbox(&mut lab, "h1", 9);
    let result = inside.add(&id, &json!({})).unwrap();
    assert_eq!(result["routes"], Value::Null);
    assert!(ping(&container, &lab.hosts[1].address.to_string()).is_err());
    inside.all("DEL", &id, &json!({}), Some(&result)).unwrap();
}

#[test]
fn containerd_starts_containers_that_meet_across_hosts() {
    if !only_on("ebpf") {
        return;
    }
    let Some(lab) = cni_lab("ctrd") else { return };
    let tools = Tools::from_env();
    let engines: Vec<Containerd> = (0..2)
        .map(|n| {
            let list = json!({ "cniVersion": "1.0.0", "name": "blue", "plugins": [
                { "type": "weft-cni", "socket": lab.daemons[n].socket(), "subnets": ["10.9.0.0/24", "fd09::/64"] },
            ] });
            Containerd::start(&tools, &lab.hosts[n], &[&plugins(&lab.hosts[n].dir)], &list.to_string())
                .unwrap()
        })
        .collect();
    let a = engines[0].run("a", &["/bin/sleep", "60"]).unwrap();
    let _b = engines[1].run("b", &["/bin/sleep", "60"]).unwrap();
    eventually("two endpoints", Duration::from_secs(20), || {
        let all = endpoints(&lab.daemons[0]);
        seen(all.len() == 2, a.log_tail(5))
    });
    let all = endpoints(&lab.daemons[0]);
    let found = all.iter().find(|e| e["container"]["name"].as_str().unwrap().ends_with('b')).unwrap();
    let address = |n: usize| found["addresses"][n].as_str().unwrap().split('/').next().unwrap().to_owned();
    let outside = lab.hosts[1].address.to_string();
    for to in [&address(0), &address(1), &outside] {
        eventually(&format!("an answer of {to}"), Duration::from_secs(10), || {
            engines[0]
                .exec("a", &["/bin/ping", "-c", "1", "-W", "2", to])
                .map(drop)
                .map_err(|e| e.to_string())
        });
    }
    weft_lab::run(&mut engines[0].ctr(&["task", "kill", "--signal", "SIGKILL", "a"])).unwrap();
    eventually("the end of its endpoint", Duration::from_secs(10), || {
        let left = endpoints(&lab.daemons[0]).len();
        seen(left == 1, left)
    });
}

#[test]
fn beside_docker_they_share_its_networks_and_reach_out_as_well() {
    if !only_on("ebpf") {
        return;
    }
    let Some(mut pair) = Pair::up("cnid", EngineVersion::V26_1) else { return };
    // As on a host where Docker was the first to want forwarding.
    let host = pair.hosts[0].clone();
    let rules = host.run(&["iptables", "-S", "FORWARD"]).unwrap();
    assert!(rules.contains("-P FORWARD DROP"), "{rules}");
    pair.b().docker(&["network", "create", "-d", "weft", "--subnet", "10.9.0.0/24", "blue"]).unwrap();
    pair.b().docker(&["run", "-d", "--name", "web", "--network", "blue", "box", "sleep", "600"]).unwrap();
    let web = address(pair.b(), "web", "blue");
    let runtime = Runtime::new(&pair, 0, "blue", &json!({ "capabilities": { "portMappings": true } }), &[]);
    let (container, id) = sandbox(&mut pair, "h1", 1);
    let asked = json!({ "portMappings": [{ "hostPort": 8083, "containerPort": 80, "protocol": "tcp" }] });
    let result = runtime.add(&id, &asked).unwrap();
    serve(&container, "80");
    eventually("Docker's container", Duration::from_secs(5), || ping(&container, &web));
    let (here, there) = (host.address.to_string(), pair.hosts[1].clone());
    eventually("the world outside", Duration::from_secs(10), || ping(&container, &there.address.to_string()));
    eventually("the published port", Duration::from_secs(5), || hear(&there.namespace, &here, "8083"));
    // Docker finds its own chains as it left them.
    pair.a()
        .docker(&["run", "--rm", "box", "ping", "-c", "1", "-W", "2", &there.address.to_string()])
        .unwrap();
    runtime.all("DEL", &id, &asked, Some(&result)).unwrap();
    eventually("the rules as they were", Duration::from_secs(5), || {
        let now = host.run(&["iptables", "-S", "FORWARD"]).unwrap();
        seen(!now.contains("weftg"), now)
    });
}
