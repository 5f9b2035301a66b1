//! Follows a store for as long as the daemon lives, through outages, restarts and compactions.
//!
//! A follower lists the records, then watches from the listing's revision on. When the watch breaks it goes on
//! from the last revision that it passed on; when the store has forgotten that one, or never had it (it was
//! wiped, or restored from a backup), it lists again. It also lists again now and then, against errors that nobody has
//! thought of: a thousand hosts that each list what grows with their number are not to be what the store is busy with.

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
    /// How often to list all records although the watch stands, where they are few.
    pub relist: Duration,
    /// The records a second that this takes on average, at most: the more there are, the rarer they are listed.
    pub relist_rate: u32,
    /// The wait after a first failure. It doubles with each further one.
    pub first_wait: Duration,
    /// The longest wait.
    pub most_wait: Duration,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            relist: Duration::from_mins(10),
            relist_rate: 5,
            first_wait: Duration::from_millis(100),
            most_wait: Duration::from_secs(5),
        }
    }
}

impl FollowOptions {
    /// How long a listing of so many records is good for.
    fn relist_after(&self, records: usize) -> Duration {
        let records = u32::try_from(records).unwrap_or(u32::MAX);
        self.relist.max(Duration::from_secs(1) * records / self.relist_rate.max(1))
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
        options,
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
    options: FollowOptions,
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
        self.next_listing = Instant::now() + shortened(self.options.relist_after(listing.records.len()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_records_are_listed_again_less_often() {
        let options =
            FollowOptions { relist: Duration::from_mins(10), relist_rate: 5, ..FollowOptions::default() };
        assert_eq!(options.relist_after(0), Duration::from_mins(10));
        assert_eq!(options.relist_after(3_000), Duration::from_mins(10));
        assert_eq!(options.relist_after(18_000), Duration::from_hours(1));
        assert!(options.relist_after(usize::MAX) > Duration::from_hours(24));
        let never_dividing_by_zero = FollowOptions { relist_rate: 0, ..options };
        assert_eq!(never_dividing_by_zero.relist_after(18_000), Duration::from_hours(5));
    }
}
