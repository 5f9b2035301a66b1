//! Endpoints whose network namespace is gone: nobody will detach them, so weft does.

use crate::Agent;
use std::{collections::BTreeSet, path::Path};
use tokio_util::sync::CancellationToken;
use weft_model::{EndpointId, NetworkId};

/// The engine of endpoints that `weft attach` made.
pub(crate) const NETNS: &str = "netns";

/// Looks every few seconds until `shutdown`. What is missing at two looks in a row is removed: a namespace that
/// is being mounted anew is away only for a moment.
pub(crate) async fn run(agent: Agent, shutdown: CancellationToken) {
    let mut missing = BTreeSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(agent.0.options.reconcile_interval) => {}
        }
        let now = orphans(&agent);
        for (network, endpoint) in missing.intersection(&now) {
            tracing::info!(endpoint = endpoint.short(), "its namespace is gone: the endpoint is removed");
            if let Err(error) = agent.remove_endpoint(network, endpoint).await {
                tracing::warn!(endpoint = endpoint.short(), %error, "it could not be removed; trying again");
            }
        }
        missing = now;
    }
}

/// This node's attached namespaces that do not exist any more.
fn orphans(agent: &Agent) -> BTreeSet<(NetworkId, EndpointId)> {
    agent.read(|s| {
        let ours = s.all_endpoints().filter(|e| e.node == *agent.node() && e.engine == NETNS);
        let gone = ours.filter(|e| e.sandbox.as_ref().is_some_and(|s| !Path::new(&s.path).exists()));
        gone.map(|e| (e.network.clone(), e.id.clone())).collect()
    })
}
