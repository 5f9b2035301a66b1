//! What each host's kernel should hold: the plan from nothing, for as many hosts as there are.

use std::collections::{BTreeMap, BTreeSet};
use weft_model::{NetworkId, NodeId, Snapshot};
use weft_plan::{HostState, model_kernel::as_observed, plan};

/// The planner over all records. A host that takes part in ten networks of five hundred is planned from the members of those
/// ten, or the oracle would take longer than what it judges.
pub struct Oracle {
    records: Snapshot,
    /// The records but for members of networks.
    common: Snapshot,
    networks: BTreeMap<NodeId, BTreeSet<NetworkId>>,
}

impl Oracle {
    /// Over these records.
    pub fn new(records: Snapshot) -> Self {
        let mut networks: BTreeMap<NodeId, BTreeSet<NetworkId>> = BTreeMap::new();
        for endpoint in records.all_endpoints() {
            networks.entry(endpoint.node.clone()).or_default().insert(endpoint.network.clone());
        }
        let mut common = records.clone();
        common.keep_networks(|_| false);
        Self { records, common, networks }
    }

    /// What a node's kernel should hold, as it would be seen there.
    pub fn wanted(&self, node: &NodeId) -> HostState {
        let mut known = self.common.clone();
        for network in self.networks.get(node).into_iter().flatten() {
            let endpoints = self.records.endpoints.get(network).map(|of| (network.clone(), of.clone()));
            known.endpoints.extend(endpoints);
            known.groups.extend(self.records.groups.get(network).map(|of| (network.clone(), of.clone())));
        }
        plan(&known, node).into_iter().map(|(key, object)| (key, as_observed(&object))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;
    use weft_model::{Revision, encode, schema};

    #[test]
    fn what_a_host_has_no_part_in_makes_no_difference_to_it() {
        let shape = Shape { hosts: 7, endpoints: 60, networks: 6, parts: 2 };
        let nodes = (0..shape.hosts).map(|host| Shape::node(host).unwrap());
        let networks = (0..shape.networks).map(|number| shape.network(number).unwrap());
        let endpoints = shape.all_endpoints().unwrap();
        let records = nodes
            .map(|node| (schema::node_key(&node.id), encode(&node)))
            .chain(networks.map(|network| (schema::network_key(&network.id), encode(&network))))
            .chain(endpoints.iter().map(|e| (schema::key_of_endpoint(e), encode(e))));
        let (records, bad) = Snapshot::from_records(Revision(1), records);
        assert!(bad.is_empty(), "{bad:?}");
        let oracle = Oracle::new(records.clone());
        for host in 0..shape.hosts {
            let node = Shape::node_id(host).unwrap();
            let all = plan(&records, &node).into_iter().map(|(key, object)| (key, as_observed(&object)));
            let all: HostState = all.collect();
            assert!(all.len() > 20, "{all:?}");
            assert_eq!(oracle.wanted(&node), all);
        }
    }
}
