//! The store inside the daemon: one file on disk, so that a small cluster needs no other server.
//!
//! A call returns when its effect is on disk. All writes pass one thread (`writer.rs`), which gathers those that
//! wait into one disk transaction, each with a revision of its own. Reads see what is committed and wait for
//! nobody. A watch follows the file's change log, which keeps the last [`HISTORY`] revisions. Leases are on
//! disk, their ends in memory: after a restart of the daemon every lease has its full time again, because
//! nobody could have given a sign of life meanwhile.

mod authority;
mod disk;
mod file;
mod leases;
mod listener;
mod server;
mod watch;
mod writer;

pub use authority::{Authority, AuthorityError};
pub use server::serve;

use crate::{LeaseId, Listing, Outcome, Record, Store, StoreError, Txn, Watch};
use async_trait::async_trait;
use file::{Answer, Order, StoreFile};
use leases::Leases;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use weft_model::Revision;
use writer::Writer;

/// Revisions that a watch can go back, unless [`Embedded::open_with_history`] says otherwise.
pub const HISTORY: u64 = 10_000;

/// An open embedded store. The file is free for others once it is dropped, and its watches end then.
pub struct Embedded {
    core: Arc<Core>,
    writer: Writer,
}

/// What readers, watches and the writer share.
struct Core {
    file: StoreFile,
    leases: Leases,
    /// Who waits for what is written.
    watched: watch::Watched,
}

impl Core {
    /// Reads the file on a thread that may block.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        reading: impl FnOnce(&StoreFile) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let core = self.clone();
        let path = self.file.path().to_owned();
        tokio::task::spawn_blocking(move || reading(&core.file))
            .await
            .unwrap_or_else(|e| Err(storage(&path, &e)))
    }
}

impl Embedded {
    /// Opens the store's file, or makes it. [`StoreError::Storage`] when it cannot be used, for example because
    /// another process has it open.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::open_with_history(path, HISTORY).await
    }

    /// Like [`Embedded::open`], with a change log of this many revisions.
    pub async fn open_with_history(path: impl Into<PathBuf>, history: u64) -> Result<Self, StoreError> {
        let path = path.into();
        let opened = path.clone();
        tokio::task::spawn_blocking(move || {
            let file = StoreFile::open(&opened, history)?;
            let leases = Leases::starting_now(file.leases()?);
            let core = Arc::new(Core { file, leases, watched: watch::Watched::default() });
            let writer = Writer::start(core.clone()).map_err(|e| storage(&opened, &e))?;
            Ok(Self { core, writer })
        })
        .await
        .unwrap_or_else(|e| Err(storage(&path, &e)))
    }

    /// Reads every page of the store's file and compares its checksums. `false`: what was damaged has been mended from what is
    /// left. [`StoreError::Storage`] when it cannot be.
    pub async fn check_file(&self) -> Result<bool, StoreError> {
        self.core.read(StoreFile::check).await
    }

    /// The store's file.
    pub fn path(&self) -> &Path {
        self.core.file.path()
    }
}

#[async_trait]
impl Store for Embedded {
    fn address(&self) -> String {
        format!("local ({})", self.path().display())
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let key = key.to_owned();
        self.core.read(move |file| file.get(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let prefix = prefix.to_owned();
        self.core.read(move |file| file.list(&prefix)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        watch::start(&self.core, prefix, after).await
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        match self.writer.submit(Order::Commit(txn)).await? {
            Answer::Outcome(outcome) => Ok(outcome),
            Answer::Done => Err(storage(self.path(), &"the writer gave no outcome")),
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        // Random, so that a daemon that holds a lease of a store since wiped cannot mean somebody else's.
        let random = getrandom::u64().map_err(|e| storage(self.path(), &e))?;
        let lease = LeaseId(i64::try_from(random >> 1).unwrap_or(i64::MAX).max(1));
        self.writer.submit(Order::Grant(lease, ttl)).await?;
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        if self.core.leases.keep_alive(lease) { Ok(()) } else { Err(StoreError::LeaseLost(lease)) }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.writer.submit(Order::End(lease)).await.map(|_| ())
    }
}

fn storage(path: &Path, reason: &impl ToString) -> StoreError {
    StoreError::Storage { path: path.display().to_string(), reason: reason.to_string() }
}
