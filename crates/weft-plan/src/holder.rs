//! Who has an address, in words for an error message.

use std::net::IpAddr;
use weft_model::{ClaimKind, NetworkId, Sandbox, Snapshot, utc};

/// Who holds `ip` on `network`: `container "web" on node h1, since 2026-11-24 20:31:16 UTC`. Of an address
/// that nobody holds: `nobody`.
pub fn describe_holder(snapshot: &Snapshot, network: &NetworkId, ip: IpAddr) -> String {
    let Some(claim) = snapshot.addresses.get(network).and_then(|claims| claims.get(&ip)) else {
        return "nobody".to_owned();
    };
    let endpoints = snapshot.endpoints.get(network);
    let endpoint = claim.endpoint.as_ref().and_then(|id| endpoints?.get(id));
    let who = match (endpoint, &claim.endpoint) {
        (Some(endpoint), _) => match &endpoint.container {
            Some(container) if endpoint.sandbox.as_ref().is_some_and(|s| s.tap.is_some()) => {
                format!("virtual machine {:?}", container.name)
            }
            Some(container) if endpoint.sandbox.as_ref().is_some_and(Sandbox::is_host) => {
                format!("host {:?}", container.name)
            }
            Some(container) if endpoint.engine == "netns" => format!("namespace {:?}", container.name),
            Some(container) => format!("container {:?}", container.name),
            None => format!("endpoint {}", endpoint.id.short()),
        },
        (None, Some(id)) => format!("endpoint {}", id.short()),
        (None, None) if claim.kind == ClaimKind::Reserved => {
            "a reservation for when the store is away".to_owned()
        }
        (None, None) => "an engine's address request".to_owned(),
    };
    format!("{who} on node {}, since {}", snapshot.node_name(&claim.node), utc(claim.since))
}
