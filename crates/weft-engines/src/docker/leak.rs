//! What dockerd left behind when it was killed.
//!
//! dockerd tells the plugin of every endpoint it ends, but not when it dies. What it does not list any more is
//! suspect; what stays suspect over [`GRACE`], in every look meanwhile, is a leak and is removed. The grace is
//! there because dockerd lists an endpoint only some time after it made it; on top of it, nothing is suspected
//! while any call of dockerd's is under way (see [`super::plugin::Calls::idle`]).

use super::driver::ENGINE;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};
use weft_model::{ClaimKind, EndpointId, NetworkId, NodeId, Snapshot};

/// How long something has to be suspect. dockerd writes an endpoint to its own database within milliseconds after
/// the plugin has made it.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// Something that only a dockerd which knows it would ever remove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leak {
    /// An endpoint that dockerd does not know.
    Endpoint(NetworkId, EndpointId),
    /// An address that dockerd's IPAM call took and that no endpoint uses.
    Address(NetworkId, IpAddr),
    /// A network that was being made: it has no name, and dockerd does not list it.
    Network(NetworkId),
    /// A subnet that dockerd's IPAM call took for a network that was not made.
    Pool(String),
}

/// What dockerd knows, as far as it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The ids of its networks.
    pub networks: BTreeSet<String>,
    /// The ids of its endpoints on weft's networks.
    pub endpoints: BTreeSet<String>,
}

/// What of this node's records dockerd does not know.
pub(super) fn suspects(snapshot: &Snapshot, node: &NodeId, known: &Known) -> BTreeSet<Leak> {
    let mut suspects = BTreeSet::new();
    let ours = snapshot.all_endpoints().filter(|e| e.node == *node && e.engine == ENGINE);
    for endpoint in ours.filter(|e| !known.endpoints.contains(&e.id.to_string())) {
        suspects.insert(Leak::Endpoint(endpoint.network.clone(), endpoint.id.clone()));
    }
    for (network, claims) in &snapshot.addresses {
        let endpoints = snapshot.endpoints.get(network);
        for (ip, claim) in claims.iter().filter(|(_, c)| c.node == *node && c.kind == ClaimKind::Ipam) {
            let user = claim.endpoint.as_ref().and_then(|id| endpoints?.get(id));
            if user.is_none() {
                suspects.insert(Leak::Address(network.clone(), *ip));
            }
        }
    }
    let bindings = snapshot.bindings.get(node);
    let listed: BTreeSet<&NetworkId> = bindings
        .into_iter()
        .flatten()
        .filter(|(engine_network, _)| known.networks.contains(*engine_network))
        .map(|(_, binding)| &binding.network)
        .collect();
    // Only what an engine makes has no name at first, and only dockerd makes such networks on this node.
    let nameless = snapshot.networks.values().filter(|n| n.name.is_none() && n.created_by == *node);
    suspects.extend(nameless.filter(|n| !listed.contains(&n.id)).map(|n| Leak::Network(n.id.clone())));
    let unused = snapshot.pools.iter().filter(|(_, p)| p.node == *node && p.network.is_none());
    suspects.extend(unused.map(|(id, _)| Leak::Pool(id.clone())));
    suspects
}

/// Remembers since when something is suspect.
#[derive(Debug, Default)]
pub(super) struct Suspicions(BTreeMap<Leak, Instant>);

impl Suspicions {
    /// A look at `now` found these. Returns those that were found in every look for [`GRACE`].
    pub fn look(&mut self, now: Instant, suspects: BTreeSet<Leak>) -> Vec<Leak> {
        let before = std::mem::take(&mut self.0);
        self.0 = suspects
            .into_iter()
            .map(|leak| {
                let since = before.get(&leak).copied().unwrap_or(now);
                (leak, since)
            })
            .collect();
        let leaks = self.0.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= GRACE);
        leaks.map(|(leak, _)| leak.clone()).collect()
    }

    /// Forgets all of them: nothing can be said at the moment.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether there is nothing to look at again soon.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::{AddressClaim, Endpoint, MacAddr, Pool, Subnet};

    fn endpoint(network: &NetworkId, node: &NodeId, engine: &str) -> Endpoint {
        Endpoint {
            id: EndpointId::random(),
            network: network.clone(),
            node: node.clone(),
            engine: engine.to_owned(),
            container: None,
            sandbox: None,
            outside: None,
            mac: MacAddr::for_device(1),
            ipv4: Some("10.9.0.2/24".parse().unwrap()),
            ipv6: None,
            epoch: 1,
            created: 0,
        }
    }

    fn with_endpoints(endpoints: &[&Endpoint]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for e in endpoints {
            let on = snapshot.endpoints.entry(e.network.clone()).or_default();
            on.insert(e.id.clone(), (*e).clone().into());
        }
        snapshot
    }

    #[test]
    fn only_dockers_endpoints_of_this_node_are_suspect_and_only_unknown_ones() {
        let (node, network) = (NodeId::random(), NetworkId::random());
        let known_one = endpoint(&network, &node, "docker");
        let unknown = endpoint(&network, &node, "docker");
        let attached = endpoint(&network, &node, "netns");
        let elsewhere = endpoint(&network, &NodeId::random(), "docker");
        let snapshot = with_endpoints(&[&known_one, &unknown, &attached, &elsewhere]);
        let known =
            Known { endpoints: BTreeSet::from([known_one.id.to_string()]), networks: BTreeSet::new() };
        let found = suspects(&snapshot, &node, &known);
        assert_eq!(found, BTreeSet::from([Leak::Endpoint(network, unknown.id)]));
    }

    #[test]
    fn an_address_without_a_user_and_a_pool_without_a_network_are_suspect() {
        let (node, network) = (NodeId::random(), NetworkId::random());
        let user = endpoint(&network, &node, "docker");
        let mut snapshot = with_endpoints(&[&user]);
        let claim = |kind, endpoint| AddressClaim { kind, node: node.clone(), endpoint, since: 0 };
        let claims = snapshot.addresses.entry(network.clone()).or_default();
        claims.insert("10.9.0.2".parse().unwrap(), claim(ClaimKind::Ipam, Some(user.id.clone())));
        claims.insert("10.9.0.3".parse().unwrap(), claim(ClaimKind::Ipam, None));
        claims.insert("10.9.0.4".parse().unwrap(), claim(ClaimKind::Endpoint, None));
        let subnet = Subnet::new("10.8.0.0/24".parse().unwrap());
        snapshot.pools.insert("p".to_owned(), Pool { subnet, node: node.clone(), network: None, since: 0 });
        let known = Known { endpoints: BTreeSet::from([user.id.to_string()]), networks: BTreeSet::new() };
        assert_eq!(
            suspects(&snapshot, &node, &known),
            BTreeSet::from([Leak::Address(network, "10.9.0.3".parse().unwrap()), Leak::Pool("p".to_owned())])
        );
    }

    #[test]
    fn a_suspect_is_a_leak_only_after_the_grace_and_never_after_an_alibi() {
        let leak = Leak::Pool("p".to_owned());
        let found = || BTreeSet::from([leak.clone()]);
        let mut suspicions = Suspicions::default();
        let start = Instant::now();
        assert!(suspicions.look(start, found()).is_empty());
        assert!(suspicions.look(start + GRACE / 2, found()).is_empty());
        assert_eq!(suspicions.look(start + GRACE, found()), std::slice::from_ref(&leak));

        suspicions.look(start + GRACE, BTreeSet::new());
        assert!(suspicions.is_empty());
        assert!(suspicions.look(start + GRACE * 2, found()).is_empty(), "the grace begins again");
    }
}
