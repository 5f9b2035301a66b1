//! The records that a daemon knows, with what is looked up in them all the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_model::{
    BadRecord, Change, ClaimKind, Endpoint, EndpointId, NetworkId, NodeId, Snapshot, Touched,
    schema::OnNetwork,
};
use weft_plan::{claims_of, names::Names};

/// The snapshot, who answers to which name, and which endpoints and claims of addresses are this node's. Whatever changes one of
/// them goes through here, so that all agree.
pub(crate) struct Known {
    this: NodeId,
    snapshot: Snapshot,
    names: Names,
    own: BTreeSet<(NetworkId, EndpointId)>,
    claimed: BTreeMap<NetworkId, BTreeMap<IpAddr, ClaimKind>>,
    /// How often an endpoint of this node's has changed.
    own_changes: u64,
}

impl Known {
    /// All of a snapshot.
    pub(crate) fn new(this: NodeId, snapshot: Snapshot) -> Self {
        let names = Names::of(snapshot.all_endpoints());
        let own = snapshot.all_endpoints().filter(|e| e.node == this).map(key).collect();
        let mut known = Self { this, snapshot, names, own, claimed: BTreeMap::new(), own_changes: 0 };
        for network in known.snapshot.addresses.keys().cloned().collect::<Vec<_>>() {
            known.count_claims(&network);
        }
        known
    }

    /// Notes anew which claims on a network are this node's.
    fn count_claims(&mut self, network: &NetworkId) {
        let claims = self.snapshot.addresses.get(network);
        match claims.map(|claims| claims_of(claims, &self.this)).filter(|ours| !ours.is_empty()) {
            Some(ours) => self.claimed.insert(network.clone(), ours),
            None => self.claimed.remove(network),
        };
    }

    /// The records.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The records, to change anything but endpoints and claims.
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

    /// The networks that this node has endpoints on.
    pub(crate) fn own_networks(&self) -> BTreeSet<&NetworkId> {
        self.own.iter().map(|(network, _)| network).collect()
    }

    /// The addresses on a network that this node has claims of, and what for, if it has any.
    pub(crate) fn claimed(&self, network: &NetworkId) -> Option<&BTreeMap<IpAddr, ClaimKind>> {
        self.claimed.get(network)
    }

    /// How often an endpoint of this node's has changed.
    pub(crate) fn own_changes(&self) -> u64 {
        self.own_changes
    }

    /// See [`Snapshot::apply`].
    pub(crate) fn apply(&mut self, change: &Change) -> Result<Touched, BadRecord> {
        match OnNetwork::parse(&change.key) {
            Ok(Some((network, OnNetwork::Endpoint(id)))) => self.apply_endpoint(&network, &id, change),
            Ok(Some((network, OnNetwork::Address(ip)))) => self.apply_claim(network, ip, change),
            _ => self.snapshot.apply(change),
        }
    }

    fn apply_endpoint(
        &mut self,
        network: &NetworkId,
        id: &EndpointId,
        change: &Change,
    ) -> Result<Touched, BadRecord> {
        if let Some(before) = self.snapshot.endpoint(network, id) {
            self.names.remove(before);
            self.own_changes += u64::from(self.own.remove(&key(before)));
        }
        let outcome = self.snapshot.apply(change);
        if let Some(now) = self.snapshot.endpoint(network, id) {
            self.names.insert(now);
            if now.node == self.this {
                self.own.insert(key(now));
                self.own_changes += 1;
            }
        }
        outcome
    }

    fn apply_claim(&mut self, network: NetworkId, ip: IpAddr, change: &Change) -> Result<Touched, BadRecord> {
        let outcome = self.snapshot.apply(change);
        let now = self.snapshot.addresses.get(&network).and_then(|claims| claims.get(&ip));
        if let Some(claim) = now.filter(|claim| claim.node == self.this) {
            self.claimed.entry(network).or_default().insert(ip, claim.kind);
        } else if let Some(ours) = self.claimed.get_mut(&network) {
            ours.remove(&ip);
            if ours.is_empty() {
                self.claimed.remove(&network);
            }
        }
        outcome
    }

    /// See [`Snapshot::replace_network`].
    pub(crate) fn replace_network(&mut self, network: &NetworkId, of: &mut Snapshot) -> Vec<Touched> {
        let touched = self.snapshot.replace_network(network, of);
        self.count_claims(network);
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
    use weft_model::{AddressClaim, Container, MacAddr, encode, schema};

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
        assert_eq!(known.claimed, anew.claimed);
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
        assert_eq!(known.own().map(|e| e.display_name().into_owned()).collect::<Vec<_>>(), ["db"]);

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
    #[test]
    fn own_claims_follow_every_way_in_which_claims_change() {
        let [this, other] = [NodeId::random(), NodeId::random()];
        let blue = NetworkId::random();
        let mut known = Known::new(this.clone(), Snapshot::default());
        let ip = |last: u8| IpAddr::from([10, 9, 0, last]);
        let record = |last: u8, node: &NodeId| {
            let claim =
                AddressClaim { kind: ClaimKind::Reserved, node: node.clone(), endpoint: None, since: 0 };
            (schema::address_key(&blue, ip(last)), encode(&claim))
        };
        let ours =
            |known: &Known| known.claimed(&blue).cloned().unwrap_or_default().into_keys().collect::<Vec<_>>();
        let steps = [(2, Some(&this)), (3, Some(&other)), (4, Some(&this)), (2, None), (4, Some(&other))];
        let expected: [&[u8]; 5] = [&[2], &[2], &[2, 4], &[4], &[]];
        for ((last, node), expected) in steps.into_iter().zip(expected) {
            let value = node.map(|node| record(last, node).1);
            known.apply(&Change { key: schema::address_key(&blue, ip(last)), value }).unwrap();
            assert_eq!(ours(&known), expected.iter().map(|last| ip(*last)).collect::<Vec<_>>());
            assert_agrees(&known);
        }
        let records = [record(7, &this), record(8, &other)];
        let mut listing = Snapshot::from_records(weft_model::Revision::ZERO, records).0;
        known.replace_network(&blue, &mut listing);
        assert_eq!(ours(&known), [ip(7)]);
        assert!(!known.replace_cluster(Snapshot::default()), "members of networks stay");
        assert_agrees(&known);
        known.replace_network(&blue, &mut Snapshot::default());
        assert_agrees(&known);
        assert!(known.claimed(&blue).is_none());
    }
}
