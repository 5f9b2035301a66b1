use super::*;
use crate::Record;
use serde_json::{Value, json};
use weft_model::Revision;

const NODE: &str = "00000000000000000000000000000001";
const NETWORK: &str = "0000000000000000000000000000000000000000000000000000000000000002";
const ENDPOINT: &str = "0000000000000000000000000000000000000000000000000000000000000003";

fn key(kind: &str) -> String {
    match kind {
        "node" => format!("v1/nodes/{NODE}"),
        "network" => format!("v1/networks/{NETWORK}"),
        "endpoint" => format!("v1-on/{NETWORK}/endpoints/{ENDPOINT}"),
        "address" => format!("v1-on/{NETWORK}/addresses/10.9.0.2"),
        "binding" => format!("v1/bindings/{NODE}/abc"),
        other => format!("v1/{other}"),
    }
}

/// One node with one endpoint on one network.
fn sound() -> Vec<(String, Value)> {
    let network = json!({
        "id": NETWORK, "name": "blue", "vni": 4096, "mtu": null, "created_by": NODE, "created": 1,
        "subnets": [{"net": "10.9.0.0/24", "gateway": "10.9.0.1", "range": null}],
    });
    let endpoint = json!({
        "id": ENDPOINT, "network": NETWORK, "node": NODE, "engine": "docker", "container": null,
        "mac": "02:42:0a:09:00:02", "ipv4": "10.9.0.2/24", "ipv6": null, "epoch": 1, "created": 1,
    });
    let node = json!({
        "id": NODE, "name": "h1", "vteps": ["192.0.2.1"], "vxlan_port": 4789, "underlay_mtu": 1500,
        "advertise": null, "version": "0", "epoch": 1, "started": 1,
    });
    let all = [
        ("meta", json!({"schema": schema::VERSION})),
        ("node", node),
        ("network", network),
        ("names/blue", json!(NETWORK)),
        ("vnis/4096", json!(NETWORK)),
        ("endpoint", endpoint),
        ("address", json!({"kind": "endpoint", "node": NODE, "endpoint": ENDPOINT, "since": 1})),
        ("binding", json!({"network": NETWORK, "mirrored": true})),
    ];
    all.into_iter().map(|(kind, value)| (key(kind), value)).collect()
}

fn findings(records: Vec<(String, Value)>) -> Vec<Finding> {
    let records = records.into_iter().map(|(key, value)| Record {
        key,
        value: value.to_string().into_bytes(),
        modified: Revision(1),
    });
    check(&Listing { revision: Revision(1), records: records.collect() })
}

#[test]
fn a_sound_store_has_no_findings() {
    assert_eq!(findings(sound()), []);
    assert_eq!(findings(vec![]), []);
}

#[test]
fn every_record_that_is_missing_leaves_one_that_does_not_fit() {
    for (missing, found, wrong) in [
        ("meta", "meta", "it is missing"),
        ("node", "endpoint", "which has no record"),
        ("network", "names/blue", "is not there"),
        ("names/blue", "network", "its name blue is not held for it"),
        ("vnis/4096", "network", "its VNI 4096 is not held for it"),
        ("endpoint", "address", "is not there"),
        ("address", "endpoint", "it uses 10.9.0.2, which is not held for it"),
    ] {
        let mut records = sound();
        records.retain(|(at, _)| *at != key(missing));
        assert_found(&findings(records), found, wrong);
    }
}

fn assert_found(findings: &[Finding], at: &str, wrong: &str) {
    let found = findings.iter().any(|f| f.key == key(at) && f.wrong.contains(wrong) && !f.advice.is_empty());
    assert!(found, "{at}: {wrong}: {findings:?}");
}

#[test]
fn every_record_that_says_something_else_is_found() {
    let other = NETWORK.replace('2', "9");
    for (kind, pointer, value, wrong) in [
        ("network", "/vni", json!(5000), "its VNI 5000 is not held for it"),
        ("network", "/name", json!("red"), "its name red is not held for it"),
        ("network", "/id", json!(other), "it says that it is"),
        ("names/blue", "", json!(other), "is not there"),
        ("endpoint", "/ipv4", json!("10.9.0.3/24"), "it uses 10.9.0.3"),
        ("endpoint", "/mac", json!("xx"), "it cannot be read"),
        ("address", "/endpoint", json!(null), "names none"),
        ("address", "/endpoint", json!(ENDPOINT.replace('3', "9")), "is not there"),
        ("binding", "/network", json!(other), "is not there"),
        ("meta", "/schema", json!(99), "does not know this layout"),
    ] {
        let mut records = sound();
        let record = records.iter_mut().find(|(at, _)| *at == key(kind)).unwrap();
        *record.1.pointer_mut(pointer).unwrap() = value;
        assert_found(&findings(records), kind, wrong);
    }
    let mut records = sound();
    records.push((key("weather"), json!("fine")));
    records.push((key("moved"), json!({"to": "etcd://h:1/weft", "since": 1})));
    let findings = findings(records);
    assert_found(&findings, "weather", "no record of weft's");
    assert_found(&findings, "moved", "closed");
}
