//! Telling the store what was done without it.
//!
//! An entry was made on what the node knew then. What the store holds now decides: an endpoint or a claim that is still this
//! node's is changed, one that is as it should be already is left (the answer to the first attempt was lost), one that has
//! become somebody else's, or whose network is gone, is refused, and the node takes back what it did.

use super::{
    journal::{self, Step},
    member::Member,
};
use crate::{AgentError, endpoints::with_claim_given_back};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};
use weft_model::{
    AddressClaim, ClaimKind, Endpoint, NodeId, Revision,
    schema::{self, OnNetwork},
};
use weft_store::{Outcome, Record, Store, StoreError, Txn};

/// How often an entry is tried when records change between look and write. Only this node writes them, so once is the rule.
const ATTEMPTS: usize = 16;

/// What became of an entry.
pub(super) enum Told {
    /// The store has it, by this revision at the latest.
    As(Revision),
    /// It cannot be.
    Refused(String),
}

/// Tells one entry.
pub(super) async fn tell(member: &Member, entry: &journal::Entry) -> Result<Told, AgentError> {
    for _ in 0..ATTEMPTS {
        let present = look(member.store.as_ref(), entry).await?;
        let txn = match decide(&member.node, entry, &present) {
            Decision::Write(txn) => txn,
            Decision::Done => return Ok(Told::As(latest(&present))),
            Decision::Refuse(reason) => return Ok(Told::Refused(reason)),
        };
        match member.commit(txn).await {
            Ok(Outcome::Committed(revision)) => return Ok(Told::As(revision)),
            Ok(Outcome::Refused(_)) => {}
            // Nothing that is tried again will make it smaller or well-formed.
            Err(StoreError::Invalid(reason)) => return Ok(Told::Refused(reason)),
            Err(error) => return Err(error.into()),
        }
    }
    Err(AgentError::Contention("what was done while the store was away".to_owned(), 16))
}

type Present = BTreeMap<String, Option<Record>>;

/// The records that the entry is about, the endpoints that its claims are of, and the claims of addresses that an endpoint
/// of it may have had before.
async fn look(store: &dyn Store, entry: &journal::Entry) -> Result<Present, AgentError> {
    let mut present = Present::new();
    let keys = entry.conditions.iter().map(|(key, _)| key).chain(entry.steps.iter().map(|step| &step.key));
    for key in keys {
        present.insert(key.clone(), store.get(key).await?);
    }
    let holders: Vec<_> = present.values().flatten().filter_map(holder).collect();
    for key in holders {
        if let Entry::Vacant(slot) = present.entry(key) {
            let record = store.get(slot.key()).await?;
            slot.insert(record);
        }
    }
    let endpoints: Vec<Endpoint> = present.values().flatten().filter_map(endpoint).collect();
    for (endpoint, ip) in endpoints.iter().flat_map(|e| e.addresses().map(move |ip| (e, ip))) {
        let key = schema::address_key(&endpoint.network, ip);
        if let Entry::Vacant(slot) = present.entry(key) {
            let record = store.get(slot.key()).await?;
            slot.insert(record);
        }
    }
    Ok(present)
}

fn latest(present: &Present) -> Revision {
    present.values().flatten().map(|record| record.modified).max().unwrap_or(Revision::ZERO)
}

enum Decision {
    Write(Txn),
    Done,
    Refuse(String),
}

fn decide(node: &NodeId, entry: &journal::Entry, present: &Present) -> Decision {
    let now = |key: &str| present.get(key).and_then(Option::as_ref);
    let is_gone = |step: &&Step| is_given_back(step) && now(&step.key).is_none();
    let steps = entry.steps.iter().filter(|step| !is_gone(step));
    if steps.clone().all(|step| is_as(&step.key, now(&step.key), step.after.as_deref())) {
        return Decision::Done;
    }
    let mut txn = Txn::new();
    for (key, there) in &entry.conditions {
        if let Some(mark) = now(key).filter(|_| !there && key.starts_with(schema::REMOVING)) {
            // The container runs, so the network is in use: the removal ends here, and whoever asked for it is told why when
            // they look again.
            txn = txn.unchanged(key, mark.modified).delete(key);
            continue;
        }
        if now(key).is_some() != *there {
            return Decision::Refuse(if *there {
                format!("{key} is gone")
            } else {
                format!("{key} is there")
            });
        }
        txn = if *there { txn.present(key) } else { txn.absent(key) };
    }
    for step in steps {
        txn = match with_step(txn, node, step, now(&step.key)) {
            Ok(txn) => txn,
            Err(reason) => return Decision::Refuse(reason),
        };
    }
    let txn = without_lost_endpoints(txn, node, entry, present);
    Decision::Write(without_lost_claims(txn, entry, present))
}

fn with_step(txn: Txn, node: &NodeId, step: &Step, now: Option<&Record>) -> Result<Txn, String> {
    let key = &step.key;
    let txn = match now {
        None if step.before.is_some() && step.after.is_some() => {
            return Err(format!("{key} is gone: somebody has removed it from the store"));
        }
        None => txn.absent(key),
        Some(record) if owner(record).as_ref() == Some(node) => txn.unchanged(key, record.modified),
        Some(record) => {
            let holder = owner(record).map_or_else(|| "nobody knows whom".to_owned(), |n| n.short());
            return Err(format!("{key} is of node {holder} by now"));
        }
    };
    Ok(match &step.after {
        Some(value) => txn.put(key, value.clone().into_bytes()),
        None if now.is_some() => txn.delete(key),
        None => txn,
    })
}

/// A daemon that was killed, and started with a snapshot from before, does not know the last endpoints that it made. An engine
/// that gives back the address of one has removed the endpoint, although nobody could tell the store then.
fn without_lost_endpoints(mut txn: Txn, node: &NodeId, entry: &journal::Entry, present: &Present) -> Txn {
    let now = |key: &str| present.get(key).and_then(Option::as_ref);
    let written = |key: &str| entry.steps.iter().any(|step| step.key == key);
    let mut lost = BTreeMap::new();
    for step in &entry.steps {
        let Some(key) = now(&step.key).and_then(holder).filter(|key| !written(key)) else { continue };
        let of = |json: &Option<String>| holder_of(&step.key, &claim(json.as_deref())?);
        // Whoever left the address to the endpoint has seen it, though the view had not.
        let is_known = [&step.before, &step.after].into_iter().any(|json| of(json).as_ref() == Some(&key));
        if !is_known
            && let Some(record) = now(&key)
            && let Some(endpoint) = endpoint(record).filter(|endpoint| endpoint.node == *node)
        {
            lost.insert(key, (record.modified, endpoint));
        }
    }
    for (key, (revision, endpoint)) in lost {
        txn = txn.unchanged(&key, revision).delete(&key);
        for claim in endpoint.addresses().map(|ip| schema::address_key(&endpoint.network, ip)) {
            if !written(&claim) {
                txn = with_claim_given_back(txn, now(&claim).cloned(), &endpoint.id, false);
            }
        }
    }
    txn
}

/// A first attempt that the store did not answer may have made the endpoint with another address. Nobody would give its
/// claim back.
fn without_lost_claims(txn: Txn, entry: &journal::Entry, present: &Present) -> Txn {
    let written = |key: &str| entry.steps.iter().any(|step| step.key == key);
    let replaced = entry.steps.iter().filter_map(|step| present.get(&step.key)?.as_ref().and_then(endpoint));
    let lost = replaced.flat_map(|before| {
        let ips: Vec<IpAddr> = before.addresses().collect();
        ips.into_iter().filter_map(move |ip| {
            let key = schema::address_key(&before.network, ip);
            let record = present.get(&key)?.as_ref()?;
            let claim: AddressClaim = serde_json::from_slice(&record.value).ok()?;
            let is_lost = claim.endpoint.as_ref() == Some(&before.id)
                && !written(&key)
                && !still_has(entry, &before, ip);
            is_lost.then_some((key, record.modified))
        })
    });
    lost.fold(txn, |txn, (key, revision)| txn.unchanged(&key, revision).delete(key))
}

/// Whether the endpoint has the address after the entry.
fn still_has(entry: &journal::Entry, before: &Endpoint, ip: IpAddr) -> bool {
    let key = schema::key_of_endpoint(before);
    entry.steps.iter().filter(|step| step.key == key).any(|step| {
        let after = step.after.as_deref().and_then(|value| serde_json::from_str::<Endpoint>(value).ok());
        after.is_some_and(|endpoint| endpoint.addresses().any(|has| has == ip))
    })
}

fn endpoint(record: &Record) -> Option<Endpoint> {
    if !matches!(OnNetwork::parse(&record.key), Ok(Some((_, OnNetwork::Endpoint(_))))) {
        return None;
    }
    serde_json::from_slice(&record.value).ok()
}

fn claim(json: Option<&str>) -> Option<AddressClaim> {
    serde_json::from_str(json?).ok()
}

/// The key of the endpoint that has the address, if the record is a claim of an endpoint's.
fn holder(record: &Record) -> Option<String> {
    holder_of(&record.key, &serde_json::from_slice(&record.value).ok()?)
}

fn holder_of(key: &str, claim: &AddressClaim) -> Option<String> {
    let Ok(Some((network, OnNetwork::Address(_)))) = OnNetwork::parse(key) else { return None };
    Some(schema::endpoint_key(&network, claim.endpoint.as_ref()?))
}

fn is_claim(key: &str) -> bool {
    matches!(OnNetwork::parse(key), Ok(Some((_, OnNetwork::Address(_)))))
}

fn owner(record: &Record) -> Option<NodeId> {
    if is_claim(&record.key) {
        return serde_json::from_slice::<AddressClaim>(&record.value).ok().map(|claim| claim.node);
    }
    endpoint(record).map(|endpoint| endpoint.node)
}

/// Whether an address is kept for the next container that the store would have been given back, had it been there. One that
/// the store had got back already is nothing to keep.
fn is_given_back(step: &Step) -> bool {
    let after = step.after.as_deref().filter(|_| step.before.is_some() && is_claim(&step.key));
    claim(after).is_some_and(|claim| claim.kind == ClaimKind::Reserved)
}

/// Whether the record is what the JSON says, whatever way it was written in.
fn is_as(key: &str, record: Option<&Record>, json: Option<&str>) -> bool {
    let (Some(record), Some(json)) = (record, json) else { return record.is_none() && json.is_none() };
    if is_claim(key) {
        let there = serde_json::from_slice::<AddressClaim>(&record.value).ok();
        return there.is_some() && there == serde_json::from_str(json).ok();
    }
    let there = serde_json::from_slice::<Endpoint>(&record.value).ok();
    there.is_some() && there == serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::cluster::{Cluster, endpoint as spec};
    use weft_model::encode;

    #[tokio::test]
    async fn what_an_engine_gave_back_is_told_although_the_daemon_did_not_know_the_last_of_it() {
        let cluster = Cluster::new().await;
        let host = cluster.host(1).await;
        let network = host.network("blue", "10.9.0.0/24").await;
        let subnet = network.subnets[0].net;
        let ip = host.agent.claim_address(&network.id, subnet, None).await.unwrap();
        let addresses = vec![ip.addr()];
        let made =
            host.agent.create_endpoint(crate::EndpointSpec { addresses, ..spec(&network.id) }).await.unwrap();
        let key = schema::address_key(&network.id, made.addresses().next().unwrap());
        let (store, member) = (cluster.store.as_ref(), &host.agent.0.outbox.member);
        let claim: AddressClaim =
            serde_json::from_slice(&store.get(&key).await.unwrap().unwrap().value).unwrap();
        assert_eq!((claim.kind, &claim.endpoint), (ClaimKind::Ipam, &Some(made.id.clone())));
        let json = |claim: &AddressClaim| String::from_utf8(encode(claim)).unwrap();

        // The endpoint is known: its removal is an entry of its own, and this one does not touch it.
        let after = AddressClaim { kind: ClaimKind::Endpoint, ..claim.clone() };
        let step = |before: &AddressClaim, after: Option<&AddressClaim>| journal::Entry {
            conditions: vec![],
            steps: vec![Step { key: key.clone(), before: Some(json(before)), after: after.map(&json) }],
        };
        let before = AddressClaim { endpoint: None, ..claim.clone() };
        // So it is when the store told of the endpoint only as its address was given back.
        for before in [&claim, &before] {
            store.commit(Txn::new().put(&key, encode(&claim))).await.unwrap();
            let told = tell(member, &step(before, Some(&after))).await.unwrap();
            assert!(matches!(told, Told::As(_)));
            assert!(store.get(&schema::key_of_endpoint(&made)).await.unwrap().is_some());
            let now = store.get(&key).await.unwrap().unwrap();
            assert_eq!(serde_json::from_slice::<AddressClaim>(&now.value).unwrap(), after);
        }

        // The store had got it back before: there is nothing to keep.
        let gone = schema::address_key(&network.id, "10.9.0.99".parse().unwrap());
        let mut entry = step(&claim, Some(&AddressClaim { kind: ClaimKind::Reserved, ..claim.clone() }));
        entry.steps[0].key.clone_from(&gone);
        assert!(matches!(tell(member, &entry).await.unwrap(), Told::As(_)));
        assert!(store.get(&gone).await.unwrap().is_none());

        // What the daemon's snapshot knew is from before the endpoint.
        let kept = AddressClaim { kind: ClaimKind::Reserved, ..before.clone() };
        let told = tell(member, &step(&before, Some(&kept))).await.unwrap();
        assert!(matches!(told, Told::As(_)));
        assert!(store.get(&schema::key_of_endpoint(&made)).await.unwrap().is_none());
        let now = store.get(&key).await.unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<AddressClaim>(&now.value).unwrap(), kept);
    }
}
