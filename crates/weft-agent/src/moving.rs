//! Following the cluster to another store: `weft store copy` has left a mark in this one, and this daemon goes where it says.
//!
//! From the mark on, nothing is written to the old store (see [`weft_store::Fenced`]); what a node may do alone goes into the
//! outbox meanwhile, as if the store were away. When the new store is open, everything that asks the store is answered by
//! that one: the follower lists it, the outbox tells it what it has, the lease is taken there. Where the store is by now is
//! kept in the state directory, so that a daemon that starts with the old URL finds it also when the old store is gone.

use crate::{Agent, AgentError};
use async_trait::async_trait;
use futures::{StreamExt, future::BoxFuture, stream};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_model::{Revision, encode, schema, schema::Moved};
use weft_store::{
    Fenced, LeaseId, Limits, Listing, Outcome, Record, Store, StoreError, Txn, Watch, moved, replace_file,
};

/// How long to wait before the new store is looked at again.
const AGAIN: Duration = Duration::from_millis(500);
/// Moves in a row that a start follows.
const HOPS: usize = 8;

/// Opens the store of a mark: its URL and options, in writing.
pub(crate) type Opener =
    Box<dyn Fn(Moved) -> BoxFuture<'static, Result<Arc<dyn Store>, StoreError>> + Send + Sync>;

/// Where the store has gone, as the state directory keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The URL that the daemon was started with.
    from: String,
    /// The mark.
    moved: Moved,
}

/// The store, wherever it is by now.
pub(crate) struct Moving {
    current: RwLock<Arc<dyn Store>>,
    opener: Opener,
    /// How often it has moved: watches on the old one end.
    times: watch::Sender<u64>,
    /// The URL that the daemon was started with.
    configured: String,
    file: PathBuf,
}

impl Moving {
    /// The name of the file in the state directory.
    pub(crate) const FILE: &'static str = "store-moved.json";

    /// The store at the URL `configured`, or wherever the file or a mark in the store says that it has gone.
    /// [`StoreError::Moved`] when it is being filled.
    pub(crate) async fn find(
        store: Arc<dyn Store>,
        configured: String,
        file: PathBuf,
        opener: Opener,
    ) -> Result<Self, AgentError> {
        let current = match kept(&file, &configured)? {
            Some(mark) => {
                tracing::info!(to = mark.to, "the store has moved");
                opener(mark).await?
            }
            None => store,
        };
        let moving = Self {
            current: RwLock::new(Arc::new(Fenced::new(current))),
            opener,
            times: watch::Sender::new(0),
            configured,
            file,
        };
        for _ in 0..HOPS {
            // A store that is away tells nothing; what becomes of that is the start's business.
            match moved(&*moving.current()).await {
                Ok(Some(mark)) if mark.to.is_some() => {
                    let next = (moving.opener)(mark.clone()).await?;
                    moving.go(next, mark)?;
                }
                Ok(Some(mark)) => {
                    return Err(StoreError::Moved { store: moving.address(), moved: mark }.into());
                }
                Ok(None) | Err(_) => return Ok(moving),
            }
        }
        Err(AgentError::Invalid(format!("the store {} has moved {HOPS} times and more", moving.configured)))
    }

    fn current(&self) -> Arc<dyn Store> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on `next` is the store.
    fn go(&self, next: Arc<dyn Store>, mark: Moved) -> Result<(), AgentError> {
        tracing::info!(from = self.address(), to = next.address(), "the store has moved");
        let kept = Kept { from: self.configured.clone(), moved: mark };
        replace_file(&self.file, 0o644, &encode(&kept)).map_err(|e| AgentError::file(&self.file, &e))?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Fenced::new(next));
        self.times.send_modify(|times| *times += 1);
        Ok(())
    }

    /// The new store, once it can be used. `None` while it cannot.
    async fn next_store(&self, mark: &Moved) -> Result<Option<Arc<dyn Store>>, StoreError> {
        let next = (self.opener)(mark.clone()).await?;
        let filled = moved(&*next).await?.is_none() && next.get(schema::META).await?.is_some();
        // One that has moved on in the meantime is closed, but whole; its own mark is followed next.
        let moved_on = moved(&*next).await?.is_some_and(|mark| mark.to.is_some());
        Ok((filled || moved_on).then_some(next))
    }
}

/// Where the store at the URL `configured` has gone, if the file says so.
pub(crate) fn kept(file: &Path, configured: &str) -> Result<Option<Moved>, AgentError> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(AgentError::file(file, &e)),
    };
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|e| AgentError::file(file, &e))?;
    // Started with another URL since, the new one most likely: that counts.
    Ok((kept.from == configured).then_some(kept.moved))
}

/// Follows each mark that the follower finds, until `shutdown`.
pub(crate) async fn follow_marks(moving: Arc<Moving>, agent: Agent, shutdown: CancellationToken) {
    let outbox = Arc::clone(&agent.0.outbox);
    let mut marks = outbox.marks();
    let mut failing = false;
    loop {
        let mark = marks.borrow_and_update().clone();
        let wait = match mark {
            Some(mark) if mark.to.is_some() => {
                match follow(&moving, &agent, mark).await {
                    Ok(gone) => failing = !gone && failing,
                    Err(error) if failing => tracing::debug!(%error, "the new store cannot be used yet"),
                    Err(error) => {
                        tracing::error!(%error, "the store has moved, and the new one cannot be used; trying again");
                        failing = true;
                    }
                }
                AGAIN
            }
            // Nothing to do before the next mark.
            _ => Duration::MAX,
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            changed = marks.changed() => if changed.is_err() { return },
        }
    }
}

/// Goes to the new store, if it can be used. Whether it has gone.
async fn follow(moving: &Moving, agent: &Agent, mark: Moved) -> Result<bool, AgentError> {
    let Some(next) = moving.next_store(&mark).await? else { return Ok(false) };
    if next.address() == moving.address() {
        // The follower has told late what it had listed in the old store.
        agent.0.outbox.mark(None);
        return Ok(true);
    }
    agent.0.outbox.rebind(&next.address(), || moving.go(Arc::clone(&next), mark)).await?;
    Ok(true)
}

#[async_trait]
impl Store for Moving {
    fn address(&self) -> String {
        self.current().address()
    }

    fn limits(&self) -> Limits {
        self.current().limits()
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        self.current().get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.current().list(prefix).await
    }

    /// Ends with [`StoreError::Compacted`] when the store has moved: its revisions are others from then on.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let mut times = self.times.subscribe();
        let changes = self.current().watch(prefix, after).await?;
        let has_moved = async move {
            // An error means that the daemon ends.
            let _ = times.changed().await;
        };
        let over = stream::iter([Err(StoreError::Compacted(Revision::ZERO))]);
        Ok(changes.take_until(Box::pin(has_moved)).chain(over).boxed())
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.current().commit(txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.current().grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.current().keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.current().revoke(lease).await
    }

    async fn address_lost(&self) {
        self.current().address_lost().await;
    }
}
