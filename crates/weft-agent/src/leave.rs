//! `weft down`: this host leaves the cluster.

use crate::{Agent, AgentError};
use weft_model::schema;
use weft_store::Txn;

impl Agent {
    /// Removes this node's endpoints, its claims, its engines' bindings, its record and what it told of multicast groups; then
    /// the daemon ends and takes its kernel objects with it (see [`crate::Running::stop`]). The state directory stays.
    pub async fn leave(&self) -> Result<(), AgentError> {
        // What a verb takes that has begun is given back with the rest, and no other begins.
        self.0.taking.close();
        self.0.taking.wait().await;
        let left = self.give_everything_back().await;
        if left.is_err() {
            self.0.taking.reopen();
        }
        left
    }

    async fn give_everything_back(&self) -> Result<(), AgentError> {
        let (endpoints, claims, bindings) = self.read(|s| {
            let endpoints = s.all_endpoints().filter(|e| e.node == self.0.node);
            let endpoints: Vec<_> = endpoints.map(|e| (e.network.clone(), e.id.clone())).collect();
            let claims = s.addresses.iter().flat_map(|(network, claims)| {
                let ours = claims.iter().filter(|(_, c)| c.node == self.0.node);
                ours.map(|(ip, _)| (network.clone(), *ip))
            });
            let bindings = s.bindings.get(&self.0.node).into_iter().flat_map(|b| b.keys().cloned());
            (endpoints, claims.collect::<Vec<_>>(), bindings.collect::<Vec<_>>())
        });
        self.give_up_reserve().await?;
        tracing::info!(endpoints = endpoints.len(), "this host leaves the cluster");
        for (network, endpoint) in &endpoints {
            self.remove_endpoint(network, endpoint).await?;
        }
        for (network, ip) in &claims {
            self.release_address(network, *ip).await?;
        }
        for engine_network in &bindings {
            self.unbind(engine_network).await?;
        }
        self.0.outbox.member.leave();
        self.0.shutdown.cancel();
        let node = &self.0.node;
        let txn = Txn::new().delete(schema::node_key(node)).delete(schema::alive_key(node));
        self.0.store.commit(txn).await?;
        // None is written any more without the node's record.
        for network in self.0.view.followed.all() {
            self.0.store.commit(Txn::new().delete(schema::groups_key(&network, node))).await?;
        }
        Ok(())
    }
}
