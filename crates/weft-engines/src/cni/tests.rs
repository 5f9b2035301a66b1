//! CNI's commands, against a daemon that only notes what it is asked.
#![allow(clippy::needless_pass_by_value)] // What is handed over is written down at the call.

use super::{config::Config, environment::Call, error::*, plugin::run};
use crate::fake_daemon::FakeDaemon;
use serde_json::{Value, json};
use weft_agent::api::{AttachingEngine, ErrorKind};

fn call(command: &str) -> Call {
    let variables = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "0123456789abcdef"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
    ];
    Call::of(|asked| variables.iter().find(|(n, _)| *n == asked).map(|(_, v)| (*v).to_owned())).unwrap()
}

fn config(more: Value) -> Config {
    let mut config = json!({ "cniVersion": "1.1.0", "name": "net", "type": "weft-cni" });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Config::read(&config.to_string()).unwrap()
}

async fn done(command: &str, more: Value, daemon: &FakeDaemon) -> Result<Value, CniError> {
    let output = run(&call(command), &config(more), daemon).await?;
    Ok(output.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap()))
}

#[tokio::test]
async fn add_answers_with_both_interfaces_the_default_route_and_the_name_server() {
    let daemon = FakeDaemon::new(true);
    let answer = done("ADD", json!({ "dns": { "search": ["example.org"] } }), &daemon).await.unwrap();
    let expected = json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            { "name": "eth0", "mac": "02:42:0a:09:00:02", "sandbox": "/run/netns/c1" },
            { "name": "out0", "mac": "02:42:ac:10:00:02", "sandbox": "/run/netns/c1" },
        ],
        "ips": [
            { "address": "10.9.0.2/24", "interface": 0 },
            { "address": "172.16.0.2/20", "gateway": "172.16.0.1", "interface": 1 },
        ],
        "routes": [{ "dst": "0.0.0.0/0", "gw": "172.16.0.1" }],
        "dns": { "nameservers": ["127.0.0.11"], "search": ["example.org"] },
    });
    assert_eq!(answer, expected);
    let asked = daemon.attached.borrow()[0].clone();
    assert_eq!(
        (asked.engine, asked.container.unwrap().name.as_str()),
        (AttachingEngine::Cni, "0123456789ab")
    );
}

#[tokio::test]
async fn for_a_portmap_behind_it_the_way_out_is_named_first_and_as_no_other_interfaces() {
    let answer = done("ADD", json!({ "portmap": true }), &FakeDaemon::new(true)).await.unwrap();
    assert_eq!(answer["ips"][0], json!({ "address": "172.16.0.2/20", "gateway": "172.16.0.1" }));
    assert_eq!(answer["ips"][1]["interface"], 0);
}

#[tokio::test]
async fn before_version_1_an_address_tells_its_ip_version() {
    let answer = done("ADD", json!({ "cniVersion": "0.4.0" }), &FakeDaemon::new(true)).await.unwrap();
    assert_eq!((&answer["cniVersion"], &answer["ips"][0]["version"]), (&json!("0.4.0"), &json!("4")));
}

#[tokio::test]
async fn behind_another_plugin_its_answer_stays_in_front_and_its_default_route_is_the_only_one() {
    let previous = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "net0", "sandbox": "/run/netns/c1", "mtu": 1400 }],
        "ips": [{ "address": "10.1.0.2/24", "interface": 0 }],
        "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.0.1" }],
        "dns": {},
    });
    let daemon = FakeDaemon::new(true);
    let answer = done("ADD", json!({ "prevResult": previous }), &daemon).await.unwrap();
    assert_eq!(answer["interfaces"][0], previous["interfaces"][0]);
    assert_eq!(answer["ips"][1], json!({ "address": "10.9.0.2/24", "interface": 1 }));
    assert_eq!(answer["routes"], previous["routes"]);
    assert_eq!(daemon.attached.borrow()[0].outside, None);
}

#[tokio::test]
async fn a_network_that_is_missing_is_made_where_its_subnets_are_known() {
    let daemon = FakeDaemon::new(false);
    let error = done("ADD", json!({}), &daemon).await.unwrap_err();
    assert_eq!((error.code, error.details.contains("subnets")), (BAD_CONFIGURATION, true));
    for is_slow in [false, true] {
        let daemon = FakeDaemon { is_slow, ..FakeDaemon::new(false) };
        done("ADD", json!({ "subnets": ["10.9.0.0/24"], "internal": true }), &daemon).await.unwrap();
        let made = daemon.created.borrow()[0].clone();
        assert_eq!((made.name.unwrap().as_str(), made.internal), ("net", true));
    }
}

#[tokio::test]
async fn del_of_what_is_gone_is_done_and_any_other_failure_is_told() {
    done("DEL", json!({}), &FakeDaemon::failing(ErrorKind::NotFound)).await.unwrap();
    let daemon = FakeDaemon::new(true);
    assert_eq!(done("DEL", json!({}), &daemon).await.unwrap(), Value::Null);
    let asked = daemon.detached.borrow()[0].clone();
    assert_eq!(
        (asked.container.as_deref(), asked.interface.as_deref()),
        (Some("0123456789abcdef"), Some("eth0"))
    );
    let error = done("DEL", json!({}), &FakeDaemon::failing(ErrorKind::Unavailable)).await.unwrap_err();
    assert_eq!(error.code, TRY_AGAIN);
}

#[tokio::test]
async fn check_compares_with_what_add_has_answered() {
    let daemon = FakeDaemon::new(true);
    let answer = done("ADD", json!({}), &daemon).await.unwrap();
    done("CHECK", json!({ "prevResult": answer }), &daemon).await.unwrap();
    assert_eq!(done("CHECK", json!({}), &daemon).await.unwrap_err().code, BAD_CONFIGURATION);
    let mut other = answer.clone();
    other["ips"][0]["address"] = json!("10.9.0.3/24");
    let error = done("CHECK", json!({ "prevResult": other }), &daemon).await.unwrap_err();
    assert!(error.code == 104 && error.message.contains("10.9.0.2/24"), "{error}");
    for (kind, code) in [(ErrorKind::NotFound, UNKNOWN_CONTAINER), (ErrorKind::Conflict, 104)] {
        let failing = FakeDaemon::failing(kind);
        assert_eq!(done("CHECK", json!({ "prevResult": answer }), &failing).await.unwrap_err().code, code);
    }
}

#[tokio::test]
async fn gc_removes_what_is_not_named_and_leaves_other_hosts_alone() {
    let daemon = FakeDaemon::new(true).with_endpoints(&["stays", "goes", "elsewhere"]);
    if let Some(network) = daemon.network.borrow_mut().as_mut() {
        network.endpoints[2].node = weft_model::NodeId::random();
    }
    let valid = json!({ "cni.dev/valid-attachments": [{ "containerID": "stays", "ifname": "eth0" }] });
    done("GC", valid.clone(), &daemon).await.unwrap();
    let removed: Vec<_> = daemon.detached.borrow().iter().map(|asked| asked.container.clone()).collect();
    assert_eq!(removed, [Some("goes".to_owned())]);
    done("GC", valid, &FakeDaemon::new(false)).await.unwrap();
}

#[tokio::test]
async fn status_tells_whether_a_daemon_answers() {
    done("STATUS", json!({}), &FakeDaemon::new(true)).await.unwrap();
    let error = done("STATUS", json!({}), &FakeDaemon::failing(ErrorKind::Unavailable)).await.unwrap_err();
    assert_eq!(error.code, NOT_AVAILABLE);
}

#[test]
fn version_is_answered_whatever_the_configuration_is() {
    let of = |asked: &str| (asked == "CNI_COMMAND").then(|| "VERSION".to_owned());
    for (input, version) in [(r#"{"cniVersion":"1.0.0"}"#, "1.0.0"), ("", "1.1.0")] {
        let answer: Value = serde_json::from_str(&super::answer(input, of).unwrap().unwrap()).unwrap();
        assert_eq!(answer["cniVersion"], version);
        assert!(answer["supportedVersions"].as_array().unwrap().contains(&json!("1.1.0")));
    }
}
