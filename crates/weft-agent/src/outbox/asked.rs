//! What the store has been asked to write and has not answered yet.
//!
//! An answer may be late or lost, and other verbs of this host go on meanwhile. What one of them has written to the same
//! record since, be it answered or told by the store's news, was not known when the first was made: the first is not to be
//! noted as done without the store.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use weft_model::Revision;
use weft_store::{Compare, Txn, Write};

/// All transactions without an answer, by number.
#[derive(Default)]
pub(super) struct Asked(Mutex<All>);

#[derive(Default)]
struct All {
    next: u64,
    transactions: BTreeMap<u64, Transaction>,
}

struct Transaction {
    /// What it writes, by key.
    writes: BTreeMap<String, Written>,
    overtaken: bool,
}

/// A write of a transaction.
struct Written {
    /// The new value; `None`: the record is removed.
    value: Option<Vec<u8>>,
    /// When the record that it is made on was written, if it depends on that.
    read: Option<Revision>,
}

/// One of them, until this is dropped.
pub(super) struct Asking<'a> {
    all: &'a Asked,
    number: u64,
}

impl Asked {
    /// Notes what the store is about to be asked for.
    pub fn ask(&self, txn: &Txn) -> Asking<'_> {
        let read = |key: &str| {
            txn.compares.iter().find_map(|compare| match compare {
                Compare::Unchanged(of, revision) if of == key => Some(*revision),
                _ => None,
            })
        };
        let written = |write: &Write| {
            let value = match write {
                Write::Put { value, .. } => Some(value.clone()),
                Write::Delete { .. } => None,
            };
            (write.key().to_owned(), Written { value, read: read(write.key()) })
        };
        let writes = txn.writes.iter().map(written).collect();
        let mut all = self.lock();
        let number = all.next;
        all.next += 1;
        all.transactions.insert(number, Transaction { writes, overtaken: false });
        Asking { all: self, number }
    }

    /// The store tells of records, or of their end, as of a revision each. Where that is newer than what a transaction was made on, and not of its
    /// own making, the transaction has come too late, or has been done and something else since.
    pub fn hears<'a>(&self, news: impl Iterator<Item = (&'a str, Revision, Option<&'a [u8]>)>) {
        let mut all = self.lock();
        // Almost always.
        if all.transactions.is_empty() {
            return;
        }
        for (key, revision, value) in news {
            for transaction in all.transactions.values_mut() {
                let written = transaction.writes.get(key);
                transaction.overtaken |= written.is_some_and(|written| {
                    written.read.is_some_and(|read| read < revision) && written.value.as_deref() != value
                });
            }
        }
    }

    /// Whether the store is being asked to write this key.
    pub fn is_asking(&self, key: &str) -> bool {
        self.lock().transactions.values().any(|transaction| transaction.writes.contains_key(key))
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking<'_> {
    /// This one is done, or may be: the others that write one of its keys are overtaken.
    pub fn overtakes_others(&self) {
        let transactions = &mut self.all.lock().transactions;
        let Some(this) = transactions.remove(&self.number) else { return };
        for other in transactions.values_mut() {
            other.overtaken |= this.writes.keys().any(|key| other.writes.contains_key(key));
        }
        transactions.insert(self.number, this);
    }

    /// Whether another has been done since that writes one of its keys.
    pub fn is_overtaken(&self) -> bool {
        self.all.lock().transactions.get(&self.number).is_some_and(|transaction| transaction.overtaken)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.all.lock().transactions.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_answered_first_overtakes_those_that_write_the_same() {
        let asked = Asked::default();
        let txn = |key: &str| Txn::new().delete(key);
        let (first, second, other) = (asked.ask(&txn("a")), asked.ask(&txn("a")), asked.ask(&txn("b")));
        assert!(asked.is_asking("a") && !first.is_overtaken());
        second.overtakes_others();
        assert!(first.is_overtaken() && !second.is_overtaken() && !other.is_overtaken());
        drop((first, second));
        assert!(!asked.is_asking("a") && asked.is_asking("b"));
    }

    #[test]
    fn news_of_what_somebody_else_has_made_of_the_record_overtake() {
        let asked = Asked::default();
        let removal = asked.ask(&Txn::new().unchanged("a", Revision(5)).delete("a"));
        // What it was made on, and what it has done itself.
        let hears = |key, revision, value| asked.hears([(key, Revision(revision), value)].into_iter());
        hears("a", 5, Some(b"before"));
        hears("a", 7, None);
        hears("b", 8, Some(b"other"));
        assert!(!removal.is_overtaken());
        hears("a", 9, Some(b"made anew"));
        assert!(removal.is_overtaken());
        // Of one that depends on no revision nothing is known.
        let blind = asked.ask(&Txn::new().delete("a"));
        hears("a", 10, Some(b"again"));
        assert!(!blind.is_overtaken());
    }
}
