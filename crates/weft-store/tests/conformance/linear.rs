//! Whether a history of concurrent operations is linearizable, with the store's revisions as the witness.
//!
//! Each committed transaction has the place that its revision gives it. An operation that only looked has one of the places
//! whose state is what it saw. The history is linearizable in the order of revisions if places can be chosen so that whatever
//! had returned before another operation was asked stands before it. Taking the earliest place that fits, in the order of
//! asking, finds such a choice if there is one: a place taken earlier never stands in a later operation's way.

use std::collections::{BTreeMap, BTreeSet};
use weft_model::{Change, Revision};
use weft_store::{Batch, Compare, Event, Listing, Outcome, Record, Txn, Write};

/// What a client asked for, what came of it, and when, on a clock that all clients share.
#[derive(Clone, Debug)]
pub struct Operation {
    pub asked: Asked,
    pub answer: Answer,
    pub invoked: u64,
    pub returned: u64,
}

#[derive(Clone, Debug)]
pub enum Asked {
    Get(String),
    List,
    /// With writes, at least one of them puts a value that nobody else writes.
    Commit(Txn),
}

#[derive(Clone, Debug)]
pub enum Answer {
    Got(Option<Record>),
    Listed(Listing),
    Ended(Outcome),
    /// The store did not answer: a transaction may have taken effect, now or later.
    Unknown,
}

/// The records after each revision, the first before any of the history.
pub struct States(Vec<Listing>);

/// How a history was composed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub committed: usize,
    pub refused: usize,
    pub reads: usize,
    pub unknown: usize,
    /// Of the unknown, those that took effect.
    pub effective: usize,
}

impl States {
    /// Plays the changes of a watch on the records of `start`. An error if their revisions do not rise.
    pub fn replay(start: Listing, batches: &[Batch]) -> Result<Self, String> {
        let mut states = vec![start];
        for batch in batches {
            let before = &states[states.len() - 1];
            if batch.revision <= before.revision {
                return Err(format!("the watch goes from revision {} to {batch:?}", before.revision));
            }
            states.push(apply(before, batch)?);
        }
        Ok(Self(states))
    }

    /// The place of the state as of a revision.
    fn place(&self, revision: Revision) -> Option<usize> {
        self.0.partition_point(|state| state.revision <= revision).checked_sub(1)
    }

    /// The earliest place from `first` on whose state fits.
    fn earliest(&self, first: usize, fits: impl Fn(&Listing) -> bool) -> Option<usize> {
        (first..self.0.len()).find(|place| fits(&self.0[*place]))
    }

    /// Whether what a follower told is every change once and in order, with listings of all records wherever it lists anew.
    pub fn check_events(&self, events: &[Event]) -> Result<(), String> {
        let mut at = None;
        for event in events {
            match event {
                Event::Resync(listing) => {
                    let place = self.place(listing.revision).ok_or(format!("{event:?} is of the past"))?;
                    if self.0[place].records != listing.records || at.is_some_and(|at| place < at) {
                        return Err(format!("{event:?}, but the records were {:?}", self.0[place]));
                    }
                    at = Some(place);
                }
                Event::Changed(batch) => {
                    let before = at.ok_or(format!("{event:?} before any listing"))?;
                    let after = self.0.get(before + 1).ok_or(format!("{event:?} never was"))?;
                    if batch.revision != after.revision || apply(&self.0[before], batch)? != *after {
                        return Err(format!("{event:?} after revision {}", self.0[before].revision));
                    }
                    at = Some(before + 1);
                }
                Event::Away(_) | Event::Returned => {}
            }
        }
        if at == Some(self.0.len() - 1) { Ok(()) } else { Err(format!("it ends at {at:?}")) }
    }
}

/// The records after a revision.
fn apply(before: &Listing, batch: &Batch) -> Result<Listing, String> {
    let mut records: BTreeMap<_, _> = before.records.iter().map(|r| (r.key.clone(), r.clone())).collect();
    let mut changed = BTreeSet::new();
    for Change { key, value } in &batch.changes {
        let (key, modified) = (key.clone(), batch.revision);
        let had = match value.clone() {
            Some(value) => {
                records.insert(key.clone(), Record { key: key.clone(), value, modified });
                true
            }
            None => records.remove(&key).is_some(),
        };
        if !had || !changed.insert(key) {
            return Err(format!("{batch:?} removes what is not there or names a key twice"));
        }
    }
    Ok(Listing { revision: batch.revision, records: records.into_values().collect() })
}

fn found<'a>(state: &'a Listing, key: &str) -> Option<&'a Record> {
    state.records.iter().find(|record| record.key == key)
}

fn holds(state: &Listing, compares: &[Compare]) -> bool {
    compares.iter().all(|compare| compare.holds(found(state, compare.key())))
}

/// The records after a transaction's writes.
fn after(before: &Listing, txn: &Txn, revision: Revision) -> Result<Listing, String> {
    let changes = txn.writes.iter().filter_map(|write| match write {
        Write::Put { key, value, .. } => Some(Change { key: key.clone(), value: Some(value.clone()) }),
        Write::Delete { key } => found(before, key).map(|_| Change { key: key.clone(), value: None }),
    });
    apply(before, &Batch { revision, changes: changes.collect() })
}

/// Checks a history against the states that the store went through: each is one operation's doing, each operation saw and did
/// what it says at its place, and the places agree with real time.
pub fn check(states: &States, operations: &[Operation]) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let mut authors = BTreeSet::new();
    let mut places: Vec<(usize, u64)> = Vec::new();
    let mut operations: Vec<_> = operations.iter().collect();
    operations.sort_by_key(|operation| operation.invoked);
    for operation in operations {
        let ended = places.iter().filter(|(_, returned)| *returned < operation.invoked);
        let first = ended.map(|(place, _)| *place).max().unwrap_or(0);
        let place = place(states, operation, first, &mut tally)
            .map_err(|reason| format!("{operation:?}, not before {:?}: {reason}", states.0[first]))?;
        let Some((place, wrote)) = place else { continue };
        if wrote && !authors.insert(place) {
            return Err(format!("{operation:?} claims what is another's: {:?}", states.0[place]));
        }
        // What was never answered may take effect at any time: nothing has to come after it.
        let returned =
            if matches!(operation.answer, Answer::Unknown) { u64::MAX } else { operation.returned };
        places.push((place, returned));
    }
    match (1..states.0.len()).find(|place| !authors.contains(place)) {
        Some(place) => Err(format!("nobody has asked for {:?}", states.0[place])),
        None => Ok(tally),
    }
}

/// The operation's place and whether the state there is its doing; `None` if it had no effect and saw nothing.
fn place(
    states: &States,
    operation: &Operation,
    first: usize,
    tally: &mut Tally,
) -> Result<Option<(usize, bool)>, String> {
    let seen = |place: Option<usize>| {
        place.map(|place| Some((place, false))).ok_or("no later state is what it saw".to_owned())
    };
    match (&operation.asked, &operation.answer) {
        (Asked::Get(key), Answer::Got(record)) => {
            tally.reads += 1;
            seen(states.earliest(first, |state| found(state, key) == record.as_ref()))
        }
        (Asked::List, Answer::Listed(listing)) => {
            tally.reads += 1;
            let place = states.place(listing.revision).filter(|place| *place >= first);
            seen(place.filter(|place| states.0[*place].records == listing.records))
        }
        (Asked::Commit(txn), Answer::Ended(Outcome::Refused(present))) => {
            tally.refused += 1;
            seen(states.earliest(first, |state| {
                let same = |(compare, record): (&Compare, &Option<Record>)| {
                    found(state, compare.key()) == record.as_ref()
                };
                txn.compares.iter().zip(present).all(same) && !holds(state, &txn.compares)
            }))
        }
        (Asked::Commit(txn), Answer::Ended(Outcome::Committed(revision))) if txn.writes.is_empty() => {
            tally.committed += 1;
            let place = states.place(*revision).filter(|place| *place >= first);
            seen(place.filter(|place| holds(&states.0[*place], &txn.compares)))
        }
        (Asked::Commit(txn), Answer::Ended(Outcome::Committed(revision))) => {
            tally.committed += 1;
            let place = states.place(*revision).filter(|place| states.0[*place].revision == *revision);
            let place = place.ok_or("the watch has not told that revision")?;
            written(states, txn, place, first).map(Some)
        }
        (Asked::Commit(txn), Answer::Unknown) => {
            tally.unknown += 1;
            let Some(place) = effect(states, txn) else { return Ok(None) };
            tally.effective += 1;
            written(states, txn, place, first).map(Some)
        }
        (_, Answer::Unknown) => {
            tally.unknown += 1;
            Ok(None)
        }
        _ => Err("the answer is to another question".to_owned()),
    }
}

/// Whether the transaction's compares held just before its place, and its writes, all of them, are what happened there.
fn written(states: &States, txn: &Txn, place: usize, first: usize) -> Result<(usize, bool), String> {
    let state = &states.0[place];
    if place <= first {
        return Err(format!("it took effect earlier: {state:?}"));
    }
    let before = &states.0[place - 1];
    if !holds(before, &txn.compares) {
        return Err(format!("its compares did not hold in {before:?}"));
    }
    if after(before, txn, state.revision)? != *state {
        return Err(format!("it was done in part, or more was done: {before:?} became {state:?}"));
    }
    Ok((place, true))
}

/// The place at which one of the transaction's values came into the world.
fn effect(states: &States, txn: &Txn) -> Option<usize> {
    let (key, value) = txn.writes.iter().find_map(|write| match write {
        Write::Put { key, value, .. } => Some((key, value)),
        Write::Delete { .. } => None,
    })?;
    states.earliest(1, |state| found(state, key).is_some_and(|record| record.value == *value))
}
