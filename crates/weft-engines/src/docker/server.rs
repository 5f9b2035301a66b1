//! The plugin's HTTP server: one path for each call of Docker's protocols, on a unix socket.
//!
//! Requests are POSTs with a JSON body (or none); dockerd's content type changes with its version, so it is not
//! looked at. An error is an answer with status 200 and a message in `Err` (network driver) or `Error` (IPAM):
//! dockerd shows that message as it is, while for other statuses it shows the whole body.

use super::{
    EngineError,
    cluster::Cluster,
    plugin::{ADDRESS_SPACES, CallError, Plugin},
    socket::PluginSocket,
    wire::{
        AddressSpaces, AllocateNetwork, Done, DriverCapabilities, GwAllocCheck, IpamCapabilities, Manifest,
    },
};
use axum::{
    Router,
    body::Bytes,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Serves dockerd until `shutdown`; calls under way then have `last_calls` to end.
pub(super) async fn serve<C: Cluster>(
    socket: PluginSocket,
    plugin: Arc<Plugin<C>>,
    shutdown: CancellationToken,
    last_calls: Duration,
) -> Result<(), EngineError> {
    let PluginSocket { listener, file } = socket;
    let app = Router::new().fallback(move |uri: Uri, body: Bytes| {
        let plugin = Arc::clone(&plugin);
        async move { respond(&plugin, uri.path().trim_start_matches('/'), &body).await }
    });
    let serving = axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(last_calls).await;
    };
    tokio::select! {
        ended = serving => ended
            .map_err(|error| EngineError::Server { path: file.0.clone(), reason: error.to_string() }),
        () = overdue => Ok(()),
    }
}

/// The answer to a request for this call.
pub(super) async fn respond<C: Cluster>(plugin: &Plugin<C>, call: &str, body: &[u8]) -> Response {
    tracing::debug!(call, body = %String::from_utf8_lossy(body), "Docker calls");
    let _under_way = plugin.calls().begin();
    let (status, answer) = match dispatch(plugin, call, body).await {
        Some(Ok(answer)) => (StatusCode::OK, answer),
        Some(Err(error)) => {
            let message = error.message();
            tracing::warn!(call, error = %message, "a call of Docker's is refused");
            let field = if call.starts_with("IpamDriver.") { "Error" } else { "Err" };
            (StatusCode::OK, json!({ field: message }))
        }
        // For calls of later versions: dockerd takes this status as "not implemented".
        None => (StatusCode::NOT_FOUND, json!({ "Err": format!("weft has no call {call:?}") })),
    };
    tracing::debug!(call, %answer, "answered");
    (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], answer.to_string()).into_response()
}

type Outcome = Result<Value, CallError>;

/// Answers a call; `None` if there is none of that name.
async fn dispatch<C: Cluster>(plugin: &Plugin<C>, call: &str, body: &[u8]) -> Option<Outcome> {
    let body = Body { call, bytes: body };
    match call.split_once('.')? {
        ("Plugin", "Activate") => {
            Some(written(body.call, Ok(Manifest { implements: ["NetworkDriver", "IpamDriver"] })))
        }
        ("NetworkDriver", name) => dispatch_driver(plugin, name, body).await,
        ("IpamDriver", name) => dispatch_ipam(plugin, name, body).await,
        _ => None,
    }
}

async fn dispatch_driver<C: Cluster>(plugin: &Plugin<C>, name: &str, body: Body<'_>) -> Option<Outcome> {
    let call = body.call;
    Some(match name {
        "GetCapabilities" => written(
            call,
            Ok(DriverCapabilities { scope: "local", connectivity_scope: "global", gw_alloc_checker: false }),
        ),
        "GwAllocCheck" => written(call, Ok(GwAllocCheck { skip_ipv4: false, skip_ipv6: false })),
        // Calls of swarm managers to drivers of scope global. What is given back is given to CreateNetwork.
        "AllocateNetwork" => written(call, body.read::<AllocateNetwork>()),
        "FreeNetwork" => done(call, Ok(())),
        "CreateNetwork" => done(call, body.then(|c| plugin.create_network(c)).await),
        "DeleteNetwork" => done(call, body.then(|c| plugin.delete_network(c)).await),
        "CreateEndpoint" => written(call, body.then(|c| plugin.create_endpoint(c)).await),
        "DeleteEndpoint" => done(call, body.then(|c| plugin.delete_endpoint(c)).await),
        "EndpointOperInfo" => written(call, body.read().and_then(|c| plugin.endpoint_info(&c))),
        "Join" => written(call, body.then(|c| plugin.join(c)).await),
        "Leave" => done(call, body.then(|c| plugin.leave(c)).await),
        // Docker tells of nodes of its own clusters and of published ports; the former are not weft's, and the
        // latter go through docker_gwbridge.
        "DiscoverNew" | "DiscoverDelete" | "ProgramExternalConnectivity" | "RevokeExternalConnectivity" => {
            done(call, Ok(()))
        }
        _ => return None,
    })
}

async fn dispatch_ipam<C: Cluster>(plugin: &Plugin<C>, name: &str, body: Body<'_>) -> Option<Outcome> {
    let call = body.call;
    Some(match name {
        "GetCapabilities" => written(
            call,
            Ok(IpamCapabilities { requires_mac_address: false, requires_request_replay: false }),
        ),
        "GetDefaultAddressSpaces" => written(
            call,
            Ok(AddressSpaces {
                local_default_address_space: ADDRESS_SPACES[0],
                global_default_address_space: ADDRESS_SPACES[1],
            }),
        ),
        "RequestPool" => written(call, body.then(|c| plugin.request_pool(c)).await),
        "ReleasePool" => done(call, body.then(|c| plugin.release_pool(c)).await),
        "RequestAddress" => written(call, body.then(|c| plugin.request_address(c)).await),
        "ReleaseAddress" => done(call, body.then(|c| plugin.release_address(c)).await),
        _ => return None,
    })
}

/// A call's body.
#[derive(Clone, Copy)]
struct Body<'a> {
    call: &'a str,
    bytes: &'a [u8],
}

impl Body<'_> {
    fn read<T: DeserializeOwned>(self) -> Result<T, CallError> {
        let text = if self.bytes.trim_ascii().is_empty() { b"{}" } else { self.bytes };
        serde_json::from_slice(text)
            .map_err(|e| CallError::Body { call: self.call.to_owned(), reason: e.to_string() })
    }

    async fn then<T: DeserializeOwned, R, F: Future<Output = Result<R, CallError>>>(
        self,
        verb: impl FnOnce(T) -> F,
    ) -> Result<R, CallError> {
        if self.bytes.trim_ascii().is_empty() {
            return Err(CallError::Empty(self.call.to_owned()));
        }
        verb(self.read()?).await
    }
}

fn written<T: Serialize>(call: &str, answer: Result<T, CallError>) -> Outcome {
    serde_json::to_value(answer?)
        .map_err(|e| CallError::Body { call: call.to_owned(), reason: format!("its answer: {e}") })
}

fn done(call: &str, outcome: Result<(), CallError>) -> Outcome {
    written(call, outcome.map(|()| Done {}))
}
