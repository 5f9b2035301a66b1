//! The change log: each transaction leaves an entry beside the records that it writes.
//!
//! Consul tells what its keys are now, not what happened to them, and the trait wants every change. So the
//! transaction that writes records also writes one entry with its changes, at a key of its own: no two writers
//! wait for each other, and the raft index that Consul gives both is the revision. Entries stand in segments, so
//! that a watch reads a few dozen when one is added, not all. The transaction requires that its segment is open;
//! now and then, at random, one closes it and opens the next.

use super::{
    Core,
    api::{Applied, Entry, MAX_OPS, Op},
    layout::Epoch,
    random,
    segments::{Segment, Segments},
};
use crate::StoreError;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, PoisonError};
use weft_model::{Change, Revision};

/// Entries in a segment, on average. A watch reads all entries of the segment whenever one is added.
pub const ENTRIES: u64 = 32;
/// Bytes in a segment, roughly: long transactions close it sooner.
const BYTES: u64 = 64 * 1024;
/// What closing a segment takes besides.
const CLOSING_OPS: usize = 4;
/// The operations of a transaction that its caller does not name: the open segment, the entry, the head.
const OWN_OPS: usize = 3;
/// Operations that a caller can name and the segment can still be closed.
pub const CALLERS_OPS: usize = MAX_OPS - OWN_OPS - CLOSING_OPS;

/// What a transaction does to the records.
#[derive(Default)]
pub struct Work {
    /// What must hold, and what is written. An operation that fails is named by its place.
    pub ops: Vec<Op>,
    /// The same as changes of records.
    pub changes: Vec<Change>,
    /// Random.
    pub number: u64,
}

/// How it ended.
pub enum Appended {
    /// Done, as this revision.
    Done(Revision),
    /// Nothing was done: the segment is closed. Look for the next one.
    Closed,
    /// Nothing was done: these of [`Work::ops`] failed.
    Failed(Vec<usize>),
}

impl Core {
    /// The segments as last seen, or as they are. A store without any is born by this.
    pub async fn segments(&self) -> Result<Arc<Segments>, StoreError> {
        loop {
            if let Some(known) = self.lock_segments().clone() {
                return Ok(known);
            }
            if let Some(found) = self.read_segments().await? {
                return Ok(self.remember(found));
            }
            self.give_birth().await?;
        }
    }

    /// The segments as they are; `None` in a store without any.
    pub async fn read_segments(&self) -> Result<Option<Segments>, StoreError> {
        let entries = match self.client.look(&[Op::Tree(self.layout.segments())]).await? {
            Applied::Done(entries) => entries,
            Applied::Failed(failures) => return Err(self.unexpected(&failures)),
        };
        entries.first().map(|entry| self.parse_segments(entry)).transpose()
    }

    /// The segments in their entry.
    pub fn parse_segments(&self, entry: &Entry) -> Result<Segments, StoreError> {
        Segments::read(entry.value(), entry.modify_index)
            .map_err(|e| self.client.broken(format!("{} is not what weft writes there: {e}", entry.key)))
    }

    async fn give_birth(&self) -> Result<(), StoreError> {
        let born = Segments::born(Epoch::from_random(random()?));
        let first = Segment { epoch: born.epoch, number: 0 };
        let ops = [
            Op::Absent(self.layout.segments()),
            Op::Set(self.layout.segments(), born.to_value(), 0),
            Op::Set(self.layout.open(first), Vec::new(), 0),
        ];
        // If it fails, another daemon was faster.
        self.client.apply(&ops).await.map(drop)
    }

    fn remember(&self, segments: Segments) -> Arc<Segments> {
        let segments = Arc::new(segments);
        *self.lock_segments() = Some(segments.clone());
        segments
    }

    fn forget(&self, outdated: &Arc<Segments>) {
        let mut known = self.lock_segments();
        // Another call may have found the new ones already.
        if known.as_ref().is_some_and(|known| Arc::ptr_eq(known, outdated)) {
            *known = None;
        }
    }

    fn lock_segments(&self) -> std::sync::MutexGuard<'_, Option<Arc<Segments>>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the work if the current segment of `segments` is open, with an entry in it.
    pub async fn append(&self, segments: &Arc<Segments>, work: Work) -> Result<Appended, StoreError> {
        let open = segments.current();
        let named = work.ops.len();
        let closing = named <= CALLERS_OPS && is_last(&work.changes, random()?);
        let entry = encode(closing, &work.changes)?;
        let mut ops = vec![Op::Get(self.layout.open(open))];
        ops.extend(work.ops);
        ops.push(Op::Set(self.layout.entry(open, work.number), entry, 0));
        ops.push(self.layout.set_head(segments.epoch, work.number));
        let next = closing.then(|| {
            let (next, dropped) = segments.closed();
            ops.push(Op::Delete(self.layout.open(open)));
            ops.push(Op::Set(self.layout.open(open.next()), Vec::new(), 0));
            ops.push(Op::Set(self.layout.segments(), next.to_value(), 0));
            ops.extend(dropped.map(|segment| Op::DeleteTree(self.layout.entries(segment))));
            next
        });
        let whole = self.layout.head();
        match self.client.apply(&ops).await? {
            Applied::Done(entries) => {
                let at = entries.iter().find(|entry| entry.key == whole);
                let Some(at) = at.map(|entry| entry.modify_index) else {
                    return Err(self
                        .client
                        .broken(format!("it does not say at which index it wrote {whole}")));
                };
                if let Some(next) = next {
                    self.remember(next.modified(at));
                }
                Ok(Appended::Done(segments.epoch.revision(at)))
            }
            Applied::Failed(failures) if failures.iter().any(|f| f.op == 0) => {
                self.forget(segments);
                Ok(Appended::Closed)
            }
            Applied::Failed(failures) if failures.iter().all(|f| f.op <= named) => {
                Ok(Appended::Failed(failures.iter().map(|f| f.op - 1).collect()))
            }
            Applied::Failed(failures) => Err(self.unexpected(&failures)),
        }
    }

    /// What an entry says.
    pub fn decode(&self, entry: &Entry) -> Result<Logged, StoreError> {
        decode(entry.value())
            .map_err(|e| self.client.broken(format!("{} is not what weft writes there: {e}", entry.key)))
    }
}

/// Whether this entry is its segment's last, by a random number.
fn is_last(changes: &[Change], random: u64) -> bool {
    let bytes: usize = changes.iter().map(|c| c.key.len() + c.value.as_ref().map_or(0, Vec::len)).sum();
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let share = (u64::MAX / BYTES).saturating_mul(bytes).max(u64::MAX / ENTRIES);
    random < share
}

/// An entry as read.
#[derive(Debug, PartialEq, Eq)]
pub struct Logged {
    /// Whether the segment is closed after it.
    pub last: bool,
    /// What the transaction changed.
    pub changes: Vec<Change>,
}

/// An entry's first line; the values follow, one after the other.
#[derive(Serialize, Deserialize)]
struct Header {
    last: bool,
    /// Each key, and its new value's length.
    changes: Vec<(String, Option<usize>)>,
}

/// An entry as it is stored.
pub fn encode(last: bool, changes: &[Change]) -> Result<Vec<u8>, StoreError> {
    let lengths = changes.iter().map(|c| (c.key.clone(), c.value.as_ref().map(Vec::len))).collect();
    let header = Header { last, changes: lengths };
    let mut entry = serde_json::to_vec(&header).map_err(|e| StoreError::Invalid(e.to_string()))?;
    entry.push(b'\n');
    for value in changes.iter().filter_map(|c| c.value.as_ref()) {
        entry.extend_from_slice(value);
    }
    Ok(entry)
}

/// What a stored entry says.
pub fn decode(entry: &[u8]) -> Result<Logged, String> {
    let end = entry.iter().position(|b| *b == b'\n').ok_or("it has no first line")?;
    let (header, mut values) = (&entry[..end], &entry[end + 1..]);
    let header: Header = serde_json::from_slice(header).map_err(|e| e.to_string())?;
    let mut changes = Vec::with_capacity(header.changes.len());
    for (key, length) in header.changes {
        let value = match length {
            Some(length) => {
                let (value, rest) = values.split_at_checked(length).ok_or("it is too short")?;
                values = rest;
                Some(value.to_vec())
            }
            None => None,
        };
        changes.push(Change { key, value });
    }
    if values.is_empty() {
        Ok(Logged { last: header.last, changes })
    } else {
        Err("it is too long".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change() -> impl Strategy<Value = Change> {
        (any::<String>(), any::<Option<Vec<u8>>>()).prop_map(|(key, value)| Change { key, value })
    }

    proptest! {
        #[test]
        fn an_entry_reads_back(last: bool, changes in prop::collection::vec(change(), 0..8)) {
            let entry = encode(last, &changes).unwrap();
            prop_assert_eq!(decode(&entry), Ok(Logged { last, changes }));
        }

        #[test]
        fn a_damaged_entry_is_an_error_or_another_entry(bytes: Vec<u8>, cut in 0_usize..64) {
            let _error_or_entry = decode(&bytes);
            let changes = vec![Change { key: "k".to_owned(), value: Some(bytes) }];
            let entry = encode(false, &changes).unwrap();
            if (1..entry.len()).contains(&cut) {
                prop_assert!(decode(&entry[..entry.len() - cut]).is_err());
            }
        }
    }

    #[test]
    fn one_in_thirty_two_entries_is_the_last_and_every_long_one() {
        let short = [Change { key: "k".to_owned(), value: Some(vec![0; 100]) }];
        assert!(is_last(&short, u64::MAX / 33));
        assert!(!is_last(&short, u64::MAX / 31));
        let long = [Change { key: "k".to_owned(), value: Some(vec![0; 64 * 1024]) }];
        assert!(is_last(&long, u64::MAX - u64::from(u32::MAX)));
    }
}
