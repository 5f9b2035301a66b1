//! Telling the store what was done without it.
//!
//! An entry was made on what the node knew then. What the store holds now decides: an endpoint or a claim that is still this
//! node's is changed, one that is as it should be already is left (the answer to the first attempt was lost), one that has
//! become somebody else's, or whose network is gone, is refused, and the node takes back what it did.

use super::journal::{self, Step};
use crate::AgentError;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};
use weft_model::{
    AddressClaim, Endpoint, NodeId, Revision,
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
pub(super) async fn tell(
    store: &dyn Store,
    node: &NodeId,
    entry: &journal::Entry,
) -> Result<Told, AgentError> {
    for _ in 0..ATTEMPTS {
        let present = look(store, entry).await?;
        let txn = match decide(node, entry, &present) {
            Decision::Write(txn) => txn,
            Decision::Done => return Ok(Told::As(latest(&present))),
            Decision::Refuse(reason) => return Ok(Told::Refused(reason)),
        };
        match store.commit(txn).await {
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

/// The records that the entry is about, and the claims of addresses that an endpoint of it may have had before.
async fn look(store: &dyn Store, entry: &journal::Entry) -> Result<Present, AgentError> {
    let mut present = Present::new();
    let keys = entry.conditions.iter().map(|(key, _)| key).chain(entry.steps.iter().map(|step| &step.key));
    for key in keys {
        present.insert(key.clone(), store.get(key).await?);
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
    if entry.steps.iter().all(|step| is_as(&step.key, now(&step.key), step.after.as_deref())) {
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
    for step in &entry.steps {
        txn = match with_step(txn, node, step, now(&step.key)) {
            Ok(txn) => txn,
            Err(reason) => return Decision::Refuse(reason),
        };
    }
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
            let holder =
                owner(record).map_or_else(|| "nobody knows whom".to_owned(), |n| n.short().to_owned());
            return Err(format!("{key} is of node {holder} by now"));
        }
    };
    Ok(match &step.after {
        Some(value) => txn.put(key, value.clone().into_bytes()),
        None if now.is_some() => txn.delete(key),
        None => txn,
    })
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

fn is_claim(key: &str) -> bool {
    matches!(OnNetwork::parse(key), Ok(Some((_, OnNetwork::Address(_)))))
}

fn owner(record: &Record) -> Option<NodeId> {
    if is_claim(&record.key) {
        return serde_json::from_slice::<AddressClaim>(&record.value).ok().map(|claim| claim.node);
    }
    endpoint(record).map(|endpoint| endpoint.node)
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
