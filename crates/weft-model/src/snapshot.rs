//! All records of the store at one revision.

use crate::{
    AddressClaim, Binding, Endpoint, EndpointId, Network, NetworkId, NetworkName, Node, NodeId, Pool,
    Revision, Vni,
    schema::{self, Memberships, OnNetwork, parse},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::IpAddr,
    str::FromStr,
    sync::Arc,
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
    /// Nodes without a lease that this host does not see either: their endpoints are withdrawn. No record tells it, and none is
    /// written of it; a sign of life in the records ends it.
    pub absent: BTreeSet<NodeId>,
    /// Networks.
    pub networks: BTreeMap<NetworkId, Network>,
    /// Which network has the name.
    pub names: BTreeMap<NetworkName, NetworkId>,
    /// Which network has the VNI.
    pub vnis: BTreeMap<Vni, NetworkId>,
    /// Endpoints by network. A copy of the snapshot, as is made to write it to disk, shares them.
    pub endpoints: BTreeMap<NetworkId, BTreeMap<EndpointId, Arc<Endpoint>>>,
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
                // Who looks by key and who looks by id would see two clusters.
                let of_it = |node: Option<Node>| match node {
                    Some(node) if node.id != id => Err(format!("it is of node {}", node.id.short())),
                    node => Ok(node),
                };
                self.absent.remove(&id);
                put(&mut self.nodes, id.clone(), read(value).and_then(of_it)).map_err(bad)?;
                Ok(Touched::Node(id))
            }
            "alive" => {
                let id: NodeId = parse(name).map_err(bad)?;
                put(&mut self.alive, id.clone(), read(value)).map_err(bad)?;
                if self.alive.contains_key(&id) && self.absent.remove(&id) {
                    return Ok(Touched::Node(id));
                }
                // The end of a lease withdraws nothing: where many hosts start, half of what is heard needs no planning.
                Ok(Touched::Other)
            }
            "networks" => {
                let id: NetworkId = parse(name).map_err(bad)?;
                put(&mut self.networks, id.clone(), read(value)).map_err(bad)?;
                Ok(Touched::Network(id))
            }
            "names" => {
                let id: NetworkName = parse(name).map_err(bad)?;
                put(&mut self.names, id, read(value)).map_err(bad)?;
                Ok(Touched::Other)
            }
            "vnis" => {
                let id: Vni = parse(name).map_err(bad)?;
                put(&mut self.vnis, id, read(value)).map_err(bad)?;
                Ok(Touched::Other)
            }
            "bindings" => {
                let (node, engine_network): (NodeId, String) = parse_pair(name).map_err(bad)?;
                put_nested(&mut self.bindings, node.clone(), engine_network.clone(), read(value))
                    .map_err(bad)?;
                Ok(Touched::Binding(node, engine_network))
            }
            "pools" => {
                put(&mut self.pools, name.to_owned(), read(value)).map_err(bad)?;
                Ok(Touched::Other)
            }
            _ => Ok(Touched::Other),
        }
    }

    fn apply_on_network(&mut self, change: &Change) -> Result<Touched, String> {
        let value = change.value.as_deref();
        let Some((network, what)) = OnNetwork::parse(&change.key)? else { return Ok(Touched::Other) };
        match what {
            OnNetwork::Endpoint(id) => {
                let endpoint = read(value).map(|endpoint| endpoint.map(Arc::new));
                put_nested(&mut self.endpoints, network.clone(), id.clone(), endpoint)?;
                Ok(Touched::Endpoint(network, id))
            }
            OnNetwork::Address(ip) => {
                put_nested(&mut self.addresses, network.clone(), ip, read(value))?;
                Ok(Touched::Address(network, ip))
            }
            OnNetwork::Wanted(ip) => {
                put_nested(&mut self.wanted, network, ip, read(value))?;
                Ok(Touched::Other)
            }
            OnNetwork::Groups(node) => {
                put_nested(&mut self.groups, network.clone(), node.clone(), read(value))?;
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
            records.extend(
                endpoints.iter().map(|(id, e)| (schema::endpoint_key(network, id), encode(e.as_ref()))),
            );
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
        let mut matches = self.networks.values().filter(|n| n.id.starts_with(reference));
        match (matches.next(), matches.next()) {
            (Some(network), None) if !reference.is_empty() => Some(network),
            _ => None,
        }
    }

    /// All endpoints, network by network.
    pub fn all_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values().flat_map(BTreeMap::values).map(Arc::as_ref)
    }

    /// The endpoints on `network`.
    pub fn endpoints_on(&self, network: &NetworkId) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.get(network).into_iter().flat_map(BTreeMap::values).map(Arc::as_ref)
    }

    /// An endpoint's record.
    pub fn endpoint(&self, network: &NetworkId, id: &EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(network)?.get(id).map(Arc::as_ref)
    }

    /// The endpoint that uses `ip` on `network`.
    pub fn endpoint_at(&self, network: &NetworkId, ip: IpAddr) -> Option<&Endpoint> {
        let claim = self.addresses.get(network)?.get(&ip)?;
        self.endpoint(network, claim.endpoint.as_ref()?)
    }

    /// Takes over which nodes are absent, but for those that have left or have a lease by these records.
    pub fn take_absent(&mut self, absent: BTreeSet<NodeId>) {
        self.absent = absent;
        self.absent.retain(|id| self.nodes.contains_key(id) && !self.alive.contains_key(id));
    }

    /// A node's record, unless it is absent: whoever is to be sent to or named.
    pub fn present(&self, id: &NodeId) -> Option<&Node> {
        self.nodes.get(id).filter(|_| !self.absent.contains(id))
    }

    /// A node's name, or its short id when it has no record.
    pub fn node_name(&self, id: &NodeId) -> Cow<'_, str> {
        self.nodes.get(id).map_or_else(|| id.short().into(), |n| n.name.as_str().into())
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

/// A record's value; `None`: it was removed.
fn read<V: DeserializeOwned>(value: Option<&[u8]>) -> Result<Option<V>, String> {
    value.map(serde_json::from_slice).transpose().map_err(|error| error.to_string())
}

/// What cannot be read counts as removed.
fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Result<Option<V>, String>) -> Result<(), String> {
    if let Ok(Some(value)) = value {
        map.insert(key, value);
        return Ok(());
    }
    map.remove(&key);
    value.map(|_| ())
}

fn put_nested<A: Ord, B: Ord, V>(
    map: &mut BTreeMap<A, BTreeMap<B, V>>,
    outer: A,
    inner: B,
    value: Result<Option<V>, String>,
) -> Result<(), String> {
    use std::collections::btree_map::Entry;
    match map.entry(outer) {
        Entry::Vacant(slot) => {
            if let Some(value) = value? {
                slot.insert(BTreeMap::from([(inner, value)]));
            }
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
#[path = "snapshot_tests.rs"]
mod tests;
