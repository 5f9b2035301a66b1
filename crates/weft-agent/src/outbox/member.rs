//! Nothing is written for this node that is not a member: who finds a record of a node without a record of its own takes it
//! for what a host left behind that has left the cluster, and `weft gc` removes it.
//!
//! A daemon that starts after `weft down`, or whose host was declared dead, is asked for containers before its record is in
//! the store again.

use crate::view::View;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use weft_model::{NodeId, encode, schema};
use weft_store::{Compare, Outcome, Store, StoreError, Txn, Write};

/// How often a write is tried when the node's record is removed again each time.
const ATTEMPTS: usize = 16;

/// The store, for what this node writes.
pub(crate) struct Member {
    pub(super) store: Arc<dyn Store>,
    view: Arc<View>,
    pub(super) node: NodeId,
    left: AtomicBool,
}

impl Member {
    pub(super) fn new(store: Arc<dyn Store>, view: Arc<View>, node: NodeId) -> Self {
        Self { store, view, node, left: AtomicBool::new(false) }
    }

    /// This host leaves the cluster: its record does not come back.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::SeqCst);
    }

    /// Whether this host has left the cluster, or is about to.
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }

    /// Does a transaction; one that puts records of no lease on the condition that the node's record is there, which it writes
    /// if need be. What the transaction itself says of that record counts.
    pub(super) async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let key = schema::node_key(&self.node);
        let puts = txn.writes.iter().any(|write| matches!(write, Write::Put { lease: None, .. }));
        let names_it = txn.compares.iter().map(Compare::key).any(|named| named == key)
            || txn.writes.iter().any(|write| write.key() == key);
        if !puts || names_it {
            return self.store.commit(txn).await;
        }
        for _ in 0..ATTEMPTS {
            let (outcome, member) = self.store.commit(txn.clone().present(&key)).await?.without_last();
            let Outcome::Refused(present) = &outcome else { return Ok(outcome) };
            if member.is_some()
                || !txn.compares.iter().zip(present).all(|(c, record)| c.holds(record.as_ref()))
            {
                return Ok(outcome);
            }
            if self.has_left() {
                return Err(StoreError::Invalid("this host has left the cluster".to_owned()));
            }
            let record = Txn::new().absent(&key).put(&key, encode(&self.view.this()));
            self.store.commit(record).await?;
        }
        let reason = format!("somebody removes the record of node {} all the time", self.node.short());
        Err(StoreError::Unreachable { store: self.store.address(), reason })
    }
}
