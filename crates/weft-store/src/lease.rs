//! Keeps a record in the store for as long as this daemon lives, such as the one that says that it does.

use crate::{
    LeaseId, Store, StoreError, Txn,
    backoff::Backoff,
    task::{self, Task},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use weft_model::{UnixSeconds, unix_now};

/// Whether the record stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It stands, and its lease was renewed within its time to live.
    Held,
    /// The store may have removed it, or has never had it. The keeper goes on trying.
    Lost {
        /// Since when, by this host's clock.
        since: UnixSeconds,
        /// The last failure; `None` before the first attempt has ended.
        error: Option<StoreError>,
    },
}

/// Keeps one record alive in the background: renews its lease, and takes a new lease and writes the record again
/// when the store has ended the old one. Dropping the keeper, or cancelling it, leaves the record to end with
/// its lease.
pub struct LeaseKeeper {
    state: watch::Receiver<LeaseState>,
    release: Option<oneshot::Sender<oneshot::Sender<Result<(), StoreError>>>>,
    task: Task,
}

impl LeaseKeeper {
    /// Starts keeping `value` at `key`, with a lease of `ttl` that is renewed three times in that time. Must be
    /// called within a tokio runtime.
    pub fn spawn(
        store: Arc<dyn Store>,
        key: impl Into<String>,
        value: Vec<u8>,
        ttl: Duration,
        cancel: CancellationToken,
    ) -> Self {
        let (sender, state) = watch::channel(LeaseState::Lost { since: unix_now(), error: None });
        let (release, released) = oneshot::channel();
        let keeping = Keeping {
            store,
            key: key.into(),
            value,
            ttl,
            lease: None,
            written: false,
            renewed: Instant::now(),
            backoff: Backoff::new(Duration::from_millis(100), ttl / 3),
            state: sender,
        };
        let task = task::spawn(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = keeping.run(released) => {}
            }
        });
        Self { state, release: Some(release), task }
    }

    /// Tells when the record is lost and when it stands again.
    pub fn state(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// Ends the lease, and the record with it, at once. After an error the record ends when its time is over.
    pub async fn release(mut self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        // A keeper that was cancelled does not answer, and keeps nothing.
        let asked = self.release.take().is_some_and(|release| release.send(reply).is_ok());
        if asked { answer.await.unwrap_or(Ok(())) } else { Ok(()) }
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeping {
    store: Arc<dyn Store>,
    key: String,
    value: Vec<u8>,
    ttl: Duration,
    lease: Option<LeaseId>,
    /// Whether the record was written with this lease.
    written: bool,
    /// When the lease was last known to live.
    renewed: Instant,
    backoff: Backoff,
    state: watch::Sender<LeaseState>,
}

impl Keeping {
    async fn run(mut self, mut released: oneshot::Receiver<oneshot::Sender<Result<(), StoreError>>>) {
        loop {
            let wait = match self.renew().await {
                Ok(()) => {
                    self.backoff.reset();
                    self.state.send_if_modified(|state| {
                        std::mem::replace(state, LeaseState::Held) != LeaseState::Held
                    });
                    self.ttl / 3
                }
                Err(error) => {
                    self.failed(error);
                    self.backoff.next_wait()
                }
            };
            tokio::select! {
                biased;
                reply = &mut released => {
                    // An error of the channel means that the keeper was dropped.
                    if let Ok(reply) = reply {
                        let result = match self.lease {
                            Some(lease) => self.store.revoke(lease).await,
                            None => Ok(()),
                        };
                        let _nobody_waits = reply.send(result);
                    }
                    return;
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Makes sure that the lease lives and that the record stands. Each step is remembered, so that a failure
    /// in one does not repeat the others.
    async fn renew(&mut self) -> Result<(), StoreError> {
        let asked = Instant::now();
        let lease = match self.lease {
            Some(lease) => {
                self.store.keep_alive(lease).await?;
                lease
            }
            None => *self.lease.insert(self.store.grant(self.ttl).await?),
        };
        self.renewed = asked;
        // Somebody may have removed the record by hand.
        if !self.written || self.store.get(&self.key).await?.is_none() {
            self.store.commit(Txn::new().put_leased(&self.key, self.value.clone(), lease)).await?;
            self.written = true;
        }
        Ok(())
    }

    fn failed(&mut self, error: StoreError) {
        let ended = matches!(error, StoreError::LeaseLost(_));
        if ended {
            (self.lease, self.written) = (None, false);
        }
        let over = ended || !self.written || self.renewed.elapsed() >= self.ttl;
        self.state.send_if_modified(|state| match state {
            LeaseState::Held if over => {
                tracing::warn!(key = %self.key, %error, "the store may have removed this daemon's record");
                *state = LeaseState::Lost { since: unix_now(), error: Some(error) };
                true
            }
            LeaseState::Held => false,
            LeaseState::Lost { error: last, .. } => {
                let news = last.as_ref() != Some(&error);
                *last = Some(error);
                news
            }
        });
    }
}
