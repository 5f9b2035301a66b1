//! Where the cluster's records live: one trait, and one file for each store that implements it.
//!
//! A store is a map from keys to values with one revision for the whole of it: every committed transaction
//! raises it, every record remembers the one that wrote it, a watch delivers every change after a given one
//! once and in order or ends with an error. The records' layout is [`weft_model::schema`]'s business.

mod backoff;
mod backup;
mod base64_value;
mod check;
mod consul;
pub mod embedded;
mod etcd;
mod fence;
mod fill;
mod follower;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod join_token;
mod lease;
mod open;
mod options;
mod pin;
mod record;
mod remote;
mod replace;
mod request;
pub mod task;
mod tls;
mod url;
mod wire;

pub use backup::{Backup, BackupError, BackupHead, KeyValue};
pub use check::{Finding, check};
pub use consul::{Consul, ConsulOptions};
pub use embedded::Embedded;
pub use etcd::{Etcd, leaves, list_v2};
pub use fence::{Fenced, moved};
pub use fill::{FillError, Filled, copy, reopen, restore};
pub use follower::{Event, FollowOptions, Follower, follow, follow_with};
pub use join_token::{JoinToken, JoinTokenError};
pub use lease::{LeaseKeeper, LeaseState};
pub use open::{EMBEDDED_FILE, OpenOptions, Opened, open, probe};
pub use options::{OptionError, StoreOptions};
pub use pin::Pin;
pub use record::{Batch, Compare, LeaseId, Limits, Listing, Outcome, Record, StoreError, Txn, Watch, Write};
pub use remote::Remote;
pub use replace::replace_file;
pub use tls::Tls;
pub use url::{StoreUrl, UrlError};

use async_trait::async_trait;
use std::time::Duration;
use weft_model::Revision;

/// A store. Keys are relative to the prefix of the store's URL, which the implementer adds and takes off.
///
/// What an implementer must guarantee: transactions are atomic and linearizable; revisions never go back within
/// the life of the store; a call either took effect and says so, or fails with an error; after
/// [`StoreError::Unreachable`] a transaction may or may not have taken effect, and the caller looks.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The store's address, for people to read (no secrets in it).
    fn address(&self) -> String;

    /// The largest transaction that it takes. Every store takes some dozens of operations and 128 KiB.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// The record at `key`.
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError>;

    /// All records whose keys begin with `prefix`, in the order of their keys, all as of one revision.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Every change after `after`, a revision that this store gave out or [`Revision::ZERO`], to keys that begin with `prefix`: each once, in order, all changes of one
    /// revision in one batch. The stream ends with an error when it cannot go on;
    /// [`StoreError::Compacted`] when history since `after` is gone (then list again).
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError>;

    /// Does all writes if all compares hold, else none.
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// A lease that ends `ttl` after its last sign of life; records bound to it end with it. A store may have a
    /// shortest time to live, which it takes instead of a shorter one, and may notice the end late.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// A sign of life. [`StoreError::LeaseLost`] when the lease has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease and the records bound to it. Ending one that has ended is no error.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// This host has lost an address: a connection that was made from it is dead, and nothing will ever say so but
    /// time. A store that would wait for long begins new connections.
    async fn address_lost(&self) {}
}
