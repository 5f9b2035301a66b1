//! A host's way to the store: it takes time, each message another; it can be cut in one direction or both; what was asked
//! may be done although nobody hears of it, and also after the one who asked has gone.

use crate::{
    Chance, Owner, Tasks,
    store::{ADDRESS, FakeStore, LIMITS, Next, unreachable},
};
use async_trait::async_trait;
use futures::{StreamExt, stream};
use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};
use weft_model::Revision;
use weft_store::{Batch, LeaseId, Limits, Listing, Outcome, Record, Store, StoreError, Txn, Watch};

/// How long a client waits for an answer, as those of the real stores do.
const PATIENCE: Duration = Duration::from_secs(5);
/// After this long a connection over which nothing comes is given up.
const SILENCE: Duration = Duration::from_secs(6);

/// How a way is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quality {
    /// What the host sends arrives.
    pub to_store: bool,
    /// What the store answers arrives.
    pub from_store: bool,
    /// How long a message takes, in milliseconds.
    pub latency: Range<u64>,
    /// One in so many answers is lost.
    pub lost: Option<usize>,
}

impl Quality {
    /// A healthy network.
    pub const GOOD: Self = Self { to_store: true, from_store: true, latency: 1..10, lost: None };
}

/// See the module.
pub struct Wire {
    store: Arc<FakeStore>,
    tasks: Tasks,
    chance: Chance,
    line: Arc<Line>,
}

struct Line {
    quality: Mutex<Quality>,
    /// Counts the times that all connections were reset.
    resets: Mutex<u64>,
    changed: Notify,
}

impl Line {
    fn quality(&self) -> MutexGuard<'_, Quality> {
        self.quality.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resets(&self) -> u64 {
        *self.resets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// A good one.
    pub fn new(store: Arc<FakeStore>, tasks: Tasks, chance: Chance) -> Self {
        let line = Line { quality: Mutex::new(Quality::GOOD), resets: Mutex::new(0), changed: Notify::new() };
        Self { store, tasks, chance, line: Arc::new(line) }
    }

    /// From now on it is like this.
    pub fn set(&self, quality: Quality) {
        *self.line.quality() = quality;
        self.line.changed.notify_waiters();
    }

    /// Whether it is as it should be.
    pub fn is_good(&self) -> bool {
        *self.line.quality() == Quality::GOOD
    }

    /// Every watch that goes over it ends with an error.
    pub fn reset(&self) {
        *self.line.resets.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.line.changed.notify_waiters();
    }

    /// Asks the store. Whoever asks may be gone when the question arrives.
    async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&FakeStore) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let (reply, answer) = oneshot::channel();
        let (line, store, chance) = (Arc::clone(&self.line), Arc::clone(&self.store), self.chance.clone());
        let _in_flight = self.tasks.spawn_as(Owner::World, async move {
            let latency = |line: &Line| chance.millis(line.quality().latency.clone());
            sleep(latency(&line)).await;
            let arrives = line.quality().to_store;
            let result = if arrives { Some(question(&store)) } else { None };
            sleep(latency(&line)).await;
            let (from_store, lost) = {
                let quality = line.quality();
                (quality.from_store, quality.lost)
            };
            let comes_back = from_store && !lost.is_some_and(|n| chance.one_in(n));
            match result {
                // Whoever has stopped waiting does not hear it.
                Some(result) if comes_back => drop(reply.send(result)),
                // A reset is heard of at once, a loss is not.
                _ if chance.one_in(2) => drop(reply),
                _ => {
                    sleep(PATIENCE).await;
                    drop(reply);
                }
            }
        });
        match timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unreachable("the connection was reset")),
            Err(_) => Err(unreachable("no answer in time")),
        }
    }
}

#[async_trait]
impl Store for Wire {
    fn address(&self) -> String {
        ADDRESS.to_owned()
    }
    fn limits(&self) -> Limits {
        LIMITS
    }
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let key = key.to_owned();
        self.ask(move |store| store.get(&key)).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let prefix = prefix.to_owned();
        self.ask(move |store| store.list(&prefix)).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let resets = self.line.resets();
        let start = self.ask(move |store| store.watchable(after)).await?;
        let watching = Watching {
            store: Arc::clone(&self.store),
            line: Arc::clone(&self.line),
            chance: self.chance.clone(),
            prefix: prefix.to_owned(),
            start,
            resets,
            position: after,
            arrived: Instant::now(),
            silent: None,
        };
        Ok(stream::unfold(Some(watching), Watching::next).boxed())
    }
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.ask(move |store| store.commit(&txn)).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(move |store| store.grant(ttl)).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(move |store| store.keep_alive(lease)).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(move |store| store.revoke(lease)).await
    }
}

struct Watching {
    store: Arc<FakeStore>,
    line: Arc<Line>,
    chance: Chance,
    prefix: String,
    start: u64,
    resets: u64,
    position: Revision,
    /// When the last change arrived: the next one does not overtake it.
    arrived: Instant,
    /// Since when nothing could come.
    silent: Option<Instant>,
}

type Step = Option<(Result<Batch, StoreError>, Option<Watching>)>;

impl Watching {
    async fn next(watching: Option<Self>) -> Step {
        let mut watching = watching?;
        let store = Arc::clone(&watching.store);
        let line = Arc::clone(&watching.line);
        loop {
            let (changed, line_changed) = (store.changed.notified(), line.changed.notified());
            if line.resets() != watching.resets {
                return Some((Err(unreachable("the connection was reset")), None));
            }
            let (open, latency) = {
                let quality = line.quality();
                (quality.from_store, quality.latency.clone())
            };
            if !open {
                let until = *watching.silent.get_or_insert_with(Instant::now) + SILENCE;
                tokio::select! {
                    biased;
                    () = line_changed => {}
                    () = sleep_until(until) => return Some((Err(unreachable("nothing is heard of it")), None)),
                }
                continue;
            }
            watching.silent = None;
            match store.next(watching.start, &watching.prefix, watching.position) {
                Next::Over(error) => return Some((Err(error), None)),
                Next::Change(made, batch) => {
                    let arrives = (made + watching.chance.millis(latency)).max(watching.arrived);
                    sleep_until(arrives).await;
                    if !line.quality().from_store {
                        continue;
                    }
                    (watching.position, watching.arrived) = (batch.revision, arrives);
                    return Some((Ok(batch), Some(watching)));
                }
                Next::Nothing => tokio::select! {
                    biased;
                    () = line_changed => {}
                    () = changed => {}
                },
            }
        }
    }
}
