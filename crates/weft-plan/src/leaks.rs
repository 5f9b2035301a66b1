//! Records that nobody needs any more: which, whose, since when, and why they may go.
//!
//! No host that lives leaves any behind. They come of hosts that were lost, and of errors nobody has thought of. What belongs to a
//! host that may still live, cut off from the store, is not safe to remove: its containers have these addresses.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use weft_model::{AddressClaim, ClaimKind, Endpoint, NetworkId, NodeId, Snapshot, UnixSeconds, schema};

/// A record that nobody needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// Its key in the store: see [`weft_model::schema`].
    pub key: String,
    /// What it is, in words.
    pub what: String,
    /// The node that made it.
    pub node: NodeId,
    /// That node's name, or its short id when its record has gone.
    pub node_name: String,
    /// Since when it is there, where the record tells.
    pub since: Option<UnixSeconds>,
    /// Why it is not needed.
    pub reason: String,
    /// Whether it may be removed without asking anybody.
    pub safe: bool,
    /// A key whose record would make it needed: it is removed only while that is absent.
    pub unless: Option<String>,
    /// Keys of the records that go in the same transaction: an endpoint and its claims come and go together, so that
    /// nobody else is given an address that an endpoint still has.
    #[serde(default)]
    pub with: Vec<String>,
}

/// All leaks, the safe ones first.
pub fn leaks(snapshot: &Snapshot) -> Vec<Leak> {
    let mut leaks = claims(snapshot);
    leaks.extend(endpoints(snapshot));
    leaks.extend(bindings(snapshot));
    leaks.extend(pools(snapshot));
    leaks.extend(wanted(snapshot));
    leaks.extend(groups(snapshot));
    leaks.extend(nodes(snapshot));
    leaks.sort_by(|a, b| (!a.safe, &a.node_name, &a.key).cmp(&(!b.safe, &b.node_name, &b.key)));
    leaks
}

/// A host that has left the cluster has taken its record with it; one that is dead has not.
enum Owner {
    Gone,
    /// It is not seen from here either.
    Absent,
    Dead,
    Alive,
}

fn owner(snapshot: &Snapshot, node: &NodeId) -> Owner {
    match (snapshot.nodes.contains_key(node), snapshot.alive.contains_key(node)) {
        // One that was declared dead and lives writes its record again, a moment after its lease.
        (_, true) => Owner::Alive,
        (false, false) => Owner::Gone,
        (true, false) if snapshot.absent.contains(node) => Owner::Absent,
        (true, false) => Owner::Dead,
    }
}

fn leak(snapshot: &Snapshot, node: &NodeId, key: String, what: String) -> Option<Leak> {
    let (safe, reason) = match owner(snapshot, node) {
        Owner::Gone => (true, "its node has left the cluster"),
        Owner::Absent => (false, "its node's lease has ended, and it is not seen from here"),
        Owner::Dead => (false, "its node's lease has ended; it may live on, cut off from the store"),
        Owner::Alive => return None,
    };
    Some(Leak {
        key,
        what,
        node: node.clone(),
        node_name: snapshot.node_name(node).into_owned(),
        since: None,
        reason: reason.to_owned(),
        safe,
        unless: Some(schema::alive_key(node)),
        with: Vec::new(),
    })
}

fn claims(snapshot: &Snapshot) -> Vec<Leak> {
    let all = snapshot.addresses.iter().flat_map(|(network, all)| all.iter().map(move |c| (network, c)));
    all.filter_map(|(network, (ip, claim))| {
        let key = schema::address_key(network, *ip);
        let what = format!("address {ip} of network {}", network_name(snapshot, network));
        let since = Some(claim.since);
        if let Some(reason) = unused(snapshot, network, *ip, claim) {
            let unless = claim.endpoint.as_ref().map(|id| schema::endpoint_key(network, id));
            let node_name = snapshot.node_name(&claim.node).into_owned();
            // An endpoint that is there with another address does not need this one.
            let unless = unless.filter(|_| !has_endpoint(snapshot, network, claim));
            return Some(Leak {
                key,
                what,
                node: claim.node.clone(),
                node_name,
                since,
                reason,
                safe: true,
                unless,
                with: Vec::new(),
            });
        }
        let user = claim.endpoint.as_ref().and_then(|id| snapshot.endpoint(network, id));
        let with = user.map(|endpoint| together(snapshot, endpoint, &key)).unwrap_or_default();
        leak(snapshot, &claim.node, key, what).map(|leak| Leak { since, with, ..leak })
    })
    .collect()
}

fn has_endpoint(snapshot: &Snapshot, network: &NetworkId, claim: &AddressClaim) -> bool {
    let endpoints = snapshot.endpoints.get(network);
    claim.endpoint.as_ref().is_some_and(|id| endpoints.is_some_and(|all| all.contains_key(id)))
}

/// Why nobody uses a claim, if nobody does. A claim and its endpoint come and go in one transaction.
fn unused(snapshot: &Snapshot, network: &NetworkId, ip: IpAddr, claim: &AddressClaim) -> Option<String> {
    if !snapshot.networks.contains_key(network) {
        return Some("its network has gone".to_owned());
    }
    if claim.kind != ClaimKind::Endpoint {
        return None;
    }
    let endpoint = claim.endpoint.as_ref().and_then(|id| snapshot.endpoint(network, id));
    match endpoint {
        None => Some("its endpoint has gone".to_owned()),
        Some(endpoint) if endpoint.addresses().all(|a| a != ip) => {
            Some("its endpoint has another address".to_owned())
        }
        Some(_) => None,
    }
}

fn endpoints(snapshot: &Snapshot) -> Vec<Leak> {
    let all = snapshot.all_endpoints();
    all.filter_map(|endpoint| {
        let network = network_name(snapshot, &endpoint.network);
        let what = format!("endpoint {} of network {network}", endpoint.display_name());
        let since = Some(endpoint.created);
        let key = schema::key_of_endpoint(endpoint);
        let with = together(snapshot, endpoint, &key);
        let leak = leak(snapshot, &endpoint.node, key, what)?;
        Some(Leak { since, with, ..leak })
    })
    .collect()
}

/// The keys of an endpoint and its claims, but for `key`.
fn together(snapshot: &Snapshot, endpoint: &Endpoint, key: &str) -> Vec<String> {
    let claims = snapshot.addresses.get(&endpoint.network).into_iter().flatten();
    let claims = claims.filter(|(_, claim)| claim.endpoint.as_ref() == Some(&endpoint.id));
    let claims = claims.map(|(ip, _)| schema::address_key(&endpoint.network, *ip));
    claims.chain([schema::key_of_endpoint(endpoint)]).filter(|other| other != key).collect()
}

fn bindings(snapshot: &Snapshot) -> Vec<Leak> {
    let all = snapshot.bindings.iter().flat_map(|(node, all)| all.iter().map(move |b| (node, b)));
    all.filter_map(|(node, (engine_network, binding))| {
        let what = format!("an engine's copy of network {}", network_name(snapshot, &binding.network));
        leak(snapshot, node, schema::binding_key(node, engine_network), what)
    })
    .collect()
}

fn pools(snapshot: &Snapshot) -> Vec<Leak> {
    let unused = snapshot.pools.iter().filter(|(_, pool)| pool.network.is_none());
    unused
        .filter_map(|(id, pool)| {
            let what = format!("pool {} that no network was made of", pool.subnet.net);
            leak(snapshot, &pool.node, schema::pool_key(id), what)
                .map(|leak| Leak { since: Some(pool.since), ..leak })
        })
        .collect()
}

fn wanted(snapshot: &Snapshot) -> Vec<Leak> {
    let all = snapshot.wanted.iter().flat_map(|(network, all)| all.iter().map(move |w| (network, w)));
    all.filter_map(|(network, (ip, node))| {
        let what = format!("request for address {ip} of network {}", network_name(snapshot, network));
        leak(snapshot, node, schema::wanted_key(network, *ip), what)
    })
    .collect()
}

fn groups(snapshot: &Snapshot) -> Vec<Leak> {
    let all = snapshot.groups.iter().flat_map(|(network, all)| all.keys().map(move |node| (network, node)));
    all.filter_map(|(network, node)| {
        let what = format!("the multicast groups of a node on network {}", network_name(snapshot, network));
        let found = leak(snapshot, node, schema::groups_key(network, node), what.clone());
        found.or_else(|| {
            let gone = !snapshot.networks.contains_key(network);
            gone.then(|| Leak {
                key: schema::groups_key(network, node),
                what,
                node: node.clone(),
                node_name: snapshot.node_name(node).into_owned(),
                since: None,
                reason: "its network has gone".to_owned(),
                safe: true,
                unless: Some(schema::network_key(network)),
                with: Vec::new(),
            })
        })
    })
    .collect()
}

/// The record of a node whose lease has ended: what hangs on it is listed beside.
fn nodes(snapshot: &Snapshot) -> Vec<Leak> {
    let dead = snapshot.nodes.keys().filter(|id| !snapshot.alive.contains_key(*id));
    dead.filter_map(|id| leak(snapshot, id, schema::node_key(id), "the node itself".to_owned())).collect()
}

fn network_name(snapshot: &Snapshot, id: &NetworkId) -> String {
    snapshot.networks.get(id).map_or_else(|| id.short(), |n| n.display_name().into_owned())
}
