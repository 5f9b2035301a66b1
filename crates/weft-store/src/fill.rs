//! Fills a store with records from elsewhere, and moves a cluster from one store to another.
//!
//! A store that is being filled is closed from its first record to its last, so that no daemon uses half of it; a run that
//! was broken off is found by that mark, and the next one begins again.

use crate::{KeyValue, LeaseId, Listing, Outcome, Record, Store, StoreError, Txn, Write, fence};
use std::{collections::BTreeMap, time::Duration};
use weft_model::{
    encode,
    schema::{self, Meta, Moved},
    unix_now,
};

/// How long a node that has moved may take to say that it lives before the others hold it for dead.
const ALIVE_FOR: Duration = Duration::from_mins(2);

/// Why a store was not filled.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// It has records, and nobody said that they may go.
    #[error("the store {store} is not empty: it holds {records} records")]
    NotEmpty {
        /// The store's address.
        store: String,
        /// How many.
        records: usize,
    },
    /// The store to copy from is closed for another reason.
    #[error("the store {store} has moved to {to} already")]
    MovedElsewhere {
        /// The store's address.
        store: String,
        /// The URL in its mark, or what else stands there.
        to: String,
    },
    /// The records that arrived are not those that were sent.
    #[error("the store {store} holds other records than it was given: {difference}")]
    Different {
        /// The store's address.
        store: String,
        /// The first key that differs.
        difference: String,
    },
    /// Somebody else works on it at the same time.
    #[error("the store {0} is being filled or emptied by somebody else at this moment")]
    Contended(String),
    /// A store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Records written.
    pub records: usize,
    /// Records that were there before and had to go.
    pub removed: usize,
}

/// Makes the store hold these records and nothing else. [`FillError::NotEmpty`] when it has some, unless `force` or they
/// are those of a run that was broken off.
pub async fn restore(store: &dyn Store, records: &[KeyValue], force: bool) -> Result<Filled, FillError> {
    let filling = close(store, force).await?;
    let filled = fill(store, records, &BTreeMap::new()).await?;
    open(store, &filling).await?;
    Ok(filled)
}

/// Moves a cluster: closes `from`, with `to_url` and `options` in the mark, fills `to` with its records and opens that.
/// Daemons that run follow the mark. A run that was broken off is finished by the next one with the same URL.
pub async fn copy(
    from: &dyn Store,
    to: &dyn Store,
    to_url: &str,
    options: &str,
) -> Result<Filled, FillError> {
    // First what can be refused without harm: the target has to be empty before anybody is sent there.
    let marked = check_source(from, to_url).await?;
    if marked && fence::moved(to).await?.is_none() && to.get(schema::META).await?.is_some() {
        // The run that was broken off had done everything.
        return Ok(Filled { records: 0, removed: 0 });
    }
    let filling = close(to, false).await?;
    if !marked {
        let moved = Moved { to: Some(to_url.to_owned()), options: options.to_owned(), since: unix_now() };
        let mark = Txn::new().absent(schema::MOVED).put(schema::MOVED, encode(&moved));
        if let Outcome::Refused(_) = from.commit(mark).await? {
            // Another run was faster, to this store or another.
            check_source(from, to_url).await?;
        }
    }
    let Listing { records, .. } = from.list(schema::ALL).await?;
    let records: Vec<_> = records
        .into_iter()
        .filter(|record| record.key != schema::MOVED)
        .map(|record| KeyValue { key: record.key, value: record.value })
        .collect();
    // Who lives is said with a lease of ours until the owner says it with its own; for who does not, it ends.
    let lease = to.grant(ALIVE_FOR).await?;
    let alive = records.iter().filter(|record| record.key.starts_with(schema::ALIVE));
    let leases = alive.map(|record| (record.key.clone(), lease)).collect();
    let filled = fill(to, &records, &leases).await?;
    open(to, &filling).await?;
    Ok(filled)
}

/// Whether the source is closed already, by a move to the same place.
async fn check_source(from: &dyn Store, to_url: &str) -> Result<bool, FillError> {
    match fence::moved(from).await? {
        None => Ok(false),
        Some(moved) if moved.to.as_deref() == Some(to_url) => Ok(true),
        Some(moved) => Err(FillError::MovedElsewhere {
            store: from.address(),
            to: moved.to.unwrap_or_else(|| "nowhere, since it is being filled itself".to_owned()),
        }),
    }
}

/// Opens a store again that was closed by a move, for daemons that have not followed: the move is given up.
/// Whether it was closed.
pub async fn reopen(from: &dyn Store, to: &dyn Store) -> Result<bool, FillError> {
    let Some(mark) = from.get(schema::MOVED).await? else { return Ok(false) };
    let to_open = fence::moved(to).await?.is_none() && to.get(schema::META).await?.is_some();
    if to_open {
        // Daemons write there by now.
        return Err(FillError::MovedElsewhere { store: from.address(), to: to.address() });
    }
    match from.commit(Txn::new().unchanged(schema::MOVED, mark.modified).delete(schema::MOVED)).await? {
        Outcome::Committed(_) => Ok(true),
        Outcome::Refused(_) => Err(FillError::Contended(from.address())),
    }
}

/// Closes a store that is to be filled. Its mark.
async fn close(store: &dyn Store, force: bool) -> Result<Record, FillError> {
    let listing = store.list(schema::ALL).await?;
    let mark = listing.records.iter().find(|record| record.key == schema::MOVED);
    let begun = match mark {
        Some(record) => fence::read(store, record)?.to.is_none(),
        None => false,
    };
    if !listing.records.is_empty() && !begun && !force {
        return Err(FillError::NotEmpty { store: store.address(), records: listing.records.len() });
    }
    let txn = match mark {
        Some(mark) => Txn::new().unchanged(schema::MOVED, mark.modified),
        None => Txn::new().absent(schema::MOVED),
    };
    let value = encode(&Moved { to: None, options: String::new(), since: unix_now() });
    match store.commit(txn.put(schema::MOVED, value.clone())).await? {
        Outcome::Committed(modified) => Ok(Record { key: schema::MOVED.to_owned(), value, modified }),
        Outcome::Refused(_) => Err(FillError::Contended(store.address())),
    }
}

/// Opens a store that has been filled.
async fn open(store: &dyn Store, filling: &Record) -> Result<(), FillError> {
    let meta = encode(&Meta { schema: schema::VERSION });
    let txn =
        Txn::new().unchanged(schema::MOVED, filling.modified).delete(schema::MOVED).put(schema::META, meta);
    match store.commit(txn).await? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Refused(_) => Err(FillError::Contended(store.address())),
    }
}

/// Removes what is in the store and writes the records, in as many transactions as that takes, and looks whether they are
/// there.
async fn fill(
    store: &dyn Store,
    records: &[KeyValue],
    leases: &BTreeMap<String, LeaseId>,
) -> Result<Filled, FillError> {
    let old = store.list(schema::ALL).await?.records;
    let old: Vec<_> = old.into_iter().map(|r| r.key).filter(|key| key != schema::MOVED).collect();
    let removals = old.iter().map(|key| Write::Delete { key: key.clone() });
    // The layout's version comes last, when the store is opened.
    let writes = records.iter().filter(|record| record.key != schema::META).map(|record| Write::Put {
        key: record.key.clone(),
        value: record.value.clone(),
        lease: leases.get(&record.key).copied(),
    });
    commit_all(store, removals).await?;
    commit_all(store, writes).await?;
    verify(store, records).await?;
    Ok(Filled { records: records.len(), removed: old.len() })
}

/// In transactions as large as the store takes.
async fn commit_all(store: &dyn Store, writes: impl Iterator<Item = Write>) -> Result<(), StoreError> {
    let limits = store.limits();
    let (mut txn, mut bytes) = (Txn::new(), 0);
    for write in writes {
        if txn.writes.len() == limits.operations || bytes + write.bytes() > limits.bytes {
            store.commit(std::mem::take(&mut txn)).await?;
            bytes = 0;
        }
        bytes += write.bytes();
        txn.writes.push(write);
    }
    if !txn.writes.is_empty() {
        store.commit(txn).await?;
    }
    Ok(())
}

async fn verify(store: &dyn Store, records: &[KeyValue]) -> Result<(), FillError> {
    let is_record = |key: &str| key != schema::MOVED && key != schema::META;
    let found: BTreeMap<_, _> =
        store.list(schema::ALL).await?.records.into_iter().map(|r| (r.key, r.value)).collect();
    let found: BTreeMap<_, _> =
        found.iter().filter(|(key, _)| is_record(key)).map(|(k, v)| (k.as_str(), v)).collect();
    let given: BTreeMap<_, _> =
        records.iter().filter(|r| is_record(&r.key)).map(|r| (r.key.as_str(), &r.value)).collect();
    let differs = |key: &&&str| found.get(**key) != given.get(**key);
    match given.keys().chain(found.keys()).find(differs) {
        Some(key) => Err(FillError::Different { store: store.address(), difference: (*key).to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "fill_tests.rs"]
mod tests;
