//! Endpoints whose network namespace is gone: nobody will detach them, so weft does.

use crate::{Agent, attach::ATTACHING};
use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::Path};
use tokio_util::sync::CancellationToken;
use weft_model::{EndpointId, NetworkId, Sandbox};

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

/// This node's attached namespaces that do not exist any more: after a reboot no engine tells of them.
fn orphans(agent: &Agent) -> BTreeSet<(NetworkId, EndpointId)> {
    agent.0.view.look_up(|known| {
        let ours = known.own().filter(|e| ATTACHING.contains(&e.engine.as_str()));
        let gone = ours.filter(|e| e.sandbox.as_ref().is_some_and(is_gone));
        gone.map(|e| (e.network.clone(), e.id.clone())).collect()
    })
}

/// Whether there is no such namespace any more: nothing at its path, or, where that can come to mean another one, another.
pub(crate) fn is_gone(sandbox: &Sandbox) -> bool {
    match (fs::metadata(&sandbox.path), sandbox.inode) {
        (Ok(found), Some(inode)) => found.ino() != inode,
        (Ok(_), None) => false,
        (Err(_), _) => !Path::new(&sandbox.path).exists(),
    }
}

/// What has to be noted of the namespace at `path` beside the path, to know it again: the path of a process's namespace is
/// another's when the process has ended.
pub(crate) fn inode_to_note(path: &Path) -> Option<u64> {
    path.starts_with("/proc").then(|| fs::metadata(path).ok().map(|found| found.ino())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_another_ones_pid_has_not_its_namespace() {
        let own = format!("/proc/{}/ns/net", std::process::id());
        let inode = inode_to_note(Path::new(&own));
        let mut sandbox = Sandbox { inode, ..Sandbox::namespace(own, "eth0") };
        assert!(inode.is_some() && !is_gone(&sandbox));
        sandbox.inode = inode.map(|inode| inode + 1);
        assert!(is_gone(&sandbox));
        assert!(is_gone(&Sandbox::namespace("/proc/0/ns/net", "eth0")));
        assert_eq!(inode_to_note(Path::new("/run/netns/blue")), None, "a name may be given anew");
    }
}
