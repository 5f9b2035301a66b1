//! What CNI's runtimes and netavark hand over, for `weft-fuzz` alone. Each function panics when what it is about does not hold.

#![allow(clippy::expect_used, clippy::missing_panics_doc)] // A panic is how a fuzzer is told.

use crate::{
    cni::{self, error::CniError},
    daemon::Daemon,
    podman,
};
use futures::FutureExt as _;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::fmt::Debug;
use weft_agent::api::{
    AttachRequest, ClientError, DetachRequest, EndpointView, ErrorBody, ErrorKind, NetworkSpec, NetworkView,
    Status,
};

/// A call of a CNI runtime's: its variables, and what is on standard input. Whether it was done; an error is one that a runtime
/// can read, and an answer one that the next plugin of a list can.
pub fn cni_call(variables: &[(&str, &str)], input: &str) -> bool {
    let variable =
        |asked: &str| variables.iter().find(|(name, _)| *name == asked).map(|(_, value)| (*value).to_owned());
    let outcome = cni::parsed(input, variable).and_then(|parsed| {
        let Some((call, config)) = parsed else { return Ok(None) };
        cni::run(&call, &config, &Listener).now_or_never().expect("nothing is waited for")
    });
    match outcome {
        Ok(None) => true,
        Ok(Some(answer)) => {
            let mut list: Value = serde_json::from_str(input).expect("it was read");
            list["prevResult"] = serde_json::from_str(&answer).expect("an answer is JSON");
            let again = cni::parsed(&list.to_string(), variable);
            assert!(again.is_ok(), "{answer} cannot be read by the plugin behind");
            true
        }
        Err(error) => {
            assert_readable(&error);
            false
        }
    }
}

fn assert_readable(error: &CniError) {
    let told: Value = serde_json::from_str(&error.to_json("1.1.0")).expect("an error is JSON");
    assert!(told["code"].as_u64().is_some_and(|code| code > 0), "{told}");
    assert!(told["msg"].as_str().is_some_and(|message| !message.is_empty()), "{told}");
}

/// A call of netavark's: its words, and what is on standard input. The answer, which is JSON, or what is wrong.
pub fn podman_call(command: &str, arguments: &[String], input: &str) -> Result<Value, String> {
    let done = podman::run(command, arguments, input, &Listener).now_or_never();
    let answer = done.expect("nothing is waited for").map_err(|error| error.to_string())?;
    if answer.is_empty() {
        return Ok(Value::Null);
    }
    Ok(serde_json::from_str(&answer).expect("an answer is JSON"))
}

/// A daemon that reads what it is asked as it would be sent, and has no network.
struct Listener;

/// What is asked for is what the daemon reads.
fn heard<T: Serialize + DeserializeOwned + PartialEq + Debug>(request: &T) {
    let sent = serde_json::to_string(request).expect("a request can be written");
    assert_eq!(serde_json::from_str::<T>(&sent).expect("and read"), *request);
}

fn refused(kind: ErrorKind) -> ClientError {
    ClientError::Daemon(ErrorBody { error: "no".to_owned(), hint: None, kind })
}

impl Daemon for Listener {
    async fn attach(&self, request: &AttachRequest) -> Result<EndpointView, ClientError> {
        heard(request);
        let attached = json!({
            "id": "eeeeeeeeeeee", "network": "bbbbbbbbbbbb", "network_name": "net", "node": "aaaaaaaaaaaa", "node_name": "h1",
            "vtep": null, "engine": request.engine.name(), "container": request.container, "mac": "02:42:0a:09:00:02",
            "addresses": ["10.9.0.2/24", "fd09::2/64"], "sandbox": request.netns, "interface": request.interface,
            "outside": request.outside.as_ref().map(|asked| json!({
                "id": "eeeeeeeeeeee", "interface": "out0", "ipv4": "172.16.0.2/20", "ipv6": "fd0a::2/64", "ports": asked.ports,
            })),
            "name_server": "127.0.0.11", "created": 0,
        });
        Ok(serde_json::from_value(attached).expect("an endpoint"))
    }

    async fn detach(&self, request: &DetachRequest) -> Result<(), ClientError> {
        heard(request);
        Ok(())
    }

    async fn check(&self, request: &DetachRequest) -> Result<EndpointView, ClientError> {
        heard(request);
        Err(refused(ErrorKind::NotFound))
    }

    async fn network(&self, _: &str) -> Result<NetworkView, ClientError> {
        Err(refused(ErrorKind::NotFound))
    }

    async fn create_network(&self, spec: &NetworkSpec) -> Result<NetworkView, ClientError> {
        heard(spec);
        let made = json!({
            "id": "bbbbbbbbbbbb", "name": spec.name, "vni": spec.vni.map_or(5000, weft_model::Vni::get), "subnets": spec.subnets,
            "mtu": spec.mtu, "internal": spec.internal, "labels": spec.labels, "options": spec.options,
            "address_driver": "weft", "created_by": "aaaaaaaaaaaa", "created": 0,
            "effective_mtu": null, "endpoints": [],
        });
        Ok(serde_json::from_value(made).expect("a network"))
    }

    async fn status(&self) -> Result<Status, ClientError> {
        Err(refused(ErrorKind::Unavailable))
    }
}
