//! What dockerd says to the plugin and what its API answers, for `weft-fuzz` alone. Each function panics when what it is
//! about does not hold.

#![allow(clippy::expect_used, clippy::missing_panics_doc)] // A panic is how a fuzzer is told.

use super::{
    cluster::{Answer, Cluster},
    compare::{Action, compare},
    engine, mirror,
    plugin::Plugin,
    server,
};
use axum::body::to_bytes;
use bollard::models::{EventMessage, Network as ListedNetwork};
use futures::FutureExt as _;
use ipnet::IpNet;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    net::IpAddr,
    sync::LazyLock,
};
use tokio::sync::watch;
use weft_agent::{
    AgentError, EndpointSpec, NetworkDetails,
    api::{EngineStatus, NetworkSpec},
};
use weft_model::{
    AddressDriver, Binding, Container, Endpoint, EndpointId, MacAddr, Network, NetworkId, NetworkName,
    NodeId, Pool, Sandbox, Snapshot, Subnet,
};

/// What the cluster holds whatever is said: a network that is bound as `n`, an endpoint `eeeeeeeeeeee` on it, and the pools
/// `p` (its network is yet to be made) and `q` (its network is the one there is).
static CLUSTER: LazyLock<Snapshot> = LazyLock::new(|| {
    let node = this_node();
    let network = Network {
        id: id("bbbbbbbbbbbb"),
        name: None,
        vni: "5000".parse().expect("a VNI"),
        subnets: ["10.9.0.0/24", "fd00:9::/64"].map(|net| Subnet::new(net.parse().expect("a subnet"))).into(),
        mtu: None,
        internal: false,
        direct: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        address_driver: AddressDriver::Weft,
        created_by: node.clone(),
        created: 0,
    };
    let pool = |network| Pool {
        subnet: Subnet::new("10.8.0.0/24".parse().expect("a subnet")),
        node: this_node(),
        network,
        since: 0,
    };
    let there = endpoint(id("eeeeeeeeeeee"), network.id.clone(), None, &[[10, 9, 0, 2].into()]);
    let mut snapshot = Snapshot::default();
    snapshot.pools.insert("p".to_owned(), pool(None));
    let of_network = Pool { subnet: network.subnets[0].clone(), ..pool(Some(network.id.clone())) };
    snapshot.pools.insert("q".to_owned(), of_network);
    let binding = Binding { network: network.id.clone(), mirrored: false };
    snapshot.bindings.entry(node).or_default().insert("n".to_owned(), binding);
    snapshot.endpoints.entry(network.id.clone()).or_default().insert(there.id.clone(), there.into());
    snapshot.networks.insert(network.id.clone(), network);
    snapshot
});

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("an id")
}

fn this_node() -> NodeId {
    id("aaaaaaaaaaaa")
}

fn endpoint(id: EndpointId, network: NetworkId, mac: Option<MacAddr>, addresses: &[IpAddr]) -> Endpoint {
    let net = |ip: &IpAddr| IpNet::from(*ip);
    let nets: Vec<IpNet> = addresses.iter().map(net).collect();
    Endpoint {
        id,
        network,
        node: this_node(),
        engine: super::driver::ENGINE.to_owned(),
        container: None,
        sandbox: None,
        outside: None,
        mac: mac.unwrap_or(MacAddr([2, 0x42, 10, 9, 0, 9])),
        ipv4: nets.iter().find_map(|n| if let IpNet::V4(n) = n { Some(*n) } else { None }),
        ipv6: nets.iter().find_map(|n| if let IpNet::V6(n) = n { Some(*n) } else { None }),
        epoch: 1,
        created: 0,
    }
}

/// A cluster that agrees to all it may and changes nothing.
#[derive(Clone)]
struct Agreeing(NodeId);

fn agreed<T: Send>(value: T) -> impl Answer<T> {
    ready(Ok(value))
}

impl Cluster for Agreeing {
    fn node(&self) -> &NodeId {
        &self.0
    }
    fn read<R>(&self, look: impl FnOnce(&Snapshot) -> R) -> R {
        look(&CLUSTER)
    }
    fn networks_changed(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
    fn set_engine_status(&self, _: EngineStatus) {}
    fn bound(&self, engine_network: &str) -> Option<Network> {
        let binding = CLUSTER.bindings.get(&self.0)?.get(engine_network)?;
        CLUSTER.networks.get(&binding.network).cloned()
    }
    fn pool(&self, pool: &str) -> Option<Pool> {
        CLUSTER.pools.get(pool).cloned()
    }
    fn unused_pools(&self, net: IpNet) -> Vec<(String, Pool)> {
        let pool = self.pool("p").filter(|pool| pool.subnet.net == net);
        pool.map(|pool| ("p".to_owned(), pool)).into_iter().collect()
    }
    /// As the agent does: subnets that are none are refused.
    fn create_network(&self, spec: NetworkSpec, _: &str) -> impl Answer<Network> {
        let network = CLUSTER.networks.values().next().cloned().expect("there is one");
        let checked = Subnet::validate_all(&spec.subnets).map_err(AgentError::from);
        ready(checked.map(|()| Network { subnets: spec.subnets, options: spec.options, ..network }))
    }
    fn bind(&self, _: &str, _: &NetworkId, _: bool) -> impl Answer<()> {
        agreed(())
    }
    fn unbind(&self, _: &str) -> impl Answer<()> {
        agreed(())
    }
    fn name_network(&self, _: &NetworkId, _: NetworkName, _: NetworkDetails) -> impl Answer<()> {
        agreed(())
    }
    fn remove_network(&self, network: &NetworkId) -> impl Answer<()> {
        let (network, list) = (network.short(), "web on node h2".to_owned());
        ready(Err(AgentError::NetworkInUse { network, count: 1, list }))
    }
    fn create_endpoint(&self, spec: EndpointSpec) -> impl Answer<Endpoint> {
        agreed(endpoint(spec.id, spec.network, spec.mac, &spec.addresses))
    }
    fn join_endpoint(&self, _: &NetworkId, _: &EndpointId, sandbox: Sandbox) -> impl Answer<String> {
        agreed(sandbox.path)
    }
    fn leave_endpoint(&self, _: &NetworkId, _: &EndpointId) -> impl Answer<()> {
        agreed(())
    }
    fn set_container(&self, _: &NetworkId, _: &EndpointId, _: Container) -> impl Answer<()> {
        agreed(())
    }
    fn remove_endpoint(&self, _: &NetworkId, _: &EndpointId) -> impl Answer<()> {
        agreed(())
    }
    fn claim_address(&self, _: &NetworkId, subnet: IpNet, wanted: Option<IpAddr>) -> impl Answer<IpNet> {
        agreed(wanted.map_or(subnet, IpNet::from))
    }
    fn release_address(&self, _: &NetworkId, _: IpAddr) -> impl Answer<()> {
        agreed(())
    }
    fn create_pool(&self, net: Option<IpNet>, range: Option<IpNet>, _: bool) -> impl Answer<(String, Pool)> {
        let mut pool = self.pool("p").expect("there is one");
        pool.subnet = Subnet { range, ..Subnet::new(net.unwrap_or(pool.subnet.net)) };
        let checked = pool.subnet.validate().map_err(AgentError::from);
        ready(checked.map(|()| ("p".to_owned(), pool)))
    }
    fn reserve_in_pool(&self, _: &str, wanted: Option<IpAddr>, _: bool) -> impl Answer<IpNet> {
        agreed(IpNet::from(wanted.unwrap_or([10, 8, 0, 1].into())))
    }
    fn pool_became(&self, _: &str, _: &NetworkId) -> impl Answer<()> {
        agreed(())
    }
    fn release_pool(&self, _: &str) -> impl Answer<()> {
        agreed(())
    }
}

/// The plugin's answer to a request to `path` with this body: status and JSON. An error says something, and only a call
/// that does not exist has another status than 200.
pub fn plugin_call(path: &str, body: &[u8]) -> (u16, Value) {
    let plugin = Plugin::new(Agreeing(this_node()));
    let answer = async {
        let response = server::respond(&plugin, path.trim_start_matches('/'), body).await;
        let status = response.status().as_u16();
        (status, to_bytes(response.into_body(), usize::MAX).await.expect("a whole body"))
    };
    let (status, body) = answer.now_or_never().expect("nothing to wait for");
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    assert!(matches!(status, 200 | 404), "{status}: {answer}");
    for error in ["Err", "Error"].into_iter().filter_map(|field| answer.get(field)) {
        assert!(error.as_str().is_some_and(|message| !message.is_empty()), "{answer}");
    }
    assert!(plugin.calls().idle());
    (status, answer)
}

/// dockerd's list of networks: what the mirror would do about it. Nothing is removed but what is marked as weft's.
pub fn listed_networks(json: &[u8]) -> Option<usize> {
    let listed: Vec<ListedNetwork> = serde_json::from_slice(json).ok()?;
    let networks: Vec<_> = listed.into_iter().map(engine::listed).collect();
    let bindings = CLUSTER.bindings.get(&this_node()).cloned().unwrap_or_default();
    let vanished: BTreeSet<String> = ["n".to_owned()].into();
    let actions = compare(&CLUSTER.networks, &bindings, &networks, &vanished, "weft");
    for action in &actions {
        if let Action::Remove { engine_network, .. } = action {
            let removed = networks.iter().filter(|n| n.id == *engine_network);
            assert!(removed.clone().count() > 0 && removed.clone().any(|n| n.driver == "weft"), "{action:?}");
        }
    }
    Some(actions.len())
}

/// One of dockerd's events: whether the mirror looks at anything because of it.
pub fn event(json: &[u8]) -> Option<bool> {
    let event: EventMessage = serde_json::from_slice(json).ok()?;
    Some(mirror::heeds(event))
}
