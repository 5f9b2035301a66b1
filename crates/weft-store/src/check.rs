//! Whether the records of a store can be read and fit together: each finding says what is wrong and what to do.

use crate::Listing;
use serde::Serialize;
use std::collections::BTreeSet;
use weft_model::{ClaimKind, Endpoint, NetworkId, NodeId, Snapshot, schema};

/// Something that should not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The record's key.
    pub key: String,
    /// What is wrong with it.
    pub wrong: String,
    /// What to do about it.
    pub advice: &'static str,
}

const BY_GC: &str = "`weft gc` removes it if nobody needs it";
const BY_RESTORE: &str = "no daemon mends it: remove the network and make it again, or restore a backup";
const BY_HAND: &str = "it is ignored: remove it by hand with the store's own tools, or restore a backup";
const BY_RESTART: &str = "recreate the container, or restore a backup";

/// Looks at all records of a store, those below [`schema::ALL`]. In the order of the keys.
pub fn check(listing: &Listing) -> Vec<Finding> {
    let records = listing.records.iter().map(|record| (record.key.clone(), record.value.clone()));
    let (snapshot, bad) = Snapshot::from_records(listing.revision, records);
    let mut findings: Vec<_> = bad
        .into_iter()
        .map(|record| Finding {
            key: record.key,
            wrong: format!("it cannot be read: {}", record.reason),
            advice: BY_HAND,
        })
        .collect();
    findings.extend(strangers(listing));
    let check = Check { snapshot: &snapshot };
    findings.extend(check.networks());
    findings.extend(check.endpoints());
    findings.extend(check.addresses());
    findings.extend(check.nodes());
    findings.sort();
    findings
}

/// Records of no kind that this weft knows, and a layout that it does not.
fn strangers(listing: &Listing) -> Vec<Finding> {
    const KNOWN: [&str; 8] = [
        schema::NODES,
        schema::ALIVE,
        schema::NETWORKS,
        schema::NAMES,
        schema::VNIS,
        schema::BINDINGS,
        schema::REMOVING,
        schema::POOLS,
    ];
    let mut findings = Vec::new();
    for record in &listing.records {
        let key = record.key.clone();
        if key == schema::META {
            let meta = serde_json::from_slice::<schema::Meta>(&record.value);
            if !meta.is_ok_and(|meta| meta.schema == schema::VERSION) {
                let advice = "use the weft that wrote it";
                findings.push(Finding {
                    key,
                    wrong: "this weft does not know this layout".to_owned(),
                    advice,
                });
            }
        } else if key == schema::MOVED {
            let advice =
                "point the daemons to the other store; `weft store copy` finishes a move that was broken off";
            findings.push(Finding {
                key,
                wrong: "the store is closed: it has moved or is being filled".to_owned(),
                advice,
            });
        } else if !KNOWN.iter().any(|prefix| key.starts_with(prefix))
            && schema::OnNetwork::parse(&key) == Ok(None)
        {
            findings.push(Finding { key, wrong: "it is no record of weft's".to_owned(), advice: BY_HAND });
        }
    }
    let has = |key: &str| listing.records.iter().any(|record| record.key == key);
    if !listing.records.is_empty() && !has(schema::META) {
        let advice = "the next daemon that starts writes it";
        let wrong = "it is missing, and there are records".to_owned();
        findings.push(Finding { key: schema::META.to_owned(), wrong, advice });
    }
    findings
}

struct Check<'a> {
    snapshot: &'a Snapshot,
}

impl Check<'_> {
    /// Names and VNIs are unique by records of their own: each has a network that says the same, and the reverse.
    fn networks(&self) -> Vec<Finding> {
        let (s, mut findings) = (self.snapshot, Vec::new());
        let mut tell = |key: String, wrong: String| findings.push(Finding { key, wrong, advice: BY_RESTORE });
        for (name, id) in &s.names {
            match s.networks.get(id) {
                None => tell(schema::name_key(name), format!("network {} is not there", id.short())),
                Some(network) if network.name.as_ref() != Some(name) => {
                    let says = network.display_name();
                    tell(schema::name_key(name), format!("network {} is called {says}", id.short()));
                }
                Some(_) => {}
            }
        }
        for (vni, id) in &s.vnis {
            match s.networks.get(id) {
                None => tell(schema::vni_key(*vni), format!("network {} is not there", id.short())),
                Some(network) if network.vni != *vni => {
                    tell(schema::vni_key(*vni), format!("network {} has VNI {}", id.short(), network.vni));
                }
                Some(_) => {}
            }
        }
        for (id, network) in &s.networks {
            let key = schema::network_key(id);
            if network.id != *id {
                tell(key.clone(), format!("it says that it is {}", network.id));
            }
            if s.vnis.get(&network.vni) != Some(id) {
                tell(key.clone(), format!("its VNI {} is not held for it", network.vni));
            }
            if network.name.as_ref().is_some_and(|name| s.names.get(name) != Some(id)) {
                tell(key, format!("its name {} is not held for it", network.display_name()));
            }
        }
        findings
    }

    /// An endpoint is on a network and holds its addresses.
    fn endpoints(&self) -> Vec<Finding> {
        let s = self.snapshot;
        let mut findings = Vec::new();
        for (network, endpoints) in &s.endpoints {
            for (id, endpoint) in endpoints {
                let key = schema::endpoint_key(network, id);
                let mut tell =
                    |wrong: String, advice| findings.push(Finding { key: key.clone(), wrong, advice });
                if endpoint.id != *id || endpoint.network != *network {
                    tell(format!("it says that it is {} of {}", endpoint.id, endpoint.network), BY_HAND);
                }
                if !s.networks.contains_key(network) {
                    tell(format!("network {} is not there", network.short()), BY_GC);
                }
                for ip in endpoint.addresses() {
                    if !self.holds(endpoint, network, ip) {
                        tell(format!("it uses {ip}, which is not held for it"), BY_RESTART);
                    }
                }
            }
        }
        findings
    }

    fn holds(&self, endpoint: &Endpoint, network: &NetworkId, ip: std::net::IpAddr) -> bool {
        let claim = self.snapshot.addresses.get(network).and_then(|claims| claims.get(&ip));
        claim
            .is_some_and(|claim| claim.endpoint.as_ref() == Some(&endpoint.id) && claim.node == endpoint.node)
    }

    /// An address is held on a network, within its subnets, for an endpoint that uses it.
    fn addresses(&self) -> Vec<Finding> {
        let (s, mut findings) = (self.snapshot, Vec::new());
        for (network, claims) in &s.addresses {
            for (ip, claim) in claims {
                let key = schema::address_key(network, *ip);
                let mut tell =
                    |wrong: String| findings.push(Finding { key: key.clone(), wrong, advice: BY_GC });
                match s.networks.get(network) {
                    None => tell(format!("network {} is not there", network.short())),
                    Some(network) if network.subnet_of(*ip).is_none() => {
                        tell(format!("it is in no subnet of network {}", network.display_name()));
                    }
                    Some(_) => {}
                }
                let endpoints = s.endpoints.get(network);
                let user = claim.endpoint.as_ref().map(|id| (id, endpoints.and_then(|all| all.get(id))));
                match (claim.kind, user) {
                    (_, Some((id, None))) => tell(format!("endpoint {} is not there", id.short())),
                    (_, Some((id, Some(endpoint)))) if !endpoint.addresses().any(|a| a == *ip) => {
                        tell(format!("endpoint {} has another address", id.short()));
                    }
                    (ClaimKind::Endpoint, None) => {
                        tell("it is held for an endpoint and names none".to_owned());
                    }
                    _ => {}
                }
            }
        }
        findings
    }

    /// What belongs to a node belongs to one that is known.
    fn nodes(&self) -> Vec<Finding> {
        let s = self.snapshot;
        let mut findings = Vec::new();
        let mut missing = BTreeSet::new();
        let mut belongs = |node: &NodeId, key: String| {
            if !s.nodes.contains_key(node) && missing.insert(node.clone()) {
                let wrong = format!("it belongs to node {}, which has no record", node.short());
                findings.push(Finding { key, wrong, advice: BY_GC });
            }
        };
        for (id, node) in &s.nodes {
            belongs(&node.id, schema::node_key(id));
        }
        for node in s.alive.keys() {
            belongs(node, schema::alive_key(node));
        }
        for endpoint in s.all_endpoints() {
            belongs(&endpoint.node, schema::key_of_endpoint(endpoint));
        }
        for (network, claims) in &s.addresses {
            for (ip, claim) in claims {
                belongs(&claim.node, schema::address_key(network, *ip));
            }
        }
        for (network, groups) in &s.groups {
            for node in groups.keys() {
                belongs(node, schema::groups_key(network, node));
            }
        }
        for (node, bindings) in &s.bindings {
            for engine_network in bindings.keys() {
                belongs(node, schema::binding_key(node, engine_network));
            }
        }
        for (node, engine_network, binding) in
            s.bindings.iter().flat_map(|(node, all)| all.iter().map(move |(id, binding)| (node, id, binding)))
        {
            if !s.networks.contains_key(&binding.network) {
                let key = schema::binding_key(node, engine_network);
                let wrong = format!("network {} is not there", binding.network.short());
                findings.push(Finding { key, wrong, advice: BY_GC });
            }
        }
        findings
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
