//! netavark's calls, against a daemon that only notes what it is asked.
#![allow(clippy::needless_pass_by_value)] // What is handed over is written down at the call.

use super::{PluginError, answer, run};
use crate::fake_daemon::{FakeDaemon, network_of};
use serde_json::{Value, json};
use weft_agent::api::{AttachingEngine, ErrorKind};
use weft_model::Subnet;

const ID: &str = "0123456789abcdef0123456789abcdef";

fn network(more: Value) -> Value {
    let mut network = json!({
        "name": "net", "id": ID, "driver": "weft", "created": "2026-11-30T00:00:00Z",
        "ipv6_enabled": false, "internal": false, "dns_enabled": true, "ipam_options": { "driver": "host-local" },
    });
    for (key, value) in more.as_object().unwrap() {
        network[key] = value.clone();
    }
    network
}

fn container(options: Value, ports: Value, internal: bool) -> Value {
    json!({
        "container_id": ID, "container_name": "web", "port_mappings": ports,
        "network": network(json!({ "internal": internal })), "network_options": options,
    })
}

async fn done(command: &str, input: Value, daemon: &FakeDaemon) -> Result<Value, PluginError> {
    let arguments = if command == "create" { vec![] } else { vec!["/run/netns/c1".to_owned()] };
    let output = run(command, &arguments, &input.to_string(), daemon).await?;
    Ok(if output.is_empty() { Value::Null } else { serde_json::from_str(&output).unwrap() })
}

#[test]
fn info_tells_the_versions() {
    let info: Value = serde_json::from_str(&answer(&["info".to_owned()]).unwrap()).unwrap();
    assert_eq!(info["api_version"], "1.0.0");
}

#[tokio::test]
async fn a_network_that_the_cluster_lacks_is_made() {
    let daemon = FakeDaemon::new(false);
    let asked = json!({
        "subnets": [{ "subnet": "10.9.0.0/24",
            "lease_range": { "start_ip": "10.9.0.129", "end_ip": "10.9.0.254" } }],
        "options": { "mtu": "1400", "weft.vni": "5000" },
    });
    let made = done("create", network(asked), &daemon).await.unwrap();
    assert_eq!((&made["ipam_options"]["driver"], &made["dns_enabled"]), (&json!("weft"), &json!(false)));
    assert_eq!((&made["id"], &made["created"]), (&json!(ID), &json!("2026-11-30T00:00:00Z")), "they stay");
    let spec = daemon.created.borrow()[0].clone();
    assert_eq!(spec.subnets[0].gateway.unwrap().to_string(), "10.9.0.1");
    assert_eq!(spec.subnets[0].range.unwrap().to_string(), "10.9.0.128/25");
    assert_eq!((spec.mtu.unwrap().get(), spec.vni.unwrap().get()), (1400, 5000));
}

#[tokio::test]
async fn a_network_that_the_cluster_has_is_joined_as_it_is() {
    for daemon in [FakeDaemon::new(true), FakeDaemon { is_slow: true, ..FakeDaemon::new(false) }] {
        if daemon.is_slow {
            let subnets = [Subnet::new("10.9.0.0/24".parse().unwrap())];
            *daemon.network.borrow_mut() = Some(network_of(&daemon.node, "net", &subnets));
        }
        let joined = done("create", network(json!({})), &daemon).await.unwrap();
        assert_eq!(joined["subnets"][0]["subnet"], "10.9.0.0/24");
    }
    let daemon = FakeDaemon::new(true);
    for (asked, words) in [
        (json!({ "subnets": [{ "subnet": "10.8.0.0/24" }] }), "with the subnets 10.9.0.0/24"),
        (json!({ "internal": true }), "with a way out"),
        (json!({ "options": { "weft.vni": "5000" } }), "with VNI 4096"),
        (json!({ "options": { "isolate": "true" } }), "option \"isolate\" is not known"),
        (json!({ "options": { "mtu": "x" } }), "option mtu: "),
    ] {
        let error = done("create", network(asked), &daemon).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_range_that_is_no_prefix_is_refused() {
    let range = json!({ "start_ip": "10.9.0.3", "end_ip": "10.9.0.9" });
    let asked = json!({ "subnets": [{ "subnet": "10.9.0.0/24", "lease_range": range }] });
    let error = done("create", network(asked), &FakeDaemon::new(false)).await.unwrap_err().to_string();
    assert!(error.contains("10.9.0.3 to 10.9.0.9 is none"), "{error}");
}

#[tokio::test]
async fn setup_attaches_and_tells_the_interface_and_the_name_server() {
    let daemon = FakeDaemon::new(true);
    let options = json!({
        "aliases": ["0123456789ab", "db"], "interface_name": "eth0",
        "static_ips": ["10.9.0.2"], "static_mac": "02:00:00:00:00:07",
    });
    let ports = json!([
        { "container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp", "range": 3 },
        { "container_port": 53, "host_ip": "192.0.2.1", "host_port": 53, "protocol": "tcp,udp", "range": 1 },
    ]);
    let status = done("setup", container(options, ports, false), &daemon).await.unwrap();
    let expected = json!({
        "dns_search_domains": [], "dns_server_ips": ["127.0.0.11"],
        "interfaces": { "eth0": { "mac_address": "02:00:00:00:00:07", "subnets": [{ "ipnet": "10.9.0.2/24" }] } },
    });
    assert_eq!(status, expected);
    let asked = daemon.attached.borrow()[0].clone();
    let container = asked.container.unwrap();
    assert_eq!(
        (asked.engine, container.name.as_str(), container.aliases),
        (AttachingEngine::Podman, "web", vec!["db".to_owned()])
    );
    let ports: Vec<String> = asked.outside.unwrap().ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["*:8080-8082->80-82/tcp", "192.0.2.1:53->53/tcp", "192.0.2.1:53->53/udp"]);
}

#[tokio::test]
async fn on_an_internal_network_nothing_leads_out() {
    let daemon = FakeDaemon::new(true);
    let options = json!({ "interface_name": "eth0", "aliases": null });
    done("setup", container(options, Value::Null, true), &daemon).await.unwrap();
    assert_eq!(daemon.attached.borrow()[0].outside, None);
}

#[tokio::test]
async fn teardown_of_what_is_gone_is_done() {
    let call = || container(json!({ "interface_name": "eth0" }), json!([]), false);
    assert_eq!(
        done("teardown", call(), &FakeDaemon::failing(ErrorKind::NotFound)).await.unwrap(),
        Value::Null
    );
    let daemon = FakeDaemon::new(true);
    done("teardown", call(), &daemon).await.unwrap();
    assert_eq!(daemon.detached.borrow()[0].container.as_deref(), Some(ID));
    let error = done("teardown", call(), &FakeDaemon::failing(ErrorKind::Unavailable)).await.unwrap_err();
    assert!(error.to_string().contains("Unavailable"), "{error}");
}

#[tokio::test]
async fn what_is_no_call_of_netavarks_is_said_to_be_none() {
    let daemon = FakeDaemon::new(true);
    for (command, words) in [("", "is no call of netavark's"), ("setup", "standard input makes no sense")] {
        let error = run(command, &["/n".to_owned()], "{", &daemon).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let error = run("teardown", &[], "{}", &daemon).await.unwrap_err().to_string();
    assert!(error.contains("wants the network namespace's path"), "{error}");
}
