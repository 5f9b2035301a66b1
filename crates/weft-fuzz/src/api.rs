//! The bodies of the daemon's API, both ways: the type's name on the first line, then the JSON.

use crate::first_line;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use weft_agent::api::{
    AttachRequest, DetachRequest, EndpointView, ErrorBody, Explanation, GcRequest, Leak, NetworkSpec,
    NetworkView, NodeView, Statistics, Status,
};
use weft_model::Subnet;

pub fn check(bytes: &[u8]) {
    let Some((name, json)) = first_line(bytes) else { return };
    match name {
        "NetworkSpec" => {
            if let Some(spec) = written_as_read::<NetworkSpec>(json)
                && Subnet::validate_all(&spec.subnets).is_ok()
            {
                assert!(spec.subnets.iter().all(|s| s.gateway.is_none_or(|g| s.net.contains(&g))));
            }
        }
        "GcRequest" => drop(written_as_read::<GcRequest>(json)),
        "AttachRequest" => drop(written_as_read::<AttachRequest>(json)),
        "DetachRequest" => drop(written_as_read::<DetachRequest>(json)),
        "NetworkView" => drop(written_as_read::<Vec<NetworkView>>(json)),
        "EndpointView" => drop(written_as_read::<Vec<EndpointView>>(json)),
        "NodeView" => drop(written_as_read::<Vec<NodeView>>(json)),
        "Statistics" => drop(written_as_read::<Option<Statistics>>(json)),
        "Status" => drop(written_as_read::<Status>(json)),
        "Explanation" => drop(written_as_read::<Vec<Explanation>>(json)),
        "Leak" => drop(written_as_read::<Vec<Leak>>(json)),
        "ErrorBody" => {
            if let Some(error) = written_as_read::<ErrorBody>(json) {
                assert!((400..600).contains(&error.kind.http_status()) && error.kind.exit_code() > 0);
            }
        }
        _ => {}
    }
}

fn written_as_read<T: Serialize + DeserializeOwned + PartialEq + Debug>(json: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(json).ok()?;
    let text = serde_json::to_vec(&value).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<T>(&text).expect("what was written can be read"), value);
    Some(value)
}
