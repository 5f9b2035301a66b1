//! Records in Consul, by its HTTP API.
//!
//! Records stand in Consul's key-value store below `PREFIX/`, where `consul kv get` shows them. Consul keeps no
//! history, so the store keeps one there itself: see `journal.rs`. With it the trait's promises hold as they do
//! with etcd: transactions are atomic and linearizable (raft decides; reads use the `consistent` mode), and a
//! watch delivers every change once and in order, or ends with [`StoreError::Compacted`].
//!
//! Revisions: Consul writes a transaction's records and its entry in the change log at one raft index. A revision
//! is that index below the store's epoch, a number drawn when the store was born. `X-Consul-Index` is used for
//! nothing but waiting: of a prefix it may go back, when Consul reaps what it knows of removed keys, when it is
//! wiped or restored; then the query is asked again without waiting. A watch goes on only from an entry that is
//! still in the change log, so a store that was wiped, or restored from a snapshot without that entry, is listed
//! again.
//!
//! What Consul cannot do that etcd can:
//! - Large transactions: [`Store::limits`] says 56 compares and writes and 176 KiB instead of 100 and 1.25 MiB (64
//!   operations and requests of 512 KiB are Consul's own limits, and the change log needs its part). A larger
//!   one is refused with [`StoreError::Invalid`] before it is sent.
//! - Short leases: 10 s is the least, and Consul may take twice the time to live to notice the end. Records of an
//!   ended lease are removed by the clients: without a client that watches they stay until one does.
//! - Changes that others make by hand (`consul kv put`, `delete`) are read, but no watch tells of them: weft's
//!   daemons see them with their next full listing. etcd's watches tell of any change.
//! - A session belongs to the node whose agent made it: deregistering that node from Consul's catalog ends it.
//!
//! The ACL token needs `key_prefix "PREFIX/" { policy = "write" }` and `session_prefix "" { policy = "write" }`.

mod api;
mod client;
mod commit;
pub mod fuzzing;
mod journal;
mod layout;
mod lease;
mod segments;
mod watch;

pub use client::ConsulOptions;

use crate::{
    LeaseId, Limits, Listing, OptionError, Outcome, Record, Store, StoreError, StoreOptions, Txn, Watch,
};
use api::{Applied, Op};
use async_trait::async_trait;
use client::Client;
use futures::{StreamExt, stream};
use layout::Layout;
use lease::Reaper;
use segments::Segments;
use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};
use watch::Watching;
use weft_model::Revision;

/// A Consul cluster, and the prefix below which the records stand.
pub struct Consul {
    core: Arc<Core>,
    /// Works from the first watch on.
    reaper: OnceLock<Arc<Reaper>>,
}

/// What calls, watches and the reaper share.
struct Core {
    client: Client,
    layout: Layout,
    /// The change log's segments, as last seen.
    segments: Mutex<Option<Arc<Segments>>>,
}

impl Consul {
    /// Prepares the use of the Consul cluster whose agents answer at `endpoints` (`host:port` each; all of one
    /// datacenter). Nothing is sent yet, so this does not fail when Consul is down; [`crate::probe`] tells.
    /// `timeout` bounds every call. [`StoreError::Invalid`] when something in `options` cannot be used.
    pub fn connect(
        endpoints: &[String],
        prefix: &str,
        timeout: Duration,
        options: &ConsulOptions,
    ) -> Result<Self, StoreError> {
        Ok(Self::of(Self::client(endpoints, prefix, timeout, options)?, prefix))
    }

    /// The same with the options of `--cluster-store-opt`. The token's file is read again when Consul does not take the
    /// token any more.
    pub fn connect_with(
        endpoints: &[String],
        prefix: &str,
        timeout: Duration,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let invalid = |e: OptionError| StoreError::Invalid(e.to_string());
        let tls = options.tls().map_err(invalid)?;
        let now = ConsulOptions { token: options.token().map_err(invalid)?, tls };
        let client = Self::client(endpoints, prefix, timeout, &now)?.with_token_from(options.clone());
        Ok(Self::of(client, prefix))
    }

    fn client(
        endpoints: &[String],
        prefix: &str,
        timeout: Duration,
        options: &ConsulOptions,
    ) -> Result<Client, StoreError> {
        let address = format!("consul://{}/{prefix}", endpoints.join(","));
        // They would not survive in a URL's path.
        if prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(StoreError::Invalid(format!(
                "{address}: the prefix has an empty part, \".\" or \"..\""
            )));
        }
        Client::new(address, endpoints, timeout, options)
    }

    fn of(client: Client, prefix: &str) -> Self {
        let core = Core { client, layout: Layout::new(prefix), segments: Mutex::new(None) };
        Self { core: Arc::new(core), reaper: OnceLock::new() }
    }
}

#[async_trait]
impl Store for Consul {
    fn address(&self) -> String {
        self.core.client.address().to_owned()
    }

    fn limits(&self) -> Limits {
        commit::LIMITS
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let whole = self.core.layout.record(key);
        let seen = self.core.see(std::slice::from_ref(&whole)).await?;
        Ok(seen.entries.get(&whole).and_then(|entry| seen.record(&self.core.layout, entry)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let ops = [Op::Tree(self.core.layout.head()), Op::Tree(self.core.layout.record(prefix))];
        let found = match self.core.client.look(&ops).await? {
            Applied::Done(found) => found,
            Applied::Failed(failures) => return Err(self.core.unexpected(&failures)),
        };
        let seen = self.core.seen(found).await?;
        let records =
            seen.entries.values().filter_map(|entry| seen.record(&self.core.layout, entry)).collect();
        Ok(Listing { revision: seen.revision(), records })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let reaper = self.reaper.get_or_init(|| Arc::new(Reaper::start(self.core.clone()))).clone();
        let watching = Watching::start(self.core.clone(), reaper, prefix.to_owned(), after).await?;
        Ok(stream::try_unfold(watching, Watching::next).boxed())
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.core.commit(&txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.core.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.core.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.core.revoke(lease).await
    }
}

fn random() -> Result<u64, StoreError> {
    getrandom::u64().map_err(|e| StoreError::Invalid(format!("this machine has no random numbers: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_no_path_can_carry_is_refused() {
        for prefix in ["", "a//b", "a/../b", "."] {
            let endpoints = ["h:1".to_owned()];
            let made = Consul::connect(&endpoints, prefix, Duration::from_secs(1), &ConsulOptions::default());
            assert!(matches!(made, Err(StoreError::Invalid(_))), "{prefix:?}");
        }
    }
}
