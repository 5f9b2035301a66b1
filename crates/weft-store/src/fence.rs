//! A store as daemons use it: once it is closed ([`schema::MOVED`]), nothing of theirs is written any more.
//!
//! Every transaction carries one more compare, that the mark is absent. So the transaction that sets the mark has a place
//! in the store's one order, and everything is either before it, and moves along, or is refused.

use crate::{LeaseId, Limits, Listing, Outcome, Record, Store, StoreError, Txn, Watch};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};
use weft_model::{
    Revision,
    schema::{self, Moved},
};

/// The mark of a store that is closed.
pub async fn moved(store: &dyn Store) -> Result<Option<Moved>, StoreError> {
    store.get(schema::MOVED).await?.as_ref().map(|record| read(store, record)).transpose()
}

/// The mark in a record.
pub(crate) fn read(store: &dyn Store, record: &Record) -> Result<Moved, StoreError> {
    serde_json::from_slice(&record.value).map_err(|e| {
        StoreError::Invalid(format!("{} in the store {} cannot be read: {e}", schema::MOVED, store.address()))
    })
}

/// See the module.
pub struct Fenced(Arc<dyn Store>);

impl Fenced {
    /// Fences a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }
}

#[async_trait]
impl Store for Fenced {
    fn address(&self) -> String {
        self.0.address()
    }

    fn limits(&self) -> Limits {
        let limits = self.0.limits();
        Limits { operations: limits.operations - 1, bytes: limits.bytes - schema::MOVED.len() }
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        self.0.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.0.list(prefix).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.0.watch(prefix, after).await
    }

    /// [`StoreError::Moved`] when the store is closed: then nothing was done.
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check_within(&self.limits())?;
        let (outcome, mark) = self.0.commit(txn.absent(schema::MOVED)).await?.without_last();
        match mark {
            Some(mark) => Err(StoreError::Moved { store: self.address(), moved: read(&*self.0, &mark)? }),
            None => Ok(outcome),
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.0.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.revoke(lease).await
    }

    async fn address_lost(&self) {
        self.0.address_lost().await;
    }
}
