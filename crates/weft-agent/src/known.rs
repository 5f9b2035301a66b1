//! The records that a daemon knows, with what is looked up in them all the time.

use std::collections::BTreeSet;
use weft_model::{
    BadRecord, Change, Endpoint, EndpointId, NetworkId, NodeId, Snapshot, Touched, schema::OnNetwork,
};
use weft_plan::names::Names;

/// The snapshot, who answers to which name, and which endpoints are this node's. Whatever changes an endpoint goes through here,
/// so that the three agree.
pub(crate) struct Known {
    this: NodeId,
    snapshot: Snapshot,
    names: Names,
    own: BTreeSet<(NetworkId, EndpointId)>,
    /// How often an endpoint of this node's has changed.
    own_changes: u64,
}

impl Known {
    /// All of a snapshot.
    pub(crate) fn new(this: NodeId, snapshot: Snapshot) -> Self {
        let names = Names::of(snapshot.all_endpoints());
        let own = snapshot.all_endpoints().filter(|e| e.node == this).map(key).collect();
        Self { this, snapshot, names, own, own_changes: 0 }
    }

    /// The records.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The records, to change anything but endpoints.
    pub(crate) fn other_records(&mut self) -> &mut Snapshot {
        &mut self.snapshot
    }

    /// Who answers to which name.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// This node's endpoints.
    pub(crate) fn own(&self) -> impl Iterator<Item = &Endpoint> {
        self.own.iter().filter_map(|(network, id)| self.snapshot.endpoint(network, id))
    }

    /// How often an endpoint of this node's has changed.
    pub(crate) fn own_changes(&self) -> u64 {
        self.own_changes
    }

    /// See [`Snapshot::apply`].
    pub(crate) fn apply(&mut self, change: &Change) -> Result<Touched, BadRecord> {
        let endpoint = match OnNetwork::parse(&change.key) {
            Ok(Some((network, OnNetwork::Endpoint(id)))) => Some((network, id)),
            _ => None,
        };
        let Some((network, id)) = endpoint else { return self.snapshot.apply(change) };
        if let Some(before) = self.snapshot.endpoint(&network, &id) {
            self.names.remove(before);
            self.own_changes += u64::from(self.own.remove(&key(before)));
        }
        let outcome = self.snapshot.apply(change);
        if let Some(now) = self.snapshot.endpoint(&network, &id) {
            self.names.insert(now);
            if now.node == self.this {
                self.own.insert(key(now));
                self.own_changes += 1;
            }
        }
        outcome
    }

    /// See [`Snapshot::replace_network`].
    pub(crate) fn replace_network(&mut self, network: &NetworkId, of: &mut Snapshot) -> Vec<Touched> {
        let touched = self.snapshot.replace_network(network, of);
        if touched.is_empty() {
            return touched;
        }
        let now = || self.snapshot.endpoints_on(network);
        self.names.replace(network, now());
        self.own.retain(|(on, _)| on != network);
        self.own.extend(now().filter(|e| e.node == self.this).map(key));
        self.own_changes += 1;
        touched
    }

    /// Takes over what `listed` says of the cluster; the members of networks stay. Returns whether anything is different.
    pub(crate) fn replace_cluster(&mut self, mut listed: Snapshot) -> bool {
        let mut before = std::mem::take(&mut self.snapshot);
        // Compared without the members, which are the same in both.
        let mut members = Snapshot::default();
        members.take_networks(&mut before);
        listed.take_networks(&mut Snapshot::default());
        listed.take_absent(before.absent.clone());
        let same = Snapshot { revision: listed.revision, ..before } == listed;
        listed.take_networks(&mut members);
        self.snapshot = listed;
        !same
    }
}

fn key(endpoint: &Endpoint) -> (NetworkId, EndpointId) {
    (endpoint.network.clone(), endpoint.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::{Container, MacAddr, encode, schema};

    fn endpoint(network: &NetworkId, id: &EndpointId, node: &NodeId, name: &str) -> Endpoint {
        Endpoint {
            id: id.clone(),
            network: network.clone(),
            node: node.clone(),
            engine: "docker".to_owned(),
            container: Some(Container::new("c", name)),
            sandbox: None,
            outside: None,
            mac: MacAddr::ZERO,
            ipv4: None,
            ipv6: None,
            epoch: 1,
            created: 0,
        }
    }

    fn assert_agrees(known: &Known) {
        let anew = Known::new(known.this.clone(), known.snapshot.clone());
        assert_eq!((&known.names, &known.own), (&anew.names, &anew.own));
    }

    #[test]
    fn names_and_own_endpoints_follow_every_way_in_which_endpoints_change() {
        let [this, other] = [NodeId::random(), NodeId::random()];
        let [blue, red] = [NetworkId::random(), NetworkId::random()];
        let [one, two] = [EndpointId::random(), EndpointId::random()];
        let mut known = Known::new(this.clone(), Snapshot::default());
        let mut changes = known.own_changes();
        let mut put = |known: &mut Known, endpoint: &Endpoint, there: bool| {
            let change =
                Change { key: schema::key_of_endpoint(endpoint), value: there.then(|| encode(endpoint)) };
            known.apply(&change).unwrap();
            assert_agrees(known);
            let own = std::mem::replace(&mut changes, known.own_changes()) != known.own_changes();
            assert_eq!(own, endpoint.node == this, "{endpoint:?}");
        };
        let web = endpoint(&blue, &one, &this, "web");
        put(&mut known, &web, true);
        put(&mut known, &endpoint(&blue, &two, &other, "db"), true);
        put(&mut known, &endpoint(&blue, &one, &this, "www"), true);
        put(&mut known, &endpoint(&red, &two, &this, "db"), true);
        put(&mut known, &endpoint(&blue, &one, &this, "www"), false);
        assert_eq!(known.own().map(|e| e.display_name().to_owned()).collect::<Vec<_>>(), ["db"]);

        let records = [(schema::key_of_endpoint(&web), encode(&web))];
        let mut listing = Snapshot::from_records(weft_model::Revision::ZERO, records).0;
        known.replace_network(&blue, &mut listing);
        assert_agrees(&known);
        assert_eq!(known.own().count(), 2);
        assert!(!known.replace_cluster(Snapshot::default()), "members of networks stay");
        assert_agrees(&known);
        known.replace_network(&red, &mut Snapshot::default());
        assert_agrees(&known);
        assert_eq!(known.own().count(), 1);
    }
}
