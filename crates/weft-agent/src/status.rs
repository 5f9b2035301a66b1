//! What the daemon tells of itself and of the cluster: the API's views.

use crate::{
    Agent, AgentError,
    api::{EndpointView, NetworkView, NodeView, Statistics, Status, StoreStatus, Traffic},
    view::Link,
};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr, sync::PoisonError};
use weft_kernel::{Counter, resolver};
use weft_model::{Endpoint, Network, Node, NodeId, Snapshot};
use weft_plan::{NotDirect, direct_between};
use weft_store::{JoinToken, StoreError, StoreUrl};

/// How many failures `weft status` names.
const SHOWN: usize = 10;

impl Agent {
    /// How the daemon is.
    pub fn status(&self) -> Status {
        let link = self.0.view.link().borrow().clone();
        let reconciled = self.0.reconciled.borrow().clone();
        let engines =
            self.0.engines.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let mut problems: Vec<String> =
            reconciled.blind.iter().map(|e| format!("the kernel cannot be read: {e}")).collect();
        problems.extend(reconciled.failures.iter().take(SHOWN).map(|(key, e)| format!("{key}: {e}")));
        if reconciled.failures.len() > SHOWN {
            problems.push(format!("and {} more kernel objects", reconciled.failures.len() - SHOWN));
        }
        if let Link::Down(error) = &link {
            problems.push(format!(
                "{error}; what was known stays in place, containers start with the addresses reserved for this host, \
                 nothing else can be made"
            ));
        }
        if let Some(moved) = &*self.0.outbox.marks().borrow() {
            let closed = StoreError::Moved { store: self.0.store.address(), moved: moved.clone() };
            problems.push(format!("{closed}; this daemon waits until it can go on there"));
        }
        let (untold, refused) = (self.0.outbox.untold(), self.0.outbox.refused());
        if untold > 0 {
            problems.push(format!("{untold} changes were made without the store and wait to be told to it"));
        }
        if refused > 0 {
            problems.push(format!(
                "the store has refused {refused} changes that were made without it: the log names them"
            ));
        }
        problems.extend(self.0.troubles.told());
        self.read(|s| {
            problems.extend(self.unreachable_peers(s));
            problems.extend(displaced_nodes(s));
            let this = self.0.view.this();
            Status {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                node: self.node_view(s, &this, s.all_endpoints().filter(|e| e.node == this.id).count()),
                store: StoreStatus {
                    address: self.0.store.address(),
                    connected: link == Link::Up,
                    error: if let Link::Down(error) = link { Some(error) } else { None },
                    revision: s.revision,
                    applied: reconciled.revision,
                    join_token_file: (self.0.options.cluster_store == StoreUrl::Local)
                        .then(|| self.0.options.state_dir.join(JoinToken::FILE).display().to_string()),
                },
                vni_range: self.0.options.vni_range.to_string(),
                networks: s.networks.len(),
                nodes: s.nodes.len(),
                nodes_alive: s.nodes.keys().filter(|id| s.alive.contains_key(*id)).count(),
                endpoints: s.endpoints.values().map(BTreeMap::len).sum(),
                datapath: self.0.datapath.clone(),
                multicast: self.multicast(),
                drops: BTreeMap::new(),
                kernel_objects: reconciled.objects,
                problems,
                drift_repaired: reconciled.drift,
                engines,
            }
        })
    }

    /// What this host's programs have carried; `None` where frames take the kernel's path, which does not count so.
    pub async fn statistics(&self) -> Result<Option<Statistics>, AgentError> {
        let Some(counters) = self.0.kernel.counters().await? else { return Ok(None) };
        let own = self.0.view.vtep();
        Ok(Some(self.read(|s| {
            let local = s.all_endpoints().filter(|e| e.node == self.0.node);
            let endpoints = local.filter_map(|e| {
                let counter = counters.ports.get(&weft_plan::port_name(&e.id))?;
                Some((e.id.clone(), traffic(counter)))
            });
            let nodes = s.nodes.values().filter_map(|n| {
                let counter = counters.peers.get(&n.vtep_like(own?)?)?;
                Some((n.id.clone(), traffic(counter)))
            });
            Statistics {
                endpoints: endpoints.collect(),
                nodes: nodes.collect(),
                drops: counters.drops.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect(),
            }
        })))
    }

    /// Peers that frames cannot be sent to, with the reason.
    fn unreachable_peers(&self, snapshot: &Snapshot) -> Vec<String> {
        let this = self.0.view.this();
        let Some(&vtep) = this.vteps.first() else { return vec!["this host has no VTEP address".to_owned()] };
        let others = snapshot.nodes.values().filter(|n| n.id != this.id);
        others
            .filter_map(|peer| {
                if peer.vxlan_port != this.vxlan_port {
                    let (theirs, ours) = (peer.vxlan_port, this.vxlan_port);
                    return Some(format!(
                        "node {} uses UDP port {theirs}, this one {ours}: they must agree",
                        peer.name
                    ));
                }
                if peer.vtep_like(vtep).is_none() {
                    let family = if vtep.is_ipv4() { "IPv4" } else { "IPv6" };
                    return Some(format!(
                        "node {} has no {family} VTEP address, this one uses {vtep}",
                        peer.name
                    ));
                }
                None
            })
            .collect()
    }

    /// All networks, by name.
    pub async fn networks(&self) -> Vec<NetworkView> {
        let all = self.everything().await;
        let mut views: Vec<_> = all.networks.values().map(|n| self.network_view(&all, n)).collect();
        views.sort_by(|a, b| a.network.display_name().cmp(&b.network.display_name()));
        views
    }

    pub(crate) fn network_view(&self, snapshot: &Snapshot, network: &Network) -> NetworkView {
        let endpoints = snapshot.endpoints_on(&network.id);
        let vtep = self.0.view.vtep();
        NetworkView {
            effective_mtu: vtep
                .and_then(|vtep| weft_plan::network_mtu(network, snapshot.nodes.values(), vtep)),
            endpoints: sorted(endpoints.map(|e| self.endpoint_view(snapshot, e)).collect()),
            network: network.clone(),
        }
    }

    /// All endpoints, by network and address.
    pub async fn endpoints(&self) -> Vec<EndpointView> {
        let all = self.everything().await;
        sorted(all.all_endpoints().map(|e| self.endpoint_view(&all, e)).collect())
    }

    pub(crate) fn endpoint_view(&self, snapshot: &Snapshot, endpoint: &Endpoint) -> EndpointView {
        let network = snapshot.networks.get(&endpoint.network);
        let node = snapshot.nodes.get(&endpoint.node);
        let vtep = self.0.view.vtep();
        let addresses = endpoint.ipv4.map(IpNet::V4).into_iter().chain(endpoint.ipv6.map(IpNet::V6));
        EndpointView {
            id: endpoint.id.clone(),
            network: endpoint.network.clone(),
            network_name: network
                .map_or_else(|| endpoint.network.short(), |network| network.display_name().into_owned()),
            node: endpoint.node.clone(),
            node_name: snapshot.node_name(&endpoint.node).into_owned(),
            vtep: vtep.and_then(|vtep| node?.vtep_like(vtep)),
            engine: endpoint.engine.clone(),
            container: endpoint.container.clone(),
            mac: endpoint.mac,
            addresses: addresses.collect(),
            sandbox: endpoint.sandbox.as_ref().filter(|s| !s.is_host()).map(|s| s.path.clone()),
            interface: endpoint.sandbox.as_ref().map(|s| s.interface.clone()).filter(|i| !i.is_empty()),
            outside: endpoint.outside.clone(),
            name_server: self.0.options.dns_domain.as_ref().map(|_| resolver::SERVER.ip()),
            created: endpoint.created,
        }
    }

    /// All nodes, by name.
    pub async fn nodes(&self) -> Vec<NodeView> {
        let all = self.everything().await;
        let mut endpoints: BTreeMap<&NodeId, usize> = BTreeMap::new();
        for endpoint in all.all_endpoints() {
            *endpoints.entry(&endpoint.node).or_default() += 1;
        }
        let count = |n: &Node| endpoints.get(&n.id).copied().unwrap_or(0);
        let mut views: Vec<_> = all.nodes.values().map(|n| self.node_view(&all, n, count(n))).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.id.cmp(&b.id)));
        views
    }

    fn node_view(&self, snapshot: &Snapshot, node: &Node, endpoints: usize) -> NodeView {
        let this = self.0.view.this();
        let direct = if node.id == this.id {
            this.direct.as_ref().map(drop).ok_or(NotDirect::NotHere)
        } else {
            direct_between(&this, node)
        };
        NodeView {
            id: node.id.clone(),
            name: node.name.clone(),
            this: node.id == self.0.node,
            alive: snapshot.alive.contains_key(&node.id),
            absent: snapshot.absent.contains(&node.id),
            vteps: node.vteps.clone(),
            vxlan_port: node.vxlan_port,
            underlay_mtu: node.underlay_mtu,
            advertise: node.advertise,
            version: node.version.clone(),
            endpoints,
            started: node.started,
            direct: direct.is_ok(),
            not_direct: direct.err().map(|reason| reason.to_string()),
        }
    }
}

/// Nodes whose VTEP address is another node's by now, with what to do about it.
fn displaced_nodes(snapshot: &Snapshot) -> Vec<String> {
    let name = |id: &NodeId| format!("{} ({})", snapshot.node_name(id), id.short());
    let told = |((vtep, loser), owner): ((IpAddr, NodeId), NodeId)| {
        let way_out = if snapshot.alive.contains_key(&loser) {
            "both live: one of them needs another address".to_owned()
        } else {
            format!(
                "if that host was installed anew or is gone, `weft gc --dead-node {}` frees what it held",
                loser.short()
            )
        };
        format!(
            "the VTEP address {vtep} of node {} is that of node {}: no frames are sent to the former; {way_out}",
            name(&loser),
            name(&owner)
        )
    };
    weft_plan::displaced(snapshot).into_iter().map(told).collect()
}

fn traffic(counter: &Counter) -> Traffic {
    let Counter { tx_packets, tx_bytes, rx_packets, rx_bytes } = *counter;
    Traffic { tx_packets, tx_bytes, rx_packets, rx_bytes }
}

fn sorted(mut endpoints: Vec<EndpointView>) -> Vec<EndpointView> {
    endpoints.sort_by(|a, b| {
        let key =
            |e: &EndpointView| (e.network_name.clone(), e.addresses.first().map(IpNet::addr), e.id.clone());
        key(a).cmp(&key(b))
    });
    endpoints
}
