//! Follows a store for as long as the daemon lives, through outages, restarts and compactions.
//!
//! A follower lists the records, then watches from the listing's revision on. When the watch breaks it goes on
//! from the last revision that it passed on; when the store has forgotten that one, or never had it (it was
//! wiped, or restored from a backup), it lists again. It also lists again every few minutes, against errors
//! that nobody has thought of.

use crate::{
    Batch, Listing, Store, StoreError, Watch,
    backoff::{Backoff, shortened},
    task::{self, Task},
};
use futures::{Stream, StreamExt};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use weft_model::Revision;

/// Events that wait for their consumer; then the follower waits, and the store keeps what comes.
const QUEUE: usize = 64;
/// A watch that stood for this long was a good one: the next failure is a new one.
const GOOD: Duration = Duration::from_secs(5);

/// What a follower tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All records; forget what was known before. The first event, unless the store is away.
    Resync(Listing),
    /// The changes of one revision, the next one that concerns the prefix.
    Changed(Batch),
    /// The store cannot be reached, or lets us in no longer. Once for each outage.
    Away(StoreError),
    /// The outage is over and nothing was missed. An outage can also end with [`Event::Resync`].
    Returned,
}

/// How to follow.
#[derive(Clone, Copy, Debug)]
pub struct FollowOptions {
    /// How often to list all records although the watch stands.
    pub relist: Duration,
    /// The wait after a first failure. It doubles with each further one.
    pub first_wait: Duration,
    /// The longest wait.
    pub most_wait: Duration,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            relist: Duration::from_mins(5),
            first_wait: Duration::from_millis(100),
            most_wait: Duration::from_secs(5),
        }
    }
}

/// A stream of [`Event`]s without end. Dropping it ends the following.
pub struct Follower {
    events: mpsc::Receiver<Event>,
    task: Task,
}

impl Follower {
    /// The next event. `None` only when the runtime shuts down.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Stream for Follower {
    type Item = Event;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(context)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Follows all keys that begin with `prefix`. Must be called within a tokio runtime.
pub fn follow(store: Arc<dyn Store>, prefix: &str) -> Follower {
    follow_with(store, prefix, FollowOptions::default())
}

/// Like [`follow`], with other times.
pub fn follow_with(store: Arc<dyn Store>, prefix: &str, options: FollowOptions) -> Follower {
    let (sender, events) = mpsc::channel(QUEUE);
    let following = Following {
        store,
        prefix: prefix.to_owned(),
        position: None,
        next_listing: Instant::now(),
        away: false,
        backoff: Backoff::new(options.first_wait, options.most_wait),
        relist: options.relist,
        events: sender,
    };
    Follower { events, task: task::spawn(following.run()) }
}

struct Following {
    store: Arc<dyn Store>,
    prefix: String,
    /// Everything up to here has been passed on; `None`: list.
    position: Option<Revision>,
    next_listing: Instant,
    /// [`Event::Away`] was the last word on the store.
    away: bool,
    backoff: Backoff,
    relist: Duration,
    events: mpsc::Sender<Event>,
}

/// The consumer has dropped its end.
struct Unheard;

impl Following {
    async fn run(mut self) {
        while let Ok(failure) = self.follow().await {
            let Some(error) = failure else { continue };
            let wait = self.backoff.next_wait();
            if matches!(error, StoreError::Compacted(_)) {
                tracing::info!(store = %self.store.address(), %error, "listing the store again");
                self.position = None;
            } else if !self.away {
                tracing::warn!(store = %self.store.address(), %error, "the store is away");
                self.away = true;
                if self.tell(Event::Away(error)).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Lists if need be and follows one watch to its end. `None`: it is time for a listing.
    async fn follow(&mut self) -> Result<Option<StoreError>, Unheard> {
        let after = match self.position {
            Some(position) => position,
            None => match self.store.list(&self.prefix).await {
                Ok(listing) => self.resync(listing).await?,
                Err(error) => return Ok(Some(error)),
            },
        };
        let watch = match self.store.watch(&self.prefix, after).await {
            Ok(watch) => watch,
            Err(error) => return Ok(Some(error)),
        };
        if self.away {
            tracing::info!(store = %self.store.address(), revision = after.0, "the store is back");
            self.away = false;
            self.tell(Event::Returned).await?;
        }
        self.pass_on(watch).await
    }

    async fn resync(&mut self, listing: Listing) -> Result<Revision, Unheard> {
        let revision = listing.revision;
        if self.away {
            tracing::info!(store = %self.store.address(), revision = revision.0, "the store is back");
        }
        self.position = Some(revision);
        self.away = false;
        self.next_listing = Instant::now() + shortened(self.relist);
        self.tell(Event::Resync(listing)).await?;
        Ok(revision)
    }

    async fn pass_on(&mut self, mut watch: Watch) -> Result<Option<StoreError>, Unheard> {
        let began = Instant::now();
        let failure = loop {
            let batch = tokio::select! {
                biased;
                () = self.events.closed() => return Err(Unheard),
                () = tokio::time::sleep_until(self.next_listing) => {
                    self.position = None;
                    return Ok(None);
                }
                batch = watch.next() => batch,
            };
            match batch {
                Some(Ok(batch)) => {
                    self.backoff.reset();
                    self.position = Some(batch.revision);
                    self.tell(Event::Changed(batch)).await?;
                }
                Some(Err(error)) => break error,
                None => {
                    let reason = "the watch ended".to_owned();
                    break StoreError::Unreachable { store: self.store.address(), reason };
                }
            }
        };
        if began.elapsed() > GOOD {
            self.backoff.reset();
        }
        Ok(Some(failure))
    }

    async fn tell(&self, event: Event) -> Result<(), Unheard> {
        self.events.send(event).await.map_err(|_| Unheard)
    }
}
