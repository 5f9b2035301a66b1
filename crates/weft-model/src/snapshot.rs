//! All records of the store at one revision.

use crate::{
    AddressClaim, Binding, Endpoint, EndpointId, Network, NetworkId, NetworkName, Node, NodeId, Pool,
    Revision, Vni,
    schema::{self, Memberships, OnNetwork, parse},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::IpAddr,
    str::FromStr,
};

/// One key's new value, or its end, as a store reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key, without the store's prefix.
    pub key: String,
    /// The value; `None` when the key was removed.
    pub value: Option<Vec<u8>>,
}

/// A record that could not be read. It is left out of the snapshot; the others count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record {key} cannot be read and is ignored: {reason}")]
pub struct BadRecord {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Which object a change was about: what has to be planned again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touched {
    /// A node's record.
    Node(NodeId),
    /// A network.
    Network(NetworkId),
    /// An endpoint.
    Endpoint(NetworkId, EndpointId),
    /// An address claim.
    Address(NetworkId, IpAddr),
    /// The multicast groups of a node on a network.
    Groups(NetworkId, NodeId),
    /// An engine's copy of a network.
    Binding(NodeId, String),
    /// Nothing the plan looks at.
    Other,
}

/// Records, parsed: all of them at one revision, or those that a host follows. Changes are applied one at a time, each at a cost that does not grow
/// with the snapshot (but for the trees' logarithm).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's revision this is the picture of.
    pub revision: Revision,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Nodes whose lease lives, with the epoch it was taken in.
    pub alive: BTreeMap<NodeId, u64>,
    /// Networks.
    pub networks: BTreeMap<NetworkId, Network>,
    /// Which network has the name.
    pub names: BTreeMap<NetworkName, NetworkId>,
    /// Which network has the VNI.
    pub vnis: BTreeMap<Vni, NetworkId>,
    /// Endpoints by network.
    pub endpoints: BTreeMap<NetworkId, BTreeMap<EndpointId, Endpoint>>,
    /// Taken addresses by network.
    pub addresses: BTreeMap<NetworkId, BTreeMap<IpAddr, AddressClaim>>,
    /// Addresses that a node asks for although another holds them ahead, by network.
    pub wanted: BTreeMap<NetworkId, BTreeMap<IpAddr, NodeId>>,
    /// Multicast groups of the nodes that tell theirs, by network.
    pub groups: BTreeMap<NetworkId, BTreeMap<NodeId, Memberships>>,
    /// Engines' copies of networks.
    pub bindings: BTreeMap<NodeId, BTreeMap<String, Binding>>,
    /// Pools of engines' IPAM calls.
    pub pools: BTreeMap<String, Pool>,
}

impl Snapshot {
    /// The snapshot of these records, and the records that could not be read.
    pub fn from_records(
        revision: Revision,
        records: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> (Self, Vec<BadRecord>) {
        let mut snapshot = Self { revision, ..Self::default() };
        let mut bad = Vec::new();
        for (key, value) in records {
            if let Err(record) = snapshot.apply(&Change { key, value: Some(value) }) {
                bad.push(record);
            }
        }
        (snapshot, bad)
    }

    /// Applies one change and tells what it was about. A record that cannot be read counts as removed, so that
    /// the outcome depends on the store's contents alone and not on their history.
    pub fn apply(&mut self, change: &Change) -> Result<Touched, BadRecord> {
        let bad = |reason: String| BadRecord { key: change.key.clone(), reason };
        let Some(path) = change.key.strip_prefix(schema::ROOT) else {
            return self.apply_on_network(change).map_err(bad);
        };
        let (kind, name) = path.split_once('/').unwrap_or((path, ""));
        let value = change.value.as_deref();
        match kind {
            "nodes" => {
                let id: NodeId = parse(name).map_err(bad)?;
                put(&mut self.nodes, id.clone(), value).map_err(bad)?;
                Ok(Touched::Node(id))
            }
            "alive" => {
                let id: NodeId = parse(name).map_err(bad)?;
                put(&mut self.alive, id, value).map_err(bad)?;
                // A lease withdraws nothing: where many hosts start, half of what is heard needs no planning.
                Ok(Touched::Other)
            }
            "networks" => {
                let id: NetworkId = parse(name).map_err(bad)?;
                put(&mut self.networks, id.clone(), value).map_err(bad)?;
                Ok(Touched::Network(id))
            }
            "names" => {
                let id: NetworkName = parse(name).map_err(bad)?;
                put(&mut self.names, id, value).map_err(bad)?;
                Ok(Touched::Other)
            }
            "vnis" => {
                let id: Vni = parse(name).map_err(bad)?;
                put(&mut self.vnis, id, value).map_err(bad)?;
                Ok(Touched::Other)
            }
            "bindings" => {
                let (node, engine_network): (NodeId, String) = parse_pair(name).map_err(bad)?;
                put_nested(&mut self.bindings, node.clone(), engine_network.clone(), value).map_err(bad)?;
                Ok(Touched::Binding(node, engine_network))
            }
            "pools" => {
                put(&mut self.pools, name.to_owned(), value).map_err(bad)?;
                Ok(Touched::Other)
            }
            _ => Ok(Touched::Other),
        }
    }

    fn apply_on_network(&mut self, change: &Change) -> Result<Touched, String> {
        let value = change.value.as_deref();
        let Some((network, what)) = OnNetwork::parse(&change.key)? else { return Ok(Touched::Other) };
        match what {
            OnNetwork::Endpoint(endpoint) => {
                put_nested(&mut self.endpoints, network.clone(), endpoint.clone(), value)?;
                Ok(Touched::Endpoint(network, endpoint))
            }
            OnNetwork::Address(ip) => {
                put_nested(&mut self.addresses, network.clone(), ip, value)?;
                Ok(Touched::Address(network, ip))
            }
            OnNetwork::Wanted(ip) => {
                put_nested(&mut self.wanted, network, ip, value)?;
                Ok(Touched::Other)
            }
            OnNetwork::Groups(node) => {
                put_nested(&mut self.groups, network.clone(), node.clone(), value)?;
                Ok(Touched::Groups(network, node))
            }
        }
    }

    /// Replaces what is known of one network's members by what `of` knows, and tells what the plan looks at and is another
    /// than before: endpoints, and nodes' multicast groups.
    pub fn replace_network(&mut self, network: &NetworkId, of: &mut Self) -> Vec<Touched> {
        replace(&mut self.addresses, network, of.addresses.remove(network));
        replace(&mut self.wanted, network, of.wanted.remove(network));
        let endpoints = replaced(&mut self.endpoints, network, of.endpoints.remove(network));
        let groups = replaced(&mut self.groups, network, of.groups.remove(network));
        let endpoints = endpoints.into_iter().map(|id| Touched::Endpoint(network.clone(), id));
        endpoints.chain(groups.into_iter().map(|node| Touched::Groups(network.clone(), node))).collect()
    }

    /// Takes over what `other` knows of the members of all networks.
    pub fn take_networks(&mut self, other: &mut Self) {
        self.endpoints = std::mem::take(&mut other.endpoints);
        self.addresses = std::mem::take(&mut other.addresses);
        self.wanted = std::mem::take(&mut other.wanted);
        self.groups = std::mem::take(&mut other.groups);
    }

    /// Forgets the members of all networks but these.
    pub fn keep_networks(&mut self, kept: impl Fn(&NetworkId) -> bool) {
        self.endpoints.retain(|network, _| kept(network));
        self.addresses.retain(|network, _| kept(network));
        self.wanted.retain(|network, _| kept(network));
        self.groups.retain(|network, _| kept(network));
    }

    /// The records again, as [`Snapshot::from_records`] takes them.
    pub fn to_records(&self) -> Vec<(String, Vec<u8>)> {
        fn all<'a, K: 'a, V: Serialize + 'a>(
            map: &'a BTreeMap<K, V>,
            key: impl Fn(&K) -> String + 'a,
        ) -> impl Iterator<Item = (String, Vec<u8>)> + 'a {
            map.iter().map(move |(k, v)| (key(k), encode(v)))
        }
        let mut records = Vec::new();
        records.extend(all(&self.nodes, schema::node_key));
        records.extend(all(&self.alive, schema::alive_key));
        records.extend(all(&self.networks, schema::network_key));
        records.extend(all(&self.names, schema::name_key));
        records.extend(all(&self.vnis, |vni| schema::vni_key(*vni)));
        for (network, endpoints) in &self.endpoints {
            records.extend(all(endpoints, |id| schema::endpoint_key(network, id)));
        }
        for (network, claims) in &self.addresses {
            records.extend(all(claims, |ip| schema::address_key(network, *ip)));
        }
        for (network, wanted) in &self.wanted {
            records.extend(all(wanted, |ip| schema::wanted_key(network, *ip)));
        }
        for (network, groups) in &self.groups {
            records.extend(all(groups, |node| schema::groups_key(network, node)));
        }
        for (node, bindings) in &self.bindings {
            records.extend(all(bindings, |id| schema::binding_key(node, id)));
        }
        records.extend(all(&self.pools, |id| schema::pool_key(id)));
        records
    }

    /// The network people mean by `reference`: a name, an id, or the beginning of exactly one id.
    pub fn find_network(&self, reference: &str) -> Option<&Network> {
        if let Some(id) = reference.parse().ok().and_then(|name: NetworkName| self.names.get(&name)) {
            return self.networks.get(id);
        }
        let mut matches = self.networks.values().filter(|n| n.id.as_str().starts_with(reference));
        match (matches.next(), matches.next()) {
            (Some(network), None) if !reference.is_empty() => Some(network),
            _ => None,
        }
    }

    /// All endpoints, network by network.
    pub fn all_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values().flat_map(BTreeMap::values)
    }

    /// The endpoint that uses `ip` on `network`.
    pub fn endpoint_at(&self, network: &NetworkId, ip: IpAddr) -> Option<&Endpoint> {
        let claim = self.addresses.get(network)?.get(&ip)?;
        self.endpoints.get(network)?.get(claim.endpoint.as_ref()?)
    }

    /// A node's name, or its short id when it has no record.
    pub fn node_name<'a>(&'a self, id: &'a NodeId) -> &'a str {
        self.nodes.get(id).map_or_else(|| id.short(), |n| n.name.as_str())
    }
}

/// A record as the store keeps it.
///
/// # Panics
/// Never: see the reason inside.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // The records hold only strings, numbers and maps with string keys: nothing JSON cannot write.
    #[allow(clippy::expect_used)]
    serde_json::to_vec(value).expect("a record can be written as JSON")
}

fn replace<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, key: &K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key.clone(), value),
        None => map.remove(key),
    }
}

/// Replaces one network's part of `map`, and tells whose values are others than before.
fn replaced<K: Ord + Clone, V: PartialEq>(
    map: &mut BTreeMap<NetworkId, BTreeMap<K, V>>,
    network: &NetworkId,
    value: Option<BTreeMap<K, V>>,
) -> BTreeSet<K> {
    let before = replace(map, network, value).unwrap_or_default();
    let none = BTreeMap::new();
    let now = map.get(network).unwrap_or(&none);
    let all = before.keys().chain(now.keys());
    all.filter(|key| before.get(*key) != now.get(*key)).cloned().collect()
}

fn parse_pair<A, B>(text: &str) -> Result<(A, B), String>
where
    A: FromStr<Err: Display> + Display,
    B: FromStr<Err: Display> + Display,
{
    let (a, b) = text.split_once('/').ok_or("its key is malformed: a part is missing")?;
    Ok((parse(a)?, parse(b)?))
}

fn put<K: Ord, V: DeserializeOwned>(
    map: &mut BTreeMap<K, V>,
    key: K,
    value: Option<&[u8]>,
) -> Result<(), String> {
    match value.map(serde_json::from_slice) {
        Some(Ok(value)) => {
            map.insert(key, value);
            Ok(())
        }
        Some(Err(error)) => {
            map.remove(&key);
            Err(error.to_string())
        }
        None => {
            map.remove(&key);
            Ok(())
        }
    }
}

fn put_nested<A: Ord, B: Ord, V: DeserializeOwned>(
    map: &mut BTreeMap<A, BTreeMap<B, V>>,
    outer: A,
    inner: B,
    value: Option<&[u8]>,
) -> Result<(), String> {
    use std::collections::btree_map::Entry;
    match map.entry(outer) {
        Entry::Vacant(_) if value.is_none() => Ok(()),
        Entry::Vacant(slot) => {
            let mut nested = BTreeMap::new();
            put(&mut nested, inner, value)?;
            slot.insert(nested);
            Ok(())
        }
        Entry::Occupied(mut slot) => {
            let outcome = put(slot.get_mut(), inner, value);
            if slot.get().is_empty() {
                slot.remove();
            }
            outcome
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Subnet, unix_now};

    fn network(name: &str) -> Network {
        Network {
            id: NetworkId::random(),
            name: Some(name.parse().unwrap()),
            vni: Vni::new(4096).unwrap(),
            subnets: vec![Subnet::new("10.9.0.0/24".parse().unwrap())],
            mtu: None,
            internal: false,
            direct: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            address_driver: crate::AddressDriver::Engine(NodeId::random()),
            created_by: NodeId::random(),
            created: unix_now(),
        }
    }

    #[test]
    fn a_snapshot_survives_being_written_and_read() {
        let n = network("blue");
        let mut snapshot = Snapshot::default();
        for (key, value) in [
            (schema::network_key(&n.id), encode(&n)),
            (schema::name_key(n.name.as_ref().unwrap()), encode(&n.id)),
            (schema::vni_key(n.vni), encode(&n.id)),
        ] {
            snapshot.apply(&Change { key, value: Some(value) }).unwrap();
        }
        let (again, bad) = Snapshot::from_records(Revision::ZERO, snapshot.to_records());
        assert_eq!((again, bad), (snapshot.clone(), vec![]));
        assert_eq!(snapshot.find_network("blue").unwrap().id, n.id);
        assert_eq!(snapshot.find_network(n.id.short()).unwrap().id, n.id);
        assert!(snapshot.find_network("green").is_none());
    }

    #[test]
    fn a_record_that_cannot_be_read_is_named_and_left_out() {
        let n = network("blue");
        let mut snapshot = Snapshot::default();
        let key = schema::network_key(&n.id);
        snapshot.apply(&Change { key: key.clone(), value: Some(encode(&n)) }).unwrap();
        let error = snapshot.apply(&Change { key: key.clone(), value: Some(b"{".to_vec()) }).unwrap_err();
        assert_eq!(error.key, key);
        assert_eq!(snapshot, Snapshot::default());
    }

    #[test]
    fn a_second_key_for_the_same_thing_is_malformed() {
        let (network, value) = (NetworkId::random(), encode(&NetworkId::random()));
        for key in [
            format!("{}+5", schema::VNIS),
            format!("{}05", schema::VNIS),
            format!("{}{network}/wanted/FD00::1", schema::ON),
        ] {
            let mut snapshot = Snapshot::default();
            let error = snapshot.apply(&Change { key, value: Some(value.clone()) }).unwrap_err();
            assert!(error.reason.contains("is written"), "{error}");
            assert_eq!(snapshot, Snapshot::default());
        }
    }

    #[test]
    fn removing_the_last_endpoint_leaves_nothing_behind() {
        let mut snapshot = Snapshot::default();
        let (network, ip) = (NetworkId::random(), "10.0.0.2".parse().unwrap());
        let claim = AddressClaim {
            kind: crate::ClaimKind::Endpoint,
            node: NodeId::random(),
            endpoint: None,
            since: 0,
        };
        let key = schema::address_key(&network, ip);
        let touched = snapshot.apply(&Change { key: key.clone(), value: Some(encode(&claim)) }).unwrap();
        assert_eq!(touched, Touched::Address(network, ip));
        snapshot.apply(&Change { key, value: None }).unwrap();
        assert_eq!(snapshot, Snapshot::default());
    }
}
