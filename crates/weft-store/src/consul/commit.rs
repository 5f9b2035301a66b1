//! Transactions: compares and writes as Consul's operations.
//!
//! Consul checks that a key is absent, or unchanged since an index, within the transaction that writes. It does
//! not tell whether a removal removed anything; for a removal that no compare vouches for, the key is looked up
//! first and the transaction requires that nothing has changed since. (Consul's own `delete-cas` does not do that: it
//! succeeds also when the key is gone, and a watch would tell the removal twice.)

use super::{
    Core,
    api::{Applied, Entry, Op, OpFailure},
    journal::{Appended, CALLERS_OPS, Work},
    layout::{self, Epoch, Layout, OWN},
    random,
    segments::Segments,
};
use crate::{Compare, LeaseId, Limits, Outcome, Record, StoreError, Txn, Write};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;
use weft_model::{Change, Revision};

/// A request carries every value twice, as a record and in the change log's entry, both in base64; 512 KiB is
/// the most that Consul takes.
pub const LIMITS: Limits = Limits { operations: CALLERS_OPS - 1, bytes: 176 * 1024 };

/// What the store was in one moment.
pub struct Seen {
    /// `None` in a store that nothing was ever written to.
    pub head: Option<Head>,
    /// By their whole keys.
    pub entries: BTreeMap<String, Entry>,
}

/// The store's last transaction.
#[derive(Clone, Copy)]
pub struct Head {
    /// The store's life.
    pub epoch: Epoch,
    /// Consul's index of the transaction.
    pub index: u64,
}

impl Seen {
    /// The last transaction's revision.
    pub fn revision(&self) -> Revision {
        self.head.map_or(Revision::ZERO, |head| head.epoch.revision(head.index))
    }

    /// An entry as a record.
    pub fn record(&self, layout: &Layout, entry: &Entry) -> Option<Record> {
        Some(Record {
            key: layout.key_of_record(&entry.key)?.to_owned(),
            value: entry.value().to_vec(),
            modified: self.head?.epoch.revision(entry.modify_index),
        })
    }
}

impl Core {
    pub async fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        txn.check_within(&LIMITS)?;
        let keys = txn.compares.iter().map(Compare::key).chain(txn.writes.iter().map(Write::key));
        if let Some(own) = keys.into_iter().find(|key| key.starts_with(OWN)) {
            return Err(StoreError::Invalid(format!("{own} is a key that the store keeps for itself")));
        }
        let deadline = Instant::now() + self.client.timeout();
        loop {
            let segments = self.segments().await?;
            let work = self.plan(txn, &segments).await?;
            let failed = if work.changes.is_empty() {
                match self.look(work.ops).await? {
                    Ok(revision) => return Ok(Outcome::Committed(revision)),
                    Err(failed) => failed,
                }
            } else {
                match self.append(&segments, work).await? {
                    Appended::Done(revision) => return Ok(Outcome::Committed(revision)),
                    Appended::Closed => Vec::new(),
                    Appended::Failed(failed) => failed,
                }
            };
            if let Some(records) = self.refusal(txn, &failed).await? {
                return Ok(Outcome::Refused(records));
            }
            if Instant::now() >= deadline {
                let reason = "its records change faster than a transaction can be made; nothing was done";
                return Err(self.client.broken(reason.to_owned()));
            }
        }
    }

    /// The operations: first those of the compares in their order, then those that each lease lives.
    async fn plan(&self, txn: &Txn, segments: &Segments) -> Result<Work, StoreError> {
        let number = random()?;
        let mut ops: Vec<Op> = txn.compares.iter().map(|compare| self.check(compare, segments)).collect();
        ops.extend(leases(txn).into_iter().map(|lease| Op::Get(self.layout.lease(lease))));
        let (unsure, head) = self.unsure(txn).await?;
        let (mut vouchers, mut writes, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for write in &txn.writes {
            let (key, whole) = (write.key(), self.layout.record(write.key()));
            match write {
                Write::Put { value, lease, .. } => {
                    writes.push(Op::Set(whole, value.clone(), layout::flags(*lease, number)));
                    writes.extend(lease.map(|lease| Op::Set(self.layout.bound(lease, key), Vec::new(), 0)));
                    changes.push(Change { key: key.to_owned(), value: Some(value.clone()) });
                }
                Write::Delete { .. } => {
                    match unsure.get(&whole) {
                        Some(Some(index)) => {
                            vouchers.push(Op::Unchanged(whole.clone(), *index));
                            writes.push(Op::Delete(whole));
                        }
                        Some(None) => {
                            ops.push(Op::Absent(whole));
                            continue;
                        }
                        None if txn.compares.iter().any(|c| matches!(c, Compare::Absent(k) if k == key)) => {
                            continue;
                        }
                        None => writes.push(Op::Delete(whole)),
                    }
                    changes.push(Change { key: key.to_owned(), value: None });
                }
            }
        }
        match head {
            // Too many to vouch for each: then nothing at all may have changed.
            Some(head) if ops.len() + vouchers.len() + writes.len() > CALLERS_OPS => {
                ops.push(Op::Unchanged(self.layout.head(), head.index));
            }
            _ => ops.extend(vouchers),
        }
        ops.extend(writes);
        Ok(Work { ops, changes, number })
    }

    fn check(&self, compare: &Compare, segments: &Segments) -> Op {
        let whole = self.layout.record(compare.key());
        match compare {
            Compare::Absent(_) => Op::Absent(whole),
            Compare::Present(_) => Op::Get(whole),
            // No entry was ever modified at 0: a revision of another life of the store does not hold.
            Compare::Unchanged(_, at) => Op::Unchanged(whole, segments.epoch.index(*at).unwrap_or(0)),
        }
    }

    /// The keys to remove that no compare speaks of, each with the index of its entry, if it has one; and the head then.
    async fn unsure(&self, txn: &Txn) -> Result<(BTreeMap<String, Option<u64>>, Option<Head>), StoreError> {
        let compared: BTreeSet<&str> = txn.compares.iter().map(Compare::key).collect();
        let keys: Vec<String> = txn
            .writes
            .iter()
            .filter(|write| matches!(write, Write::Delete { .. }) && !compared.contains(write.key()))
            .map(|write| self.layout.record(write.key()))
            .collect();
        if keys.is_empty() {
            return Ok((BTreeMap::new(), None));
        }
        let seen = self.see(&keys).await?;
        let index = |key: &String| seen.entries.get(key).map(|entry| entry.modify_index);
        Ok((keys.iter().map(|key| (key.clone(), index(key))).collect(), seen.head))
    }

    /// The compared records, if they refuse the transaction; [`StoreError::LeaseLost`] if a lease does.
    /// Operations also fail because of what another transaction does meanwhile: then neither.
    async fn refusal(&self, txn: &Txn, failed: &[usize]) -> Result<Option<Vec<Option<Record>>>, StoreError> {
        let compares = txn.compares.len();
        if failed.iter().any(|op| *op < compares) {
            let keys: Vec<String> = txn.compares.iter().map(|c| self.layout.record(c.key())).collect();
            let seen = self.see(&keys).await?;
            let record = |key| seen.entries.get(key).and_then(|entry| seen.record(&self.layout, entry));
            let found: Vec<Option<Record>> = keys.iter().map(record).collect();
            if !txn.compares.iter().zip(&found).all(|(compare, record)| compare.holds(record.as_ref())) {
                return Ok(Some(found));
            }
        }
        match leases(txn).into_iter().zip(compares..).find(|(_, op)| failed.contains(op)) {
            Some((lease, _)) => Err(StoreError::LeaseLost(lease)),
            None => Ok(None),
        }
    }

    /// Checks without writing: the store's revision, or which of `ops` failed.
    async fn look(&self, mut ops: Vec<Op>) -> Result<Result<Revision, Vec<usize>>, StoreError> {
        ops.insert(0, Op::Tree(self.layout.head()));
        match self.client.look(&ops).await? {
            Applied::Done(found) => Ok(Ok(self.seen(found).await?.revision())),
            Applied::Failed(failures) => Ok(Err(self.places(&failures)?)),
        }
    }

    /// Where the operations stand that failed, without the head before them.
    fn places(&self, failures: &[OpFailure]) -> Result<Vec<usize>, StoreError> {
        failures.iter().map(|f| f.op.checked_sub(1).ok_or_else(|| self.unexpected(failures))).collect()
    }

    /// The entries at these keys, and the store's revision in the same moment.
    pub async fn see(&self, keys: &[String]) -> Result<Seen, StoreError> {
        let head = self.layout.head();
        // Each key, and whether it is thought to have an entry.
        let mut wanted: BTreeMap<&String, bool> = keys.iter().map(|key| (key, true)).collect();
        let deadline = Instant::now() + self.client.timeout();
        loop {
            if Instant::now() >= deadline {
                let reason = "its records come and go faster than they can be read";
                return Err(self.client.broken(reason.to_owned()));
            }
            let mut ops = vec![Op::Tree(head.clone())];
            ops.extend(wanted.iter().map(|(key, there)| {
                if *there { Op::Get((*key).clone()) } else { Op::Absent((*key).clone()) }
            }));
            match self.client.look(&ops).await? {
                Applied::Done(found) => {
                    let seen = self.seen(found).await?;
                    if seen.entries.len() < wanted.values().filter(|there| **there).count() {
                        return Err(self.client.denied("the ACL token may not read all records".to_owned()));
                    }
                    return Ok(seen);
                }
                // A key without an entry fails all of it. It is asked again that there is none, or what is found would be
                // of two moments.
                Applied::Failed(failures) => {
                    let wrong: BTreeSet<usize> = self.places(&failures)?.into_iter().collect();
                    for (at, there) in wanted.values_mut().enumerate() {
                        *there ^= wrong.contains(&at);
                    }
                }
            }
        }
    }

    /// Takes the head out of what was found.
    pub async fn seen(&self, found: Vec<Entry>) -> Result<Seen, StoreError> {
        let mut entries: BTreeMap<String, Entry> = found.into_iter().map(|e| (e.key.clone(), e)).collect();
        let head = if let Some(head) = entries.remove(&self.layout.head()) {
            let epoch = Epoch::from_head(head.value());
            let not_ours = || self.client.broken(format!("{} is not what weft writes there", head.key));
            Some(Head { epoch: epoch.ok_or_else(not_ours)?, index: head.modify_index })
        } else {
            // Consul leaves out what the ACL token may not read, without a word. Asked for one key it tells.
            self.client.get(&format!("kv/{}", self.layout.head())).await?;
            None
        };
        Ok(Seen { head, entries })
    }

    /// Operations that cannot fail have failed.
    pub fn unexpected(&self, failures: &[OpFailure]) -> StoreError {
        let reasons: Vec<&str> = failures.iter().map(|f| f.reason.as_str()).collect();
        self.client.broken(format!("it refuses a transaction: {}", reasons.join("; ")))
    }
}

/// The leases that records are bound to, each once.
fn leases(txn: &Txn) -> BTreeSet<LeaseId> {
    txn.writes
        .iter()
        .filter_map(|write| match write {
            Write::Put { lease, .. } => *lease,
            Write::Delete { .. } => None,
        })
        .collect()
}
