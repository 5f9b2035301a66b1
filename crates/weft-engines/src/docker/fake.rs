//! A cluster in memory, to hold the plugin and the mirror to their word.

use super::{cluster::Cluster, plugin::Plugin, server, socket::PluginSocket};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_agent::{
    AgentError, EndpointSpec, NetworkDetails,
    api::{EngineStatus, NetworkSpec},
};
use weft_model::{
    AddressClaim, AddressDriver, Binding, ClaimKind, Container, Endpoint, EndpointId, MacAddr, Network,
    NetworkId, NetworkName, NodeId, Pool, Sandbox, Snapshot, Subnet, Vni,
};

/// A cluster of one node, in memory.
#[derive(Clone)]
pub(super) struct FakeCluster(Arc<Inner>);

struct Inner {
    node: NodeId,
    snapshot: Mutex<Snapshot>,
    changed: watch::Sender<u64>,
    status: watch::Sender<Option<EngineStatus>>,
}

impl FakeCluster {
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            node: NodeId::random(),
            snapshot: Mutex::default(),
            changed: watch::Sender::new(0),
            status: watch::Sender::new(None),
        }))
    }

    pub fn change<R>(&self, change: impl FnOnce(&mut Snapshot) -> R) -> R {
        let outcome = change(&mut self.0.snapshot.lock().unwrap());
        self.0.changed.send_modify(|n| *n += 1);
        outcome
    }

    /// A named network, as another host makes it.
    pub fn add_network(&self, name: &str, subnet: &str) -> Network {
        let spec = NetworkSpec {
            name: Some(name.parse().unwrap()),
            subnets: vec![Subnet::new(subnet.parse().unwrap())],
            ..NetworkSpec::default()
        };
        self.insert(spec, NodeId::random())
    }

    pub fn status(&self) -> watch::Receiver<Option<EngineStatus>> {
        self.0.status.subscribe()
    }

    fn insert(&self, spec: NetworkSpec, created_by: NodeId) -> Network {
        self.change(|s| {
            let vnis = u32::try_from(s.networks.len()).unwrap();
            let network = Network {
                id: NetworkId::random(),
                name: spec.name,
                vni: spec.vni.unwrap_or(Vni::new(4096 + vnis).unwrap()),
                subnets: spec.subnets,
                mtu: spec.mtu,
                internal: spec.internal,
                direct: spec.direct,
                labels: spec.labels,
                options: spec.options,
                address_driver: if spec.engine_addresses {
                    AddressDriver::Engine(created_by.clone())
                } else {
                    AddressDriver::Weft
                },
                created_by,
                created: 0,
            };
            if let Some(name) = &network.name {
                s.names.insert(name.clone(), network.id.clone());
            }
            s.networks.insert(network.id.clone(), network.clone());
            network
        })
    }
}

fn taken(ip: IpAddr) -> AgentError {
    AgentError::Invalid(format!("{ip} is taken"))
}

impl Cluster for FakeCluster {
    fn node(&self) -> &NodeId {
        &self.0.node
    }
    fn read<R>(&self, look: impl FnOnce(&Snapshot) -> R) -> R {
        look(&self.0.snapshot.lock().unwrap())
    }
    fn networks_changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
    fn set_engine_status(&self, status: EngineStatus) {
        self.0.status.send_replace(Some(status));
    }
    fn bound(&self, engine_network: &str) -> Option<Network> {
        self.read(|s| {
            let binding = s.bindings.get(&self.0.node)?.get(engine_network)?;
            s.networks.get(&binding.network).cloned()
        })
    }
    fn pool(&self, pool: &str) -> Option<Pool> {
        self.read(|s| s.pools.get(pool).cloned())
    }
    fn unused_pools(&self, net: IpNet) -> Vec<(String, Pool)> {
        self.read(|s| {
            let unused = s.pools.iter().filter(|(_, p)| p.network.is_none() && p.subnet.net == net);
            unused.map(|(id, p)| (id.clone(), p.clone())).collect()
        })
    }

    async fn create_network(&self, spec: NetworkSpec, engine_network: &str) -> Result<Network, AgentError> {
        Subnet::validate_all(&spec.subnets)?;
        let network = self.insert(spec, self.0.node.clone());
        self.bind(engine_network, &network.id, false).await?;
        Ok(network)
    }
    async fn bind(
        &self,
        engine_network: &str,
        network: &NetworkId,
        mirrored: bool,
    ) -> Result<(), AgentError> {
        let binding = Binding { network: network.clone(), mirrored };
        self.change(|s| {
            s.bindings.entry(self.0.node.clone()).or_default().insert(engine_network.to_owned(), binding)
        });
        Ok(())
    }
    async fn unbind(&self, engine_network: &str) -> Result<(), AgentError> {
        self.change(|s| s.bindings.entry(self.0.node.clone()).or_default().remove(engine_network));
        Ok(())
    }
    async fn name_network(
        &self,
        network: &NetworkId,
        name: NetworkName,
        details: NetworkDetails,
    ) -> Result<(), AgentError> {
        self.change(|s| {
            if s.names.get(&name).is_some_and(|holder| holder != network) {
                let holder = "another".to_owned();
                return Err(AgentError::NameTaken { name: name.to_string(), holder });
            }
            s.names.insert(name.clone(), network.clone());
            let record = s.networks.get_mut(network).unwrap();
            record.name = Some(name);
            record.labels = details.labels;
            Ok(())
        })
    }
    async fn remove_network(&self, network: &NetworkId) -> Result<(), AgentError> {
        self.change(|s| {
            let count = s.endpoints.get(network).map_or(0, BTreeMap::len);
            if count > 0 {
                let (network, list) = (network.short(), "web (10.9.0.2) on node h2".to_owned());
                return Err(AgentError::NetworkInUse { network, count, list });
            }
            s.networks.remove(network);
            s.names.retain(|_, id| id != network);
            Ok(())
        })
    }
    async fn create_endpoint(&self, spec: EndpointSpec) -> Result<Endpoint, AgentError> {
        let free = |s: &Snapshot, ip: &IpAddr| s.endpoint_at(&spec.network, *ip).is_none();
        self.change(|s| {
            let network = s.networks[&spec.network].clone();
            let mut addresses = spec.addresses.clone();
            if let Some(ip) = addresses.iter().find(|ip| !free(s, ip)) {
                return Err(taken(*ip));
            }
            for subnet in network.subnets.iter().filter(|_| spec.allocate) {
                if !addresses.iter().any(|a| subnet.net.contains(a)) {
                    let mut hosts = subnet.net.hosts().skip(1);
                    addresses.push(hosts.find(|ip| free(s, ip)).unwrap());
                }
            }
            let with_prefix = |ip: &IpAddr| IpNet::new(*ip, network.subnet_of(*ip)?.net.prefix_len()).ok();
            let nets: Vec<IpNet> = addresses.iter().filter_map(with_prefix).collect();
            let endpoint = Endpoint {
                id: spec.id.clone(),
                network: spec.network.clone(),
                node: self.0.node.clone(),
                engine: spec.engine.clone(),
                container: None,
                sandbox: None,
                outside: None,
                mac: spec.mac.unwrap_or_else(|| MacAddr::for_address(addresses[0])),
                ipv4: nets.iter().find_map(|n| if let IpNet::V4(n) = n { Some(*n) } else { None }),
                ipv6: nets.iter().find_map(|n| if let IpNet::V6(n) = n { Some(*n) } else { None }),
                epoch: 1,
                created: 0,
            };
            for ip in addresses {
                let (node, since) = (self.0.node.clone(), 0);
                let claims = s.addresses.entry(spec.network.clone()).or_default();
                let kind = claims.get(&ip).map_or(ClaimKind::Endpoint, |c| c.kind);
                claims.insert(ip, AddressClaim { kind, node, endpoint: Some(spec.id.clone()), since });
            }
            s.endpoints
                .entry(spec.network.clone())
                .or_default()
                .insert(spec.id.clone(), endpoint.clone().into());
            Ok(endpoint)
        })
    }
    async fn join_endpoint(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        sandbox: Sandbox,
    ) -> Result<String, AgentError> {
        self.change(|s| {
            let record = s.endpoints.get_mut(network).and_then(|e| e.get_mut(endpoint));
            record.map(|e| Arc::make_mut(e).sandbox = Some(sandbox))
        })
        .ok_or_else(|| AgentError::NoSuchEndpoint(endpoint.to_string()))?;
        Ok(format!("weftc{}", endpoint.first(10)))
    }
    async fn leave_endpoint(&self, network: &NetworkId, endpoint: &EndpointId) -> Result<(), AgentError> {
        self.change(|s| {
            let record = s.endpoints.get_mut(network).and_then(|e| e.get_mut(endpoint));
            record.map(|e| Arc::make_mut(e).sandbox = None)
        });
        Ok(())
    }
    async fn set_container(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        container: Container,
    ) -> Result<(), AgentError> {
        self.change(|s| {
            let record = s.endpoints.get_mut(network).and_then(|e| e.get_mut(endpoint));
            record.map(|e| Arc::make_mut(e).container = Some(container))
        });
        Ok(())
    }
    async fn remove_endpoint(&self, network: &NetworkId, endpoint: &EndpointId) -> Result<(), AgentError> {
        self.change(|s| {
            s.endpoints.entry(network.clone()).or_default().remove(endpoint);
            let claims = s.addresses.entry(network.clone()).or_default();
            let of_it = |c: &AddressClaim| c.endpoint.as_ref() == Some(endpoint);
            claims.retain(|_, c| !(of_it(c) && c.kind == ClaimKind::Endpoint));
            claims.values_mut().filter(|c| of_it(c)).for_each(|c| c.endpoint = None);
        });
        Ok(())
    }
    async fn claim_address(
        &self,
        network: &NetworkId,
        subnet: IpNet,
        wanted: Option<IpAddr>,
    ) -> Result<IpNet, AgentError> {
        self.change(|s| {
            let record = s.networks[network].subnets.iter().find(|s| s.net == subnet).unwrap();
            let claims = s.addresses.entry(network.clone()).or_default();
            let free = |ip: &IpAddr| !claims.contains_key(ip) && record.withheld(*ip).is_none();
            let ip = match wanted {
                Some(ip) if !free(&ip) => return Err(taken(ip)),
                Some(ip) => ip,
                None => subnet.hosts().find(free).unwrap(),
            };
            let node = self.0.node.clone();
            claims.insert(ip, AddressClaim { kind: ClaimKind::Ipam, node, endpoint: None, since: 0 });
            Ok(IpNet::new(ip, subnet.prefix_len()).unwrap())
        })
    }
    async fn release_address(&self, network: &NetworkId, ip: IpAddr) -> Result<(), AgentError> {
        self.change(|s| s.addresses.entry(network.clone()).or_default().remove(&ip));
        Ok(())
    }
    async fn create_pool(
        &self,
        net: Option<IpNet>,
        range: Option<IpNet>,
        _v6: bool,
    ) -> Result<(String, Pool), AgentError> {
        let net = net.unwrap_or("10.77.0.0/24".parse().unwrap());
        let subnet = Subnet { gateway: None, range, ..Subnet::new(net) };
        let pool = Pool { subnet, node: self.0.node.clone(), network: None, since: 0 };
        let id = NetworkId::random().to_string();
        self.change(|s| s.pools.insert(id.clone(), pool.clone()));
        Ok((id, pool))
    }
    async fn reserve_in_pool(
        &self,
        pool: &str,
        wanted: Option<IpAddr>,
        _gateway: bool,
    ) -> Result<IpNet, AgentError> {
        let net = self.pool(pool).unwrap().subnet.net;
        Ok(IpNet::new(wanted.unwrap_or(Subnet::first_host(net)), net.prefix_len()).unwrap())
    }
    async fn pool_became(&self, pool: &str, network: &NetworkId) -> Result<(), AgentError> {
        self.change(|s| s.pools.get_mut(pool).unwrap().network = Some(network.clone()));
        Ok(())
    }
    async fn release_pool(&self, pool: &str) -> Result<(), AgentError> {
        self.change(|s| s.pools.remove(pool));
        Ok(())
    }
}

/// A plugin that is served; ends with the value.
pub(super) struct Served {
    pub plugin: Arc<Plugin<FakeCluster>>,
    pub socket: PathBuf,
    shutdown: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(super) fn serve(cluster: &FakeCluster) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("weft.sock");
    let (plugin, shutdown) = (Arc::new(Plugin::new(cluster.clone())), CancellationToken::new());
    let bound = PluginSocket::bind(&socket).unwrap();
    tokio::spawn(server::serve(bound, Arc::clone(&plugin), shutdown.clone(), Duration::ZERO));
    Served { plugin, socket, shutdown, _folder: folder }
}
