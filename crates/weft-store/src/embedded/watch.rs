//! A watch on the embedded store: it catches up from the change log, then is told what is committed.
//!
//! A commit wakes the watches that it concerns and no others, and is read from the log once for all of them: a thousand
//! hosts that each watch a few networks cost what they hear, not what is written.

use super::Core;
use crate::{Batch, StoreError, Watch};
use futures::{StreamExt, stream};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};
use weft_model::Revision;

/// Batches that wait for a slow watch. One that falls behind reads them from the change log.
const WAITING: usize = 256;

/// The prefixes that are watched, and the way to their watches.
#[derive(Default)]
pub struct Watched(Mutex<BTreeMap<String, broadcast::Sender<Arc<Batch>>>>);

impl Watched {
    fn subscribe(&self, prefix: &str) -> broadcast::Receiver<Arc<Batch>> {
        let mut watched = self.lock();
        let sender = watched.entry(prefix.to_owned()).or_insert_with(|| broadcast::Sender::new(WAITING));
        sender.subscribe()
    }

    /// Whether nobody watches anything.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Tells the watches what concerns them.
    pub fn tell(&self, batches: &[Batch]) {
        let mut watched = self.lock();
        watched.retain(|_, sender| sender.receiver_count() > 0);
        for batch in batches {
            let mut concerned: BTreeMap<&str, Batch> = BTreeMap::new();
            for change in &batch.changes {
                for prefix in prefixes_of(&change.key).filter_map(|p| watched.get_key_value(p)) {
                    let part = concerned
                        .entry(prefix.0)
                        .or_insert_with(|| Batch { revision: batch.revision, changes: Vec::new() });
                    part.changes.push(change.clone());
                }
            }
            for (prefix, part) in concerned {
                if let Some(sender) = watched.get(prefix) {
                    // Whoever has left needs it no more.
                    let _ = sender.send(Arc::new(part));
                }
            }
        }
    }

    /// Ends all watches. Each of them starts again where it was.
    pub fn end(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, broadcast::Sender<Arc<Batch>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that a key begins with, the empty string and the key itself among it.
fn prefixes_of(key: &str) -> impl Iterator<Item = &str> {
    (0..=key.len()).filter(|end| key.is_char_boundary(*end)).map(|end| &key[..end])
}

/// Starts one. [`StoreError::Compacted`] when the store has forgotten what came after `after`, or never had that
/// revision: then it is not the store that the caller knew.
pub async fn start(core: &Arc<Core>, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
    // Before the log is read: what is committed from here on is told, and perhaps read as well.
    let news = core.watched.subscribe(prefix);
    let latest = core.read(super::StoreFile::revision).await?;
    if after > latest {
        return Err(StoreError::Compacted(latest));
    }
    let mut watching = Watching {
        core: Arc::downgrade(core),
        path: core.file.path().display().to_string(),
        news,
        prefix: prefix.to_owned(),
        position: after,
        log: Some(latest),
        ready: VecDeque::new(),
    };
    watching.read(latest).await?;
    Ok(stream::try_unfold(watching, Watching::next).boxed())
}

struct Watching {
    /// Weak, so that a watch does not keep the file open after its store is dropped.
    core: Weak<Core>,
    path: String,
    news: broadcast::Receiver<Arc<Batch>>,
    prefix: String,
    /// Everything up to here has been passed on, or stands in `ready`.
    position: Revision,
    /// The log has to be read up to here; `None`: the news go on from `position`.
    log: Option<Revision>,
    ready: VecDeque<Batch>,
}

impl Watching {
    async fn next(mut self) -> Result<Option<(Batch, Self)>, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some((batch, self)));
            }
            if let Some(up_to) = self.log {
                self.read(up_to).await?;
                continue;
            }
            match self.news.recv().await {
                Ok(batch) => self.hear(&batch),
                Err(RecvError::Lagged(_)) => self.fell_behind().await?,
                Err(RecvError::Closed) => return Err(self.closed()),
            }
        }
    }

    fn hear(&mut self, batch: &Batch) {
        if batch.revision > self.position {
            self.position = batch.revision;
            self.ready.push_back(batch.clone());
        }
    }

    /// Goes on in the log, from where it is to the present.
    async fn fell_behind(&mut self) -> Result<(), StoreError> {
        // What waits is in the log as well, and is skipped when it comes.
        while !matches!(self.news.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
        let core = self.core.upgrade().ok_or_else(|| self.closed())?;
        self.log = Some(core.read(super::StoreFile::revision).await?);
        Ok(())
    }

    /// Reads the next part of the log.
    async fn read(&mut self, up_to: Revision) -> Result<(), StoreError> {
        let core = self.core.upgrade().ok_or_else(|| self.closed())?;
        let (prefix, position) = (self.prefix.clone(), self.position);
        let chunk = core.read(move |file| file.changes(&prefix, position)).await?;
        self.position = self.position.max(chunk.up_to);
        self.ready.extend(chunk.batches);
        if self.position >= up_to {
            self.log = None;
        }
        Ok(())
    }

    fn closed(&self) -> StoreError {
        StoreError::Unreachable {
            store: format!("local ({})", self.path),
            reason: "it was closed".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Embedded, Store, Txn};

    #[tokio::test]
    async fn a_watch_that_falls_far_behind_still_sees_every_change_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path().join("store.redb")).await.unwrap();
        let mut watch = store.watch("a/", Revision::ZERO).await.unwrap();
        let count = WAITING * 3;
        let writes = (0..count).map(|n| {
            let other = Txn::new().put(format!("b/{n}"), b"x".to_vec());
            store.commit(if n % 2 == 0 { Txn::new().put(format!("a/{n:05}"), b"x".to_vec()) } else { other })
        });
        futures::future::try_join_all(writes).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < count / 2 {
            let batch = watch.next().await.unwrap().unwrap();
            seen.extend(batch.changes.into_iter().map(|change| (batch.revision, change.key)));
        }
        assert!(seen.is_sorted_by(|(a, _), (b, _)| a < b));
        assert!(seen.iter().all(|(_, key)| key.starts_with("a/")));
        store.commit(Txn::new().delete("a/00000")).await.unwrap();
        let last = watch.next().await.unwrap().unwrap();
        assert_eq!(last.changes.len(), 1);
        assert!(last.changes[0].key == "a/00000" && last.changes[0].value.is_none());
    }

    #[test]
    fn a_key_begins_with_itself_and_with_nothing() {
        assert_eq!(prefixes_of("aé").collect::<Vec<_>>(), ["", "a", "aé"]);
    }
}
