//! The store, as its trait promises one to be: transactions one at a time, one revision for all, a history that can be
//! cut, leases. It can be down, and be restored from a copy.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use weft_model::{Change, Revision, Snapshot};
use weft_plan::RESERVE;
use weft_store::{Batch, LeaseId, Limits, Listing, Outcome, Record, StoreError, Txn, Write};

/// What the store is called.
pub const ADDRESS: &str = "sim://store";

/// Few operations, so that what may have to be done in several transactions is: but enough for a reserve, on its three
/// conditions.
pub const LIMITS: Limits = Limits { operations: 3 + 2 * RESERVE, bytes: Txn::MAX_BYTES };

/// Told of every change, with all records as they are then.
pub type Watcher = Arc<dyn Fn(&Batch, &Snapshot) + Send + Sync>;

/// See the module. All calls take effect at once: it is [`crate::Wire`] that takes time and loses things.
pub struct FakeStore {
    state: Mutex<State>,
    /// Anything has changed: a record, or whether it is up.
    pub changed: Notify,
    watcher: Watcher,
}

#[derive(Clone, Default)]
struct State {
    down: bool,
    /// Counts its starts: a watch ends with the start that it began in.
    start: u64,
    revision: u64,
    records: BTreeMap<String, Kept>,
    snapshot: Snapshot,
    /// Every change since `compacted`, and when it was made.
    history: VecDeque<(Instant, Batch)>,
    compacted: u64,
    leases: BTreeMap<LeaseId, Lease>,
    granted: i64,
}

#[derive(Clone)]
struct Kept {
    value: Vec<u8>,
    modified: u64,
    lease: Option<LeaseId>,
}

#[derive(Clone)]
struct Lease {
    ttl: Duration,
    ends: Instant,
}

impl State {
    fn record(&self, key: &str) -> Option<Record> {
        let kept = self.records.get(key)?;
        Some(Record { key: key.to_owned(), value: kept.value.clone(), modified: Revision(kept.modified) })
    }

    fn write(&mut self, writes: &[Write]) -> Option<Batch> {
        let next = self.revision + 1;
        let mut changes = Vec::new();
        for write in writes {
            let key = write.key().to_owned();
            let value = match write {
                Write::Put { value, lease, .. } => {
                    let kept = Kept { value: value.clone(), modified: next, lease: *lease };
                    self.records.insert(key.clone(), kept);
                    Some(value.clone())
                }
                Write::Delete { .. } => {
                    if self.records.remove(&key).is_none() {
                        continue;
                    }
                    None
                }
            };
            changes.push(Change { key, value });
        }
        if changes.is_empty() {
            return None;
        }
        self.revision = next;
        for change in &changes {
            // What cannot be read is not in the snapshot either way.
            let _ = self.snapshot.apply(change);
        }
        self.snapshot.revision = Revision(next);
        let batch = Batch { revision: Revision(next), changes };
        self.history.push_back((Instant::now(), batch.clone()));
        Some(batch)
    }
}

/// What a watch finds.
pub enum Next {
    /// The next change of what it watches, and when it was made.
    Change(Instant, Batch),
    /// Nothing new.
    Nothing,
    /// It cannot go on.
    Over(StoreError),
}

impl FakeStore {
    /// An empty one.
    pub fn new(watcher: Watcher) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), watcher }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serving(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.lock();
        if state.down { Err(unreachable("it is down")) } else { Ok(state) }
    }

    fn told(&self, state: MutexGuard<'_, State>, batch: Option<&Batch>) {
        if let Some(batch) = batch {
            (self.watcher)(batch, &state.snapshot);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// All records, whether it is up or down.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot.clone()
    }

    /// Looks at all records, whether it is up or down.
    pub fn look<R>(&self, look: impl FnOnce(&Snapshot) -> R) -> R {
        look(&self.lock().snapshot)
    }

    /// The keys below `prefix`, whether it is up or down.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.lock().records.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// See [`weft_store::Store::get`].
    pub fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        Ok(self.serving()?.record(key))
    }

    /// See [`weft_store::Store::list`].
    pub fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let state = self.serving()?;
        let keys = state.records.keys().filter(|key| key.starts_with(prefix));
        let records = keys.filter_map(|key| state.record(key)).collect();
        Ok(Listing { revision: Revision(state.revision), records })
    }

    /// See [`weft_store::Store::commit`].
    pub fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        txn.check_within(&LIMITS)?;
        let mut state = self.serving()?;
        let present: Vec<_> = txn.compares.iter().map(|c| state.record(c.key())).collect();
        if !txn.compares.iter().zip(&present).all(|(compare, record)| compare.holds(record.as_ref())) {
            return Ok(Outcome::Refused(present));
        }
        for write in &txn.writes {
            if let Write::Put { lease: Some(lease), .. } = write
                && !state.leases.contains_key(lease)
            {
                return Err(StoreError::LeaseLost(*lease));
            }
        }
        let batch = state.write(&txn.writes);
        let revision = Revision(state.revision);
        self.told(state, batch.as_ref());
        Ok(Outcome::Committed(revision))
    }

    /// See [`weft_store::Store::grant`].
    pub fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let mut state = self.serving()?;
        state.granted += 1;
        let id = LeaseId(state.granted);
        state.leases.insert(id, Lease { ttl, ends: Instant::now() + ttl });
        Ok(id)
    }

    /// See [`weft_store::Store::keep_alive`].
    pub fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut state = self.serving()?;
        let found = state.leases.get_mut(&lease).ok_or(StoreError::LeaseLost(lease))?;
        found.ends = Instant::now() + found.ttl;
        Ok(())
    }

    /// See [`weft_store::Store::revoke`].
    pub fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let state = self.serving()?;
        self.end(state, &BTreeSet::from([lease]));
        Ok(())
    }

    fn end(&self, mut state: MutexGuard<'_, State>, ended: &BTreeSet<LeaseId>) {
        state.leases.retain(|lease, _| !ended.contains(lease));
        let bound =
            state.records.iter().filter(|(_, kept)| kept.lease.is_some_and(|lease| ended.contains(&lease)));
        let writes: Vec<_> = bound.map(|(key, _)| Write::Delete { key: key.clone() }).collect();
        let batch = state.write(&writes);
        self.told(state, batch.as_ref());
    }

    /// Ends the leases whose time is over; while it is down none is.
    pub fn end_leases(&self) {
        let Ok(state) = self.serving() else { return };
        let now = Instant::now();
        let ended: BTreeSet<_> =
            state.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        if !ended.is_empty() {
            self.end(state, &ended);
        }
    }

    /// Ends the lease that the record at `key` is bound to, as an operator can. Whether there was one.
    pub fn end_lease_of(&self, key: &str) -> bool {
        let state = self.lock();
        let Some(lease) = state.records.get(key).and_then(|kept| kept.lease) else { return false };
        self.end(state, &BTreeSet::from([lease]));
        true
    }

    /// The start that it is in, if it is up and knows what came after `after`.
    pub fn watchable(&self, after: Revision) -> Result<u64, StoreError> {
        let state = self.serving()?;
        if after.0 < state.compacted || after.0 > state.revision {
            return Err(StoreError::Compacted(Revision(state.compacted)));
        }
        Ok(state.start)
    }

    /// What comes after `after` for a watch that began in this start.
    pub fn next(&self, start: u64, prefix: &str, after: Revision) -> Next {
        let state = self.lock();
        if state.down || state.start != start {
            return Next::Over(unreachable("it has ended"));
        }
        if after.0 < state.compacted {
            return Next::Over(StoreError::Compacted(Revision(state.compacted)));
        }
        let next = state.history.iter().find_map(|(made, batch)| {
            if batch.revision <= after {
                return None;
            }
            let changes: Vec<_> =
                batch.changes.iter().filter(|c| c.key.starts_with(prefix)).cloned().collect();
            (!changes.is_empty()).then_some((*made, Batch { revision: batch.revision, changes }))
        });
        next.map_or(Next::Nothing, |(made, batch)| Next::Change(made, batch))
    }

    /// It stops.
    pub fn stop(&self) {
        self.lock().down = true;
        self.changed.notify_waiters();
    }

    /// It starts, with what it had; every lease has its full time again.
    pub fn start(&self) {
        let mut state = self.lock();
        state.down = false;
        state.start += 1;
        let now = Instant::now();
        for lease in state.leases.values_mut() {
            lease.ends = now + lease.ttl;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether it is down.
    pub fn is_down(&self) -> bool {
        self.lock().down
    }

    /// It forgets its history, but for the last `kept` changes.
    pub fn compact(&self, kept: usize) {
        let mut state = self.lock();
        while state.history.len() > kept {
            if let Some((_, batch)) = state.history.pop_front() {
                state.compacted = batch.revision.0;
            }
        }
    }
}

/// [`StoreError::Unreachable`], because of this.
pub fn unreachable(reason: &str) -> StoreError {
    StoreError::Unreachable { store: ADDRESS.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> FakeStore {
        FakeStore::new(Arc::new(|_, _| ()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_transaction_is_done_whole_or_not_at_all() {
        let store = store();
        let put = |key: &str| Txn::new().absent(key).put(key, b"1".to_vec());
        assert_eq!(store.commit(&put("v1/a")).unwrap(), Outcome::Committed(Revision(1)));
        let both = put("v1/a").put("v1/b", b"2".to_vec());
        assert!(matches!(store.commit(&both).unwrap(), Outcome::Refused(_)));
        assert_eq!(store.get("v1/b").unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_ends_with_its_lease_and_a_watch_with_the_stores_start_or_history() {
        let store = store();
        let lease = store.grant(Duration::from_secs(5)).unwrap();
        store.commit(&Txn::new().put_leased("v1/alive", b"1".to_vec(), lease)).unwrap();
        tokio::time::advance(Duration::from_secs(4)).await;
        store.keep_alive(lease).unwrap();
        tokio::time::advance(Duration::from_secs(4)).await;
        store.end_leases();
        assert!(store.get("v1/alive").unwrap().is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        store.end_leases();
        assert!(store.get("v1/alive").unwrap().is_none());
        assert_eq!(store.keep_alive(lease), Err(StoreError::LeaseLost(lease)));

        let start = store.watchable(Revision(1)).unwrap();
        assert!(
            matches!(store.next(start, "v1/", Revision(1)), Next::Change(_, batch) if batch.revision == Revision(2))
        );
        assert!(matches!(store.next(start, "v1/", Revision(2)), Next::Nothing));
        store.compact(0);
        assert!(matches!(store.next(start, "v1/", Revision(1)), Next::Over(StoreError::Compacted(_))));
        store.stop();
        store.start();
        assert!(matches!(store.next(start, "v1/", Revision(2)), Next::Over(StoreError::Unreachable { .. })));
    }
}
