//! `weft gc`: removing what nobody needs any more.

use crate::{Agent, AgentError};
use std::collections::BTreeSet;
use weft_model::NodeId;
use weft_plan::{Leak, leaks};
use weft_store::{Outcome, Txn};

impl Agent {
    /// What nobody needs any more, as the store knows the cluster.
    pub async fn leaks(&self) -> Vec<Leak> {
        leaks(&self.everything().await)
    }

    /// Removes what is safe to remove, and everything of `dead` nodes, whose leases must have ended. Each record is removed
    /// only as it was seen. Returns what was removed.
    ///
    /// A dead node that comes back finds its endpoints gone and takes down their devices: two containers never keep one
    /// address. Until then the store cannot keep it from using them.
    pub async fn collect_garbage(&self, dead: &[String]) -> Result<Vec<Leak>, AgentError> {
        let dead = dead.iter().map(|name| self.dead_node(name)).collect::<Result<Vec<_>, _>>()?;
        let (mut removed, mut gone) = (Vec::new(), BTreeSet::new());
        for leak in self.leaks().await {
            if !leak.safe && !dead.contains(&leak.node) {
                continue;
            }
            if gone.contains(&leak.key) || self.remove_leak(&leak, &mut gone).await? {
                tracing::info!(
                    key = leak.key,
                    what = leak.what,
                    node = leak.node_name,
                    "removed: {}",
                    leak.reason
                );
                removed.push(leak);
            }
        }
        Ok(removed)
    }

    /// `false`: it has changed since it was seen. The keys that have gone are added to `gone`.
    async fn remove_leak(&self, leak: &Leak, gone: &mut BTreeSet<String>) -> Result<bool, AgentError> {
        let mut txn = Txn::new();
        for key in leak.with.iter().chain([&leak.key]) {
            let Some(record) = self.0.store.get(key).await? else { return Ok(false) };
            txn = txn.unchanged(key, record.modified).delete(key);
            // What is removed is what was looked at.
            self.caught_up(&[Some(record)]).await?;
        }
        if !self.leaks().await.contains(leak) {
            return Ok(false);
        }
        if let Some(key) = &leak.unless {
            txn = txn.absent(key);
        }
        let done = matches!(self.commit(txn).await?, Outcome::Committed(_));
        if done {
            gone.extend(leak.with.iter().chain([&leak.key]).cloned());
        }
        Ok(done)
    }

    fn dead_node(&self, reference: &str) -> Result<NodeId, AgentError> {
        self.read(|s| {
            let mut found = s
                .nodes
                .values()
                .filter(|n| n.name == reference || (!reference.is_empty() && n.id.starts_with(reference)));
            let node = match (found.next(), found.next()) {
                (Some(node), None) => node,
                (None, _) => {
                    return Err(AgentError::Invalid(format!(
                        "there is no node {reference:?}: see `weft node ls`"
                    )));
                }
                (Some(_), Some(_)) => {
                    let text = format!(
                        "more than one node is called {reference:?}: give its id, from `weft node ls`"
                    );
                    return Err(AgentError::Invalid(text));
                }
            };
            if s.alive.contains_key(&node.id) {
                let text = format!("node {} lives: run `weft down` there", node.name);
                return Err(AgentError::Invalid(text));
            }
            Ok(node.id.clone())
        })
    }
}
