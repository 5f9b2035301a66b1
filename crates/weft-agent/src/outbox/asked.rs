//! What the store has been asked to write and has not answered yet.
//!
//! An answer may be late or lost, and other verbs of this host go on meanwhile. What one of them has written to the same
//! record since was not known when the first was made: it is not to be noted as done without the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};
use weft_store::Txn;

/// All transactions without an answer, by number.
#[derive(Default)]
pub(super) struct Asked(Mutex<All>);

#[derive(Default)]
struct All {
    next: u64,
    transactions: BTreeMap<u64, Transaction>,
}

struct Transaction {
    /// What it writes.
    keys: BTreeSet<String>,
    overtaken: bool,
}

/// One of them, until this is dropped.
pub(super) struct Asking<'a> {
    all: &'a Asked,
    number: u64,
}

impl Asked {
    /// Notes what the store is about to be asked for.
    pub fn ask(&self, txn: &Txn) -> Asking<'_> {
        let keys = txn.writes.iter().map(|write| write.key().to_owned()).collect();
        let mut all = self.lock();
        let number = all.next;
        all.next += 1;
        all.transactions.insert(number, Transaction { keys, overtaken: false });
        Asking { all: self, number }
    }

    /// Whether the store is being asked to write this key.
    pub fn is_asking(&self, key: &str) -> bool {
        self.lock().transactions.values().any(|transaction| transaction.keys.contains(key))
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking<'_> {
    /// This one is done, or may be: the others that write one of its keys are overtaken.
    pub fn overtakes_others(&self) {
        let transactions = &mut self.all.lock().transactions;
        let Some(this) = transactions.get(&self.number).map(|transaction| transaction.keys.clone()) else {
            return;
        };
        for (number, other) in transactions {
            other.overtaken |= *number != self.number && !this.is_disjoint(&other.keys);
        }
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
}
