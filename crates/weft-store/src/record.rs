//! What goes in and out of a store.

use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use weft_model::{Change, Revision, schema::Moved};

/// A key's value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The key, without the store's prefix.
    pub key: String,
    /// The value.
    #[serde(with = "crate::base64_value")]
    pub value: Vec<u8>,
    /// The revision of the transaction that wrote this value.
    pub modified: Revision,
}

/// Records as of one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The store's revision at that moment: a watch after it misses nothing.
    pub revision: Revision,
    /// In the order of their keys.
    pub records: Vec<Record>,
}

/// What must hold for a transaction to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// The key has no record.
    Absent(String),
    /// The key has a record.
    Present(String),
    /// The key's record is the one that revision wrote.
    Unchanged(String, Revision),
}

impl Compare {
    /// The key it looks at.
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Present(key) | Self::Unchanged(key, _) => key,
        }
    }

    /// Whether it holds for the key's present record.
    pub fn holds(&self, record: Option<&Record>) -> bool {
        match self {
            Self::Absent(_) => record.is_none(),
            Self::Present(_) => record.is_some(),
            Self::Unchanged(_, revision) => record.is_some_and(|r| r.modified == *revision),
        }
    }
}

/// A change that a transaction makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// Sets the value, whether or not there was one.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        #[serde(with = "crate::base64_value")]
        value: Vec<u8>,
        /// The lease that the record ends with.
        lease: Option<LeaseId>,
    },
    /// Removes the record, if there is one.
    Delete {
        /// The key.
        key: String,
    },
}

impl Write {
    /// The key it writes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key } => key.len(),
        }
    }
}

/// The largest transaction that a store takes: [`crate::Store::limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Compares and writes together.
    pub operations: usize,
    /// Bytes of keys and values together.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { operations: Txn::MAX_OPERATIONS, bytes: Txn::MAX_BYTES }
    }
}

/// Compares, and writes to do if they all hold. No key may be written twice; [`Txn::MAX_OPERATIONS`] compares
/// and writes together at most (etcd stops at 128 operations; Consul takes fewer, see [`Limits`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// All are done, or none.
    pub writes: Vec<Write>,
}

impl Txn {
    /// Compares and writes in one transaction, at most.
    pub const MAX_OPERATIONS: usize = 100;
    /// Bytes of keys and values in one transaction, at most. etcd refuses a request above 1.5 MiB.
    pub const MAX_BYTES: usize = 1280 * 1024;

    /// Whether a store with the usual limits can take it: [`StoreError::Invalid`] if not.
    pub fn check(&self) -> Result<(), StoreError> {
        self.check_within(&Limits::default())
    }

    /// Whether a store with these limits can take it: [`StoreError::Invalid`] if not.
    pub fn check_within(&self, limits: &Limits) -> Result<(), StoreError> {
        let operations = self.compares.len() + self.writes.len();
        if operations > limits.operations {
            return Err(StoreError::Invalid(format!(
                "a transaction of {operations} compares and writes: {} is the most",
                limits.operations
            )));
        }
        if self.compares.iter().map(Compare::key).chain(self.writes.iter().map(Write::key)).any(str::is_empty)
        {
            return Err(StoreError::Invalid("an empty key".to_owned()));
        }
        let mut written = BTreeSet::new();
        if let Some(twice) = self.writes.iter().map(Write::key).find(|key| !written.insert(*key)) {
            return Err(StoreError::Invalid(format!("{twice} is written twice in one transaction")));
        }
        let bytes: usize = self.compares.iter().map(|c| c.key().len()).sum::<usize>()
            + self.writes.iter().map(Write::bytes).sum::<usize>();
        if bytes > limits.bytes {
            return Err(StoreError::Invalid(format!(
                "a transaction of {bytes} bytes: {} is the most",
                limits.bytes
            )));
        }
        Ok(())
    }

    /// The first lease that it binds a record to.
    pub(crate) fn lease(&self) -> Option<LeaseId> {
        self.writes.iter().find_map(|write| match write {
            Write::Put { lease, .. } => *lease,
            Write::Delete { .. } => None,
        })
    }

    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if `key` has no record.
    #[must_use]
    pub fn absent(mut self, key: impl Into<String>) -> Self {
        self.compares.push(Compare::Absent(key.into()));
        self
    }

    /// Only if `key` has a record.
    #[must_use]
    pub fn present(mut self, key: impl Into<String>) -> Self {
        self.compares.push(Compare::Present(key.into()));
        self
    }

    /// Only if `key`'s record was written by `revision`.
    #[must_use]
    pub fn unchanged(mut self, key: impl Into<String>, revision: Revision) -> Self {
        self.compares.push(Compare::Unchanged(key.into(), revision));
        self
    }

    /// Sets `key`.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: Vec<u8>) -> Self {
        self.writes.push(Write::Put { key: key.into(), value, lease: None });
        self
    }

    /// Sets `key` for as long as `lease` lives.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<String>, value: Vec<u8>, lease: LeaseId) -> Self {
        self.writes.push(Write::Put { key: key.into(), value, lease: Some(lease) });
        self
    }

    /// Removes `key`.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push(Write::Delete { key: key.into() });
        self
    }
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, as this revision.
    Committed(Revision),
    /// Nothing was done. The present records of the compared keys, in the order of the compares.
    Refused(Vec<Option<Record>>),
}

impl Outcome {
    /// For a store that puts one more compare behind those of its caller's transaction: the outcome as the caller is told it,
    /// and, of a refused one, the record that the last compare met.
    #[must_use]
    pub fn without_last(self) -> (Self, Option<Record>) {
        match self {
            Self::Committed(revision) => (Self::Committed(revision), None),
            Self::Refused(mut present) => {
                let last = present.pop().flatten();
                (Self::Refused(present), last)
            }
        }
    }
}

/// All changes of one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The revision.
    pub revision: Revision,
    /// What it changed.
    pub changes: Vec<Change>,
}

/// A stream of changes; see [`crate::Store::watch`].
pub type Watch = BoxStream<'static, Result<Batch, StoreError>>;

/// A lease's identity in its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub i64);

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum StoreError {
    /// No answer, or a broken one. A transaction may or may not have taken effect.
    #[error("the store {store} does not answer: {reason}")]
    Unreachable {
        /// The store's address.
        store: String,
        /// What the transport said.
        reason: String,
    },
    /// The store does not let us in.
    #[error("the store {store} refuses this daemon: {reason}")]
    Denied {
        /// The store's address.
        store: String,
        /// What it said.
        reason: String,
    },
    /// The store does not prove who it is.
    #[error("the store {store} cannot be trusted: {reason}")]
    Untrusted {
        /// The store's address.
        store: String,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// The store is closed: it has moved, or is being filled.
    #[error("the store {store} {}", closed(.moved))]
    Moved {
        /// The store's address.
        store: String,
        /// The mark in it.
        moved: Moved,
    },
    /// The history that a watch asked for is gone.
    #[error("the store has forgotten its history up to revision {0}")]
    Compacted(Revision),
    /// The lease has ended.
    #[error("lease {} has ended", .0.0)]
    LeaseLost(LeaseId),
    /// The request breaks the store's limits.
    #[error("the store cannot take this request: {0}")]
    Invalid(String),
    /// The store's own files cannot be used.
    #[error("the embedded store at {path} cannot be used: {reason}")]
    Storage {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl StoreError {
    /// Whether the store is of no use at present although nothing is wrong with what it was asked: it does not answer, its
    /// disk fails, or it has moved. A transaction may have taken effect unless the error is [`StoreError::Moved`].
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Storage { .. } | Self::Moved { .. })
    }
}

fn closed(moved: &Moved) -> String {
    match &moved.to {
        Some(to) => format!("has moved to {to}"),
        None => "is being filled and cannot be used yet: `weft store restore` or `weft store copy` is at it, or has to be \
                 run again if it was broken off"
            .to_owned(),
    }
}
