//! Docker's network driver protocol: networks and endpoints.
//!
//! Every call may come twice (dockerd repeats a call whose answer it did not get) and none keeps state here.

use super::{
    cluster::Cluster,
    network::{self, Request, address_of},
    plugin::{CallError, Plugin},
    wire::{
        CreateEndpoint, CreateNetwork, CreatedEndpoint, EndpointCall, EndpointInfo, Interface, InterfaceName,
        Join, Joined, NetworkCall,
    },
};
use ipnet::IpNet;
use weft_agent::{AgentError, EndpointSpec};
use weft_model::{Endpoint, EndpointId, MacAddr, Network, NetworkId, Sandbox};

/// What endpoints made by Docker are marked with.
pub(super) const ENGINE: &str = "docker";

impl<C: Cluster> Plugin<C> {
    /// A network was made on this engine: a new one of the cluster, or a copy of one.
    pub async fn create_network(&self, call: CreateNetwork) -> Result<(), CallError> {
        let engine_network = &call.network_id;
        if self.cluster.bound(engine_network).is_some() {
            return Ok(());
        }
        match network::read(&call)? {
            Request::Copy { of, subnets } => self.create_copy(engine_network, &of, &subnets).await,
            Request::New(mut spec) => {
                let mut pools = Vec::new();
                if !spec.engine_addresses {
                    for subnet in &mut spec.subnets {
                        // The call does not tell which pool it is; any that dockerd may mean has to stand for the
                        // network. What the last one says holds: the others are of a dockerd that was killed.
                        for (id, pool) in self.cluster.unused_pools(subnet.net) {
                            subnet.range = pool.subnet.range;
                            pools.push(id);
                        }
                    }
                }
                let network = self.cluster.create_network(spec, engine_network).await?;
                for pool in pools {
                    self.cluster.pool_became(&pool, &network.id).await?;
                }
                Ok(())
            }
        }
    }

    async fn create_copy(
        &self,
        engine_network: &str,
        of: &NetworkId,
        subnets: &[IpNet],
    ) -> Result<(), CallError> {
        let network = self.cluster.read(|s| s.networks.get(of).cloned());
        let network = network.ok_or_else(|| CallError::NothingToCopy(of.to_string()))?;
        let other = subnets.iter().find(|net| !network.subnets.iter().any(|s| s.net == **net));
        if let Some(net) = other {
            return Err(CallError::OtherSubnet {
                network: network.display_name().into_owned(),
                subnet: net.to_string(),
            });
        }
        Ok(self.cluster.bind(engine_network, of, true).await?)
    }

    /// A network was removed on this engine: by the operator, then it goes everywhere, or by the mirror, because
    /// it is gone. The binding stays until the mirror sees that the engine does not list the network any more.
    pub async fn delete_network(&self, call: NetworkCall) -> Result<(), CallError> {
        let Some(network) = self.cluster.bound(&call.network_id) else { return Ok(()) };
        if self.calls().is_copying(&network.id) {
            return Ok(());
        }
        match self.remove_with_forgotten(&network).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // dockerd forgets its copy whatever is answered here, and tells the operator it was removed.
                let why = format!(
                    "network {:?} was not removed, and its copy on this Docker engine is made again: {error}",
                    network.display_name()
                );
                tracing::warn!(network = &*network.display_name(), "{why}");
                self.calls().refused(network.id, why);
                Err(error.into())
            }
        }
    }

    /// Removes a network, and first what dockerd has forgotten of its own on it: it refuses to remove a network on which
    /// it knows of an endpoint, so those that are left are of a dockerd that was killed.
    async fn remove_with_forgotten(&self, network: &Network) -> Result<(), AgentError> {
        for forgotten in self.own_endpoints(&network.id, |_| true) {
            tracing::info!(
                network = &*network.display_name(),
                endpoint = forgotten.short(),
                "removing an endpoint that Docker has forgotten: it removes the network"
            );
            self.cluster.remove_endpoint(&network.id, &forgotten).await?;
        }
        self.cluster.remove_network(&network.id).await
    }

    /// The endpoints that this engine has made on a network, those that fit.
    fn own_endpoints(&self, network: &NetworkId, fits: impl Fn(&Endpoint) -> bool) -> Vec<EndpointId> {
        let node = self.cluster.node();
        self.cluster.read(|s| {
            let here = s.endpoints_on(network);
            let ours = here.filter(|e| e.node == *node && e.engine == ENGINE && fits(e));
            ours.map(|e| e.id.clone()).collect()
        })
    }

    /// A container is about to join: its endpoint's record is written, its device made.
    pub async fn create_endpoint(&self, call: CreateEndpoint) -> Result<CreatedEndpoint, CallError> {
        let network = self.network(&call.network_id)?;
        let id = endpoint_id(&call.endpoint_id)?;
        let given = &call.interface;
        let mut addresses = Vec::new();
        for text in [&given.address, &given.address_ipv6].into_iter().filter(|a| !a.is_empty()) {
            addresses.push(address_of(text).ok_or_else(|| CallError::BadAddress(text.clone()))?);
        }
        let mac = match given.mac_address.as_str() {
            "" => None,
            text => Some(text.parse::<MacAddr>()?),
        };
        self.remove_superseded(&network, &id, &addresses).await?;
        let spec = EndpointSpec {
            id,
            network: network.id,
            engine: ENGINE.to_owned(),
            container: None,
            sandbox: None,
            outside: None,
            mac,
            addresses,
            allocate: true,
        };
        let endpoint = self.cluster.create_endpoint(spec).await?;
        Ok(CreatedEndpoint { interface: missing_in(given, &endpoint) })
    }

    /// Removes endpoints of this engine that have an address which the engine now gives to another one: it has
    /// forgotten them without a word, as dockerd does when it was killed.
    async fn remove_superseded(
        &self,
        network: &Network,
        id: &EndpointId,
        addresses: &[std::net::IpAddr],
    ) -> Result<(), AgentError> {
        let same = |e: &Endpoint| e.id != *id && e.addresses().any(|a| addresses.contains(&a));
        let superseded = self.own_endpoints(&network.id, same);
        for old in superseded {
            tracing::info!(
                network = &*network.display_name(),
                endpoint = old.short(),
                "removing an endpoint that Docker has forgotten: its address is given to another"
            );
            self.cluster.remove_endpoint(&network.id, &old).await?;
        }
        Ok(())
    }

    /// A container is gone or was disconnected.
    pub async fn delete_endpoint(&self, call: EndpointCall) -> Result<(), CallError> {
        let id = endpoint_id(&call.endpoint_id)?;
        if let Some(endpoint) = self.endpoint(&id) {
            self.cluster.remove_endpoint(&endpoint.network, &id).await?;
        }
        Ok(())
    }

    /// What `docker network inspect --verbose` may want to know of an endpoint.
    pub fn endpoint_info(&self, call: &EndpointCall) -> Result<EndpointInfo, CallError> {
        let id = endpoint_id(&call.endpoint_id)?;
        let vni = self.cluster.read(|s| {
            let endpoint = s.all_endpoints().find(|e| e.id == id)?;
            Some(s.networks.get(&endpoint.network)?.vni)
        });
        let value = vni.map(|vni| (super::plugin::VNI.to_owned(), vni.to_string()));
        Ok(EndpointInfo { value: value.into_iter().collect() })
    }

    /// Docker is about to move the device into the container's namespace.
    pub async fn join(&self, call: Join) -> Result<Joined, CallError> {
        let network = self.network(&call.network_id)?;
        let id = endpoint_id(&call.endpoint_id)?;
        // Docker names the interface eth0, eth1, … and does not tell which.
        let sandbox = Sandbox { configured_by_engine: true, ..Sandbox::namespace(call.sandbox_key, "") };
        let src_name = self.cluster.join_endpoint(&network.id, &id, sandbox).await?;
        Ok(Joined { interface_name: InterfaceName { src_name, dst_prefix: "eth" } })
    }

    /// Docker has taken the device out of the container's namespace.
    pub async fn leave(&self, call: EndpointCall) -> Result<(), CallError> {
        let id = endpoint_id(&call.endpoint_id)?;
        if let Some(endpoint) = self.endpoint(&id) {
            self.cluster.leave_endpoint(&endpoint.network, &id).await?;
        }
        Ok(())
    }

    /// The network that this engine knows by that id.
    fn network(&self, engine_network: &str) -> Result<Network, CallError> {
        let network = self.cluster.bound(engine_network);
        network.ok_or_else(|| CallError::UnknownNetwork(engine_network.to_owned()))
    }

    /// An endpoint of this node. Found without its network, so that what a vanished network left can be removed.
    fn endpoint(&self, id: &EndpointId) -> Option<Endpoint> {
        let node = self.cluster.node();
        self.cluster.read(|s| {
            let found = s.endpoints.values().find_map(|endpoints| endpoints.get(id));
            found.filter(|e| e.node == *node).map(|e| Endpoint::clone(e))
        })
    }
}

fn endpoint_id(text: &str) -> Result<EndpointId, CallError> {
    text.parse().map_err(|error| CallError::Id { what: "endpoint id", error })
}

/// What the call left empty. Docker refuses an answer that sets anything else.
fn missing_in(given: &Interface, endpoint: &Endpoint) -> Interface {
    let fill = |given: &str, value: Option<String>| {
        if given.is_empty() { value.unwrap_or_default() } else { String::new() }
    };
    Interface {
        address: fill(&given.address, endpoint.ipv4.map(|a| a.to_string())),
        address_ipv6: fill(&given.address_ipv6, endpoint.ipv6.map(|a| a.to_string())),
        mac_address: fill(&given.mac_address, Some(endpoint.mac.to_string())),
    }
}
