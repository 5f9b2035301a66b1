//! The store came back from a backup: what this host's containers use and the backup lacks is recorded again.
//!
//! A store's revisions only grow. A listing from before what was seen already comes from a store that was put back, and
//! what this host wrote since is missing in it although its containers go on. Each host records its own again, and the
//! networks that these are on, before the listing is looked at: the data path notices nothing. Nobody loses anything by
//! it: what was given to somebody else since (an address, a name, a VNI) stays theirs, and what could not be recorded for
//! that is told.

use crate::{outbox::Outbox, view::View};
use std::collections::{BTreeMap, BTreeSet};
use weft_model::{
    AddressClaim, Endpoint, NetworkId, NodeId, Snapshot, encode,
    schema::{self, Scope},
};
use weft_store::{Listing, Outcome, Record, Store, StoreError, Txn, Write};

/// Takes a listing of a scope that has arrived: if the store is of an earlier time, what it has lost of this host's is
/// recorded again first. Answers the listing as it is then.
pub(crate) async fn record_lost(
    outbox: &Outbox,
    view: &View,
    scope: &Scope,
    listing: Listing,
) -> Result<Listing, StoreError> {
    let seen = view.read(|s| s.revision);
    if listing.revision >= seen {
        return Ok(listing);
    }
    let node = view.this().id;
    // It may only have been overtaken by the changes of another scope, as most are where many hosts start at once. One key tells
    // which time it is in the store; to list everything for that would cost every host the whole cluster.
    if outbox.store().list(&schema::node_key(&node)).await?.revision >= seen {
        return Ok(listing);
    }
    // One scope after the other: the first records what concerns all of them.
    let _turn = outbox.restoring().await;
    let mut whole = outbox.store().list(schema::ALL).await?;
    let before = view.told();
    if is_older(&whole, &before, &node) {
        record_again(outbox.store(), &before, &node, &mut whole).await?;
    }
    whole.records.retain(|record| Scope::of(&record.key) == *scope);
    Ok(whole)
}

/// Whether the listing is of an earlier time than the snapshot, of the same cluster.
fn is_older(listing: &Listing, before: &Snapshot, node: &NodeId) -> bool {
    let this = schema::node_key(node);
    listing.revision < before.revision && listing.records.iter().any(|record| record.key == this)
}

/// Records in the store, and in the listing, what it lacks of the endpoints that `node` had before.
async fn record_again(
    store: &dyn Store,
    before: &Snapshot,
    node: &NodeId,
    listing: &mut Listing,
) -> Result<(), StoreError> {
    let known: BTreeSet<String> = listing.records.iter().map(|record| record.key.clone()).collect();
    let lost = before.all_endpoints().filter(|e| e.node == *node);
    let lost: Vec<&Endpoint> = lost.filter(|e| !known.contains(&schema::key_of_endpoint(e))).collect();
    let networks: BTreeSet<&NetworkId> = lost.iter().map(|endpoint| &endpoint.network).collect();
    let mut written: BTreeMap<String, Record> = BTreeMap::new();
    let missing = networks.into_iter().filter(|id| !known.contains(&schema::network_key(id)));
    for txn in missing.filter_map(|id| network(before, id)) {
        write(store, txn, &mut written).await?;
    }
    for endpoint in lost {
        let done = write(store, with_addresses(before, endpoint, listing), &mut written).await?;
        let (id, ip) = (endpoint.id.short(), endpoint.addresses().next().map(|ip| ip.to_string()));
        let address = ip.unwrap_or_default();
        if done {
            tracing::warn!(
                endpoint = id,
                address,
                "the store is of an earlier time: the endpoint is recorded again"
            );
        } else {
            tracing::error!(
                endpoint = id,
                address,
                "the store is of an earlier time, and the endpoint cannot be recorded again: its network is gone, or its \
                 address is somebody else's by now; start its container anew"
            );
        }
    }
    for (engine_network, binding) in before.bindings.get(node).into_iter().flatten() {
        let key = schema::binding_key(node, engine_network);
        if !known.contains(&key) {
            let there = schema::network_key(&binding.network);
            write(store, Txn::new().present(there).absent(&key).put(key, encode(binding)), &mut written)
                .await?;
        }
    }
    listing.records.retain(|record| !written.contains_key(&record.key));
    listing.records.extend(written.into_values());
    listing.records.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(())
}

/// A network with its name and its VNI. Another host may be faster with the same.
fn network(before: &Snapshot, id: &NetworkId) -> Option<Txn> {
    let network = before.networks.get(id)?;
    let (key, vni_key) = (schema::network_key(id), schema::vni_key(network.vni));
    let txn = Txn::new().absent(&key).absent(&vni_key).put(key, encode(network)).put(vni_key, encode(id));
    Some(match &network.name {
        Some(name) => {
            let key = schema::name_key(name);
            txn.absent(&key).put(key, encode(id))
        }
        None => txn,
    })
}

/// An endpoint with its addresses: free ones, or such as this host held then.
fn with_addresses(before: &Snapshot, endpoint: &Endpoint, listing: &Listing) -> Txn {
    let key = schema::key_of_endpoint(endpoint);
    let there = schema::network_key(&endpoint.network);
    let mut txn = Txn::new().present(there).absent(schema::removing_key(&endpoint.network)).absent(&key);
    for ip in endpoint.addresses() {
        let claim = before.addresses.get(&endpoint.network).and_then(|claims| claims.get(&ip));
        let Some(claim) = claim else { continue };
        let key = schema::address_key(&endpoint.network, ip);
        let held = listing.records.iter().find(|record| record.key == key);
        let ours = held.filter(|record| {
            serde_json::from_slice::<AddressClaim>(&record.value).is_ok_and(|c| c.node == endpoint.node)
        });
        txn = match ours {
            Some(record) => txn.unchanged(&key, record.modified),
            None => txn.absent(&key),
        };
        txn = txn.put(key, encode(claim));
    }
    txn.put(key, encode(endpoint))
}

/// Whether it was done; then what it wrote is among `written`.
async fn write(
    store: &dyn Store,
    txn: Txn,
    written: &mut BTreeMap<String, Record>,
) -> Result<bool, StoreError> {
    let (compares, writes) = (txn.compares.clone(), txn.writes.clone());
    let outcome = store.commit(txn).await?;
    for write in writes {
        let Write::Put { key, value, .. } = write else { continue };
        let record = match &outcome {
            Outcome::Committed(modified) => Some(Record { key: key.clone(), value, modified: *modified }),
            // Another host has recorded the same, and the listing is older.
            Outcome::Refused(present) => {
                let seen = compares.iter().zip(present).find(|(compare, _)| compare.key() == key);
                seen.and_then(|(_, record)| record.clone()).filter(|record| record.value == value)
            }
        };
        written.extend(record.map(|record| (key, record)));
    }
    Ok(matches!(outcome, Outcome::Committed(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::{Binding, ClaimKind, EndpointId, MacAddr, Network, Revision, Subnet, Vni};
    use weft_store::Embedded;

    const IP: &str = "10.9.0.2";

    fn endpoint(network: &NetworkId, node: &NodeId) -> Endpoint {
        Endpoint {
            id: EndpointId::random(),
            network: network.clone(),
            node: node.clone(),
            engine: "netns".to_owned(),
            container: None,
            sandbox: None,
            outside: None,
            mac: MacAddr::for_device(1),
            ipv4: Some(format!("{IP}/24").parse().unwrap()),
            ipv6: None,
            epoch: 1,
            created: 0,
        }
    }

    /// What a host knew: a network with its endpoint, long after what is in the store now.
    fn before(node: &NodeId) -> (Snapshot, Endpoint) {
        let id = NetworkId::random();
        let network = Network {
            id: id.clone(),
            name: Some("blue".parse().unwrap()),
            vni: Vni::new(4096).unwrap(),
            subnets: vec![Subnet::new("10.9.0.0/24".parse().unwrap())],
            mtu: None,
            internal: false,
            direct: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            address_driver: weft_model::AddressDriver::Weft,
            created_by: node.clone(),
            created: 0,
        };
        let endpoint = endpoint(&id, node);
        let claim = AddressClaim {
            kind: ClaimKind::Endpoint,
            node: node.clone(),
            endpoint: Some(endpoint.id.clone()),
            since: 0,
        };
        let mut before = Snapshot { revision: Revision(1000), ..Snapshot::default() };
        before.networks.insert(id.clone(), network);
        before.addresses.entry(id.clone()).or_default().insert(IP.parse().unwrap(), claim);
        before.endpoints.entry(id.clone()).or_default().insert(endpoint.id.clone(), endpoint.clone().into());
        let binding = Binding { network: id, mirrored: false };
        before.bindings.entry(node.clone()).or_default().insert("e1".to_owned(), binding);
        (before, endpoint)
    }

    async fn listed(store: &Embedded) -> Snapshot {
        let listing = store.list(schema::ALL).await.unwrap();
        let records = listing.records.into_iter().map(|r| (r.key, r.value));
        Snapshot { revision: Revision(0), ..Snapshot::from_records(listing.revision, records).0 }
    }

    #[tokio::test]
    async fn what_a_backup_lacks_is_recorded_again_with_its_network() {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(folder.path().join("store")).await.unwrap();
        let node = NodeId::random();
        let (before, _) = before(&node);
        store.commit(Txn::new().put(schema::node_key(&node), b"{}".to_vec())).await.unwrap();
        let mut listing = store.list(schema::ALL).await.unwrap();
        assert!(is_older(&listing, &before, &node));
        record_again(&store, &before, &node, &mut listing).await.unwrap();

        let now = listed(&store).await;
        let of_listing = listing.records.into_iter().map(|r| (r.key, r.value));
        let told = Snapshot { revision: Revision(0), ..Snapshot::from_records(Revision(0), of_listing).0 };
        assert_eq!(told, now, "the listing is as the store");
        assert_eq!((&now.endpoints, &now.addresses), (&before.endpoints, &before.addresses));
        assert_eq!((&now.networks, &now.bindings), (&before.networks, &before.bindings));
        assert_eq!((now.names.len(), now.vnis.len()), (1, 1));
    }

    #[tokio::test]
    async fn an_address_that_is_somebody_elses_by_now_stays_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(folder.path().join("store")).await.unwrap();
        let node = NodeId::random();
        let (before, endpoint) = before(&node);
        let key = schema::address_key(&endpoint.network, IP.parse().unwrap());
        let theirs = AddressClaim { kind: ClaimKind::Ipam, node: NodeId::random(), endpoint: None, since: 0 };
        store.commit(Txn::new().put(key, encode(&theirs))).await.unwrap();
        let mut listing = store.list(schema::ALL).await.unwrap();
        record_again(&store, &before, &node, &mut listing).await.unwrap();
        let now = listed(&store).await;
        assert_eq!(now.addresses[&endpoint.network][&IP.parse().unwrap()], theirs);
        assert_eq!(now.all_endpoints().count(), 0);
    }

    #[test]
    fn a_store_that_was_wiped_is_not_one_of_an_earlier_time() {
        let node = NodeId::random();
        let (before, _) = before(&node);
        assert!(!is_older(&Listing { revision: Revision(1), records: Vec::new() }, &before, &node));
    }
}
