//! A store whose calls are counted.

use async_trait::async_trait;
use serde::Serialize;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use weft_model::Revision;
use weft_store::{LeaseId, Limits, Listing, Outcome, Record, Store, StoreError, Txn, Watch};

/// How often each call was made.
#[derive(Debug, Default)]
pub struct Calls {
    get: AtomicU64,
    list: AtomicU64,
    watch: AtomicU64,
    commit: AtomicU64,
    lease: AtomicU64,
    records: AtomicU64,
}

/// [`Calls`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Records read one at a time.
    pub get: u64,
    /// Listings.
    pub list: u64,
    /// Watches begun.
    pub watch: u64,
    /// Transactions.
    pub commit: u64,
    /// Leases granted, kept alive, revoked.
    pub lease: u64,
    /// Records in the answers to listings.
    pub records: u64,
}

impl Calls {
    /// How many there were up to now.
    pub fn counts(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            get: of(&self.get),
            list: of(&self.list),
            watch: of(&self.watch),
            commit: of(&self.commit),
            lease: of(&self.lease),
            records: of(&self.records),
        }
    }
}

impl Counts {
    /// Those that came after `before`.
    pub fn since(&self, before: Self) -> Self {
        Self {
            get: self.get - before.get,
            list: self.list - before.list,
            watch: self.watch - before.watch,
            commit: self.commit - before.commit,
            lease: self.lease - before.lease,
            records: self.records - before.records,
        }
    }

    /// All calls.
    pub fn sum(&self) -> u64 {
        self.get + self.list + self.watch + self.commit + self.lease
    }
}

/// A store that counts.
pub struct Counted {
    store: Arc<dyn Store>,
    calls: Arc<Calls>,
}

impl Counted {
    /// Counts the calls of `store` in `calls`, which several may share.
    pub fn new(store: Arc<dyn Store>, calls: Arc<Calls>) -> Self {
        Self { store, calls }
    }
}

fn count(calls: &AtomicU64) {
    calls.fetch_add(1, Ordering::Relaxed);
}

#[async_trait]
impl Store for Counted {
    fn address(&self) -> String {
        self.store.address()
    }

    fn limits(&self) -> Limits {
        self.store.limits()
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        count(&self.calls.get);
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        count(&self.calls.list);
        let listing = self.store.list(prefix).await?;
        self.calls.records.fetch_add(listing.records.len() as u64, Ordering::Relaxed);
        Ok(listing)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        count(&self.calls.watch);
        self.store.watch(prefix, after).await
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        count(&self.calls.commit);
        self.store.commit(txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        count(&self.calls.lease);
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        count(&self.calls.lease);
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        count(&self.calls.lease);
        self.store.revoke(lease).await
    }
}
