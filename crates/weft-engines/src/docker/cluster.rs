//! The gateway to the cluster: what the plugin and the mirror ask of the agent.
//!
//! It exists so that both are tested without a store and a kernel. An implementer answers as
//! [`weft_agent::Agent`] does: what a verb wrote, the next [`Cluster::read`] shows.

use ipnet::IpNet;
use std::{future::Future, net::IpAddr};
use tokio::sync::watch;
use weft_agent::{
    Agent, AgentError, EndpointSpec, NetworkDetails,
    api::{EngineStatus, NetworkSpec},
};
use weft_model::{
    Container, Endpoint, EndpointId, Network, NetworkId, NetworkName, NodeId, Pool, Sandbox, Snapshot,
};

/// See the verbs of the same names of [`Agent`].
pub(super) trait Cluster: Clone + Send + Sync + 'static {
    fn node(&self) -> &NodeId;
    fn read<R>(&self, look: impl FnOnce(&Snapshot) -> R) -> R;
    fn networks_changed(&self) -> watch::Receiver<u64>;
    fn set_engine_status(&self, status: EngineStatus);
    fn bound(&self, engine_network: &str) -> Option<Network>;
    fn pool(&self, pool: &str) -> Option<Pool>;
    fn unused_pools(&self, net: IpNet) -> Vec<(String, Pool)>;

    fn create_network(&self, spec: NetworkSpec, engine_network: &str) -> impl Answer<Network>;
    fn bind(&self, engine_network: &str, network: &NetworkId, mirrored: bool) -> impl Answer<()>;
    fn unbind(&self, engine_network: &str) -> impl Answer<()>;
    fn name_network(
        &self,
        network: &NetworkId,
        name: NetworkName,
        details: NetworkDetails,
    ) -> impl Answer<()>;
    fn remove_network(&self, network: &NetworkId) -> impl Answer<()>;
    fn create_endpoint(&self, spec: EndpointSpec) -> impl Answer<Endpoint>;
    fn join_endpoint(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        sandbox: Sandbox,
    ) -> impl Answer<String>;
    fn leave_endpoint(&self, network: &NetworkId, endpoint: &EndpointId) -> impl Answer<()>;
    fn set_container(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        container: Container,
    ) -> impl Answer<()>;
    fn remove_endpoint(&self, network: &NetworkId, endpoint: &EndpointId) -> impl Answer<()>;
    fn claim_address(&self, network: &NetworkId, subnet: IpNet, wanted: Option<IpAddr>)
    -> impl Answer<IpNet>;
    fn release_address(&self, network: &NetworkId, ip: IpAddr) -> impl Answer<()>;
    fn create_pool(&self, net: Option<IpNet>, range: Option<IpNet>, v6: bool) -> impl Answer<(String, Pool)>;
    fn reserve_in_pool(&self, pool: &str, wanted: Option<IpAddr>, gateway: bool) -> impl Answer<IpNet>;
    fn pool_became(&self, pool: &str, network: &NetworkId) -> impl Answer<()>;
    fn release_pool(&self, pool: &str) -> impl Answer<()>;
}

/// What a verb comes to.
pub(super) trait Answer<T>: Future<Output = Result<T, AgentError>> + Send {}

impl<T, F: Future<Output = Result<T, AgentError>> + Send> Answer<T> for F {}

impl Cluster for Agent {
    fn node(&self) -> &NodeId {
        self.node()
    }
    fn read<R>(&self, look: impl FnOnce(&Snapshot) -> R) -> R {
        self.read(look)
    }
    fn networks_changed(&self) -> watch::Receiver<u64> {
        self.networks_changed()
    }
    fn set_engine_status(&self, status: EngineStatus) {
        self.set_engine_status(status);
    }
    fn bound(&self, engine_network: &str) -> Option<Network> {
        self.bound(engine_network)
    }
    fn pool(&self, pool: &str) -> Option<Pool> {
        self.pool(pool)
    }
    fn unused_pools(&self, net: IpNet) -> Vec<(String, Pool)> {
        self.unused_pools(net)
    }

    async fn create_network(&self, spec: NetworkSpec, engine_network: &str) -> Result<Network, AgentError> {
        self.create_network(spec, Some(engine_network)).await
    }
    async fn bind(
        &self,
        engine_network: &str,
        network: &NetworkId,
        mirrored: bool,
    ) -> Result<(), AgentError> {
        self.bind(engine_network, network, mirrored).await
    }
    async fn unbind(&self, engine_network: &str) -> Result<(), AgentError> {
        self.unbind(engine_network).await
    }
    async fn name_network(
        &self,
        network: &NetworkId,
        name: NetworkName,
        details: NetworkDetails,
    ) -> Result<(), AgentError> {
        self.name_network(network, name, details).await
    }
    async fn remove_network(&self, network: &NetworkId) -> Result<(), AgentError> {
        self.remove_network(network).await
    }
    async fn create_endpoint(&self, spec: EndpointSpec) -> Result<Endpoint, AgentError> {
        self.create_endpoint(spec).await
    }
    async fn join_endpoint(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        sandbox: Sandbox,
    ) -> Result<String, AgentError> {
        self.join_endpoint(network, endpoint, sandbox).await
    }
    async fn leave_endpoint(&self, network: &NetworkId, endpoint: &EndpointId) -> Result<(), AgentError> {
        self.leave_endpoint(network, endpoint).await
    }
    async fn set_container(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        container: Container,
    ) -> Result<(), AgentError> {
        self.set_container(network, endpoint, container).await
    }
    async fn remove_endpoint(&self, network: &NetworkId, endpoint: &EndpointId) -> Result<(), AgentError> {
        self.remove_endpoint(network, endpoint).await
    }
    async fn claim_address(
        &self,
        network: &NetworkId,
        subnet: IpNet,
        wanted: Option<IpAddr>,
    ) -> Result<IpNet, AgentError> {
        self.claim_address(network, subnet, wanted).await
    }
    async fn release_address(&self, network: &NetworkId, ip: IpAddr) -> Result<(), AgentError> {
        self.release_address(network, ip).await
    }
    async fn create_pool(
        &self,
        net: Option<IpNet>,
        range: Option<IpNet>,
        v6: bool,
    ) -> Result<(String, Pool), AgentError> {
        self.create_pool(net, range, v6).await
    }
    async fn reserve_in_pool(
        &self,
        pool: &str,
        wanted: Option<IpAddr>,
        gateway: bool,
    ) -> Result<IpNet, AgentError> {
        self.reserve_in_pool(pool, wanted, gateway).await
    }
    async fn pool_became(&self, pool: &str, network: &NetworkId) -> Result<(), AgentError> {
        self.pool_became(pool, network).await
    }
    async fn release_pool(&self, pool: &str) -> Result<(), AgentError> {
        self.release_pool(pool).await
    }
}
