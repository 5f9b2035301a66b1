//! A watch: the change log's entries as batches, as they are added.

use super::{
    Core,
    api::Entry,
    lease::Reaper,
    segments::{Segment, Segments},
};
use crate::{Batch, StoreError};
use reqwest::StatusCode;
use std::{collections::VecDeque, sync::Arc};
use weft_model::Revision;

/// A watch under way.
pub struct Watching {
    core: Arc<Core>,
    /// As long as somebody watches, the records of ended leases are removed.
    _reaper: Arc<Reaper>,
    prefix: String,
    ready: VecDeque<Batch>,
    at: Place,
    /// Where the blocking query goes on from.
    index: u64,
}

/// Up to where everything is known.
#[derive(Clone, Copy)]
enum Place {
    /// Nothing was ever written to the store.
    Unborn,
    /// In this segment, up to the entry with this index; `None`: at its start.
    In(Segment, Option<u64>),
}

impl Watching {
    /// A watch after `after`. [`StoreError::Compacted`] unless the change log still has that revision.
    pub async fn start(
        core: Arc<Core>,
        reaper: Arc<Reaper>,
        prefix: String,
        after: Revision,
    ) -> Result<Self, StoreError> {
        let head = core.see(&[]).await?;
        let at = match core.read_segments().await? {
            None if after == Revision::ZERO => Place::Unborn,
            None => return Err(StoreError::Compacted(Revision::ZERO)),
            Some(segments) => place(&segments, after).ok_or_else(|| compacted(&segments, head.revision()))?,
        };
        let mut watching = Self { core, _reaper: reaper, prefix, ready: VecDeque::new(), at, index: 0 };
        // Does not wait: it finds out now whether the entry is there, and takes what follows it.
        if let Place::In(..) = at {
            watching.step().await?;
        }
        Ok(watching)
    }

    pub async fn next(mut self) -> Result<Option<(Batch, Self)>, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some((batch, self)));
            }
            self.step().await?;
        }
    }

    /// One blocking query.
    async fn step(&mut self) -> Result<(), StoreError> {
        match self.at {
            Place::Unborn => {
                let answer = self.core.client.watch(&self.core.layout.segments(), "", self.index).await?;
                self.go_on_from(answer.index);
                if answer.status == StatusCode::OK {
                    let entries: Vec<Entry> = self.core.client.read(&answer)?;
                    let Some(entry) = entries.first() else { return Ok(()) };
                    let segments = self.core.parse_segments(entry)?;
                    if let Some(forgotten) = segments.forgotten() {
                        return Err(StoreError::Compacted(segments.epoch.revision(forgotten)));
                    }
                    self.enter(segments.oldest(), None);
                }
                Ok(())
            }
            Place::In(segment, passed) => {
                let path = self.core.layout.entries(segment);
                let answer = self.core.client.watch(&path, "recurse", self.index).await?;
                let entries: Vec<Entry> = if answer.status == StatusCode::OK {
                    self.core.client.read(&answer)?
                } else {
                    Vec::new()
                };
                self.go_on_from(answer.index);
                self.take(segment, passed, entries).await
            }
        }
    }

    /// An index that goes back belongs to a store that was wiped or restored: ask without waiting, and see.
    fn go_on_from(&mut self, index: u64) {
        self.index = if index < self.index { 0 } else { index };
    }

    fn enter(&mut self, segment: Segment, passed: Option<u64>) {
        (self.at, self.index) = (Place::In(segment, passed), 0);
    }

    /// Takes the new ones of a segment's entries.
    async fn take(
        &mut self,
        segment: Segment,
        passed: Option<u64>,
        mut entries: Vec<Entry>,
    ) -> Result<(), StoreError> {
        let there = match passed {
            // What was seen once must still be there, or history is another one now.
            Some(passed) => entries.iter().any(|entry| entry.modify_index == passed),
            None => !entries.is_empty() || self.exists(segment).await?,
        };
        if !there {
            let revision = self.core.see(&[]).await?.revision();
            return Err(StoreError::Compacted(revision));
        }
        entries.sort_by_key(|entry| entry.modify_index);
        let mut last = false;
        for entry in &entries {
            let logged = self.core.decode(entry)?;
            last |= logged.last;
            if passed.is_some_and(|passed| entry.modify_index <= passed) {
                continue;
            }
            let mut changes = logged.changes;
            changes.retain(|change| change.key.starts_with(&self.prefix));
            if !changes.is_empty() {
                self.ready.push_back(Batch { revision: segment.epoch.revision(entry.modify_index), changes });
            }
        }
        if last {
            self.enter(segment.next(), None);
        } else {
            self.at = Place::In(segment, entries.last().map(|entry| entry.modify_index));
        }
        Ok(())
    }

    async fn exists(&self, segment: Segment) -> Result<bool, StoreError> {
        Ok(self.core.read_segments().await?.is_some_and(|segments| segments.holds(segment)))
    }
}

/// Where the entry of `after` should be.
fn place(segments: &Segments, after: Revision) -> Option<Place> {
    if after == Revision::ZERO {
        return segments.forgotten().is_none().then(|| Place::In(segments.oldest(), None));
    }
    let index = segments.epoch.index(after)?;
    Some(Place::In(segments.holding(index)?, Some(index)))
}

/// `after` is of another life of the store, or forgotten.
fn compacted(segments: &Segments, head: Revision) -> StoreError {
    StoreError::Compacted(segments.forgotten().map_or(head, |index| segments.epoch.revision(index)))
}
