//! `weft gc`: removing what nobody needs any more.

use crate::{Agent, AgentError};
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
        let mut removed = Vec::new();
        for leak in self.leaks().await {
            if (leak.safe || dead.contains(&leak.node)) && self.remove_leak(&leak).await? {
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

    /// `false`: it has changed since it was seen.
    async fn remove_leak(&self, leak: &Leak) -> Result<bool, AgentError> {
        let Some(record) = self.0.store.get(&leak.key).await? else { return Ok(false) };
        if !self.leaks().await.contains(leak) {
            return Ok(false);
        }
        let txn = Txn::new().unchanged(&leak.key, record.modified).delete(&leak.key);
        let txn = match &leak.unless {
            Some(key) => txn.absent(key),
            None => txn,
        };
        Ok(matches!(self.commit(txn).await?, Outcome::Committed(_)))
    }

    fn dead_node(&self, reference: &str) -> Result<NodeId, AgentError> {
        self.read(|s| {
            let mut found = s.nodes.values().filter(|n| {
                n.name == reference || (!reference.is_empty() && n.id.as_str().starts_with(reference))
            });
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
