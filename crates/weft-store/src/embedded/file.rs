//! The embedded store's file: its tables and the transactions on them. Everything here may block on the disk.
//!
//! | table | key | value |
//! |---|---|---|
//! | `records` | key | revision that wrote it, its lease (0: none), value |
//! | `history` | revision, position in it | key, new value (none: removed) |
//! | `leases` | lease | time to live in milliseconds |
//! | `leased` | lease | keys of the records bound to it |
//! | `counters` | `format`, `revision`, `forgotten` | number |

use super::{
    disk::{Disk, Wanting},
    storage,
};
use crate::{Batch, LeaseId, Listing, Outcome, Record, StoreError, Txn, Write};
use redb::{
    Builder, Database, DatabaseError, MultimapTable, MultimapTableDefinition, ReadTransaction,
    ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::Duration,
};
use weft_model::{Change, Revision};

const RECORDS: TableDefinition<'_, &str, (u64, i64, &[u8])> = TableDefinition::new("records");
const HISTORY: TableDefinition<'_, (u64, u32), LoggedChange<'static>> = TableDefinition::new("history");
const LEASES: TableDefinition<'_, i64, u64> = TableDefinition::new("leases");
const LEASED: MultimapTableDefinition<'_, i64, &str> = MultimapTableDefinition::new("leased");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// A key and its new value; none when it was removed.
type LoggedChange<'a> = (&'a str, Option<&'a [u8]>);

/// The layout of the tables above.
const FORMAT: u64 = 1;
/// redb's cache; its own default of 1 GiB is for other users.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Changes that a watch reads at once, rounded up to whole revisions.
const CHUNK: usize = 500;

/// What the writer is asked to do to the file.
pub enum Order {
    /// A transaction that has passed [`Txn::check`].
    Commit(Txn),
    /// A new lease.
    Grant(LeaseId, Duration),
    /// The end of a lease and of the records bound to it.
    End(LeaseId),
}

/// What came of an order.
#[derive(Debug)]
pub enum Answer {
    /// Of a commit.
    Outcome(Outcome),
    /// Of the others.
    Done,
}

/// A piece of the change log.
pub struct Chunk {
    /// The changes that were asked for.
    pub batches: Vec<Batch>,
    /// The log has been read up to here.
    pub up_to: Revision,
}

/// The open file.
pub struct StoreFile {
    /// redb does nothing more with a file that has failed it once, so the file is opened anew then. `None`: that failed too.
    database: RwLock<Opened>,
    open: Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>,
    wanting: Wanting,
    path: PathBuf,
    history: u64,
}

struct Opened {
    database: Option<Database>,
    /// How often it was opened.
    times: u64,
}

type Redb<T> = Result<T, redb::Error>;

impl StoreFile {
    /// Opens or makes it, with its tables.
    pub fn open(path: &Path, history: u64) -> Result<Self, StoreError> {
        let fresh = !path.exists();
        let wanting = Wanting::default();
        let (at, wants) = (path.to_owned(), wanting.clone());
        let open = move || {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&at)?;
            builder().create_with_backend(Disk::new(file, wants.clone())?)
        };
        let file = Self::open_by(Box::new(open), wanting, path, history)?;
        if fresh && let Some(folder) = path.parent() {
            // The file's name has to survive a power failure too.
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder).and_then(|f| f.sync_all()).map_err(|e| storage(path, &e))?;
        }
        Ok(file)
    }

    /// The same on whatever `open` opens.
    fn open_by(
        open: Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>,
        wanting: Wanting,
        path: &Path,
        history: u64,
    ) -> Result<Self, StoreError> {
        let database = open().map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => {
                storage(path, &"another process has it open; is another weft daemon running?")
            }
            other => storage(path, &other),
        })?;
        let database = RwLock::new(Opened { database: Some(database), times: 1 });
        let file = Self { database, open, wanting, path: path.to_owned(), history };
        let format = file.named(file.with(prepare))?;
        if format != FORMAT {
            let reason =
                format!("its format is {format} and this weft reads {FORMAT}; use the weft that wrote it");
            return Err(storage(path, &reason));
        }
        Ok(file)
    }

    /// Reads every page of the file and compares its checksums. `false`: what was damaged has been mended from what is left.
    pub fn check(&self) -> Result<bool, StoreError> {
        let mut opened = self.database.write().unwrap_or_else(PoisonError::into_inner);
        match &mut opened.database {
            Some(database) => database.check_integrity().map_err(|e| storage(&self.path, &e)),
            None => Err(storage(&self.path, &redb::Error::DatabaseClosed)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The record at `key`.
    pub fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        self.read(|tx| {
            let found = tx.open_table(RECORDS)?.get(key)?;
            Ok(found.map(|guard| record(key, guard.value())))
        })
    }

    /// All records below `prefix`.
    pub fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.read(|tx| {
            let mut records = Vec::new();
            for entry in tx.open_table(RECORDS)?.range(prefix..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                records.push(record(key.value(), value.value()));
            }
            Ok(Listing { revision: Revision(counter(&tx.open_table(COUNTERS)?, "revision")?), records })
        })
    }

    /// The last committed revision.
    pub fn revision(&self) -> Result<Revision, StoreError> {
        self.read(|tx| Ok(Revision(counter(&tx.open_table(COUNTERS)?, "revision")?)))
    }

    /// All leases with their times to live.
    pub fn leases(&self) -> Result<Vec<(LeaseId, Duration)>, StoreError> {
        self.read(|tx| {
            let mut leases = Vec::new();
            for entry in tx.open_table(LEASES)?.range::<i64>(..)? {
                let (lease, ttl) = entry?;
                leases.push((LeaseId(lease.value()), Duration::from_millis(ttl.value())));
            }
            Ok(leases)
        })
    }

    /// The next changes after `after` below `prefix`, some hundred at most.
    pub fn changes(&self, prefix: &str, after: Revision) -> Result<Chunk, StoreError> {
        let (forgotten, chunk) = self.read(|tx| read_changes(tx, prefix, after))?;
        if forgotten > after { Err(StoreError::Compacted(forgotten)) } else { Ok(chunk) }
    }

    /// Carries out the orders in one disk transaction, each with a revision of its own. On disk when it
    /// returns. After an error none of them took effect, unless the disk failed while it was told to keep them:
    /// [`StoreFile::revision`] tells.
    pub fn apply<'a>(
        &self,
        orders: impl Iterator<Item = &'a Order>,
    ) -> Result<(Vec<Result<Answer, StoreError>>, Revision), StoreError> {
        self.wanting.ask(&self.path).map_err(|e| storage(&self.path, &e))?;
        self.named(self.with(|database| try_apply(database, self.history, orders)))
    }

    fn read<T>(&self, reading: impl Fn(&ReadTransaction) -> Redb<T>) -> Result<T, StoreError> {
        let result = match self.with(|database| reading(&database.begin_read()?)) {
            // It was opened anew: a read can simply be repeated.
            Err(error) if is_broken(&error) => self.with(|database| reading(&database.begin_read()?)),
            result => result,
        };
        self.named(result)
    }

    /// Uses the database; opens it anew when it turns out to be of no use any more.
    fn with<T>(&self, using: impl FnOnce(&Database) -> Redb<T>) -> Redb<T> {
        let mut opened = self.database.read().unwrap_or_else(PoisonError::into_inner);
        if opened.database.is_none() {
            let times = opened.times;
            drop(opened);
            self.open_anew(times)?;
            opened = self.database.read().unwrap_or_else(PoisonError::into_inner);
        }
        let result = opened.database.as_ref().map_or(Err(redb::Error::DatabaseClosed), using);
        let times = opened.times;
        drop(opened);
        if result.as_ref().is_err_and(is_broken) {
            // An error of this is the next caller's: what is told here is why it had to be done.
            if let Err(error) = self.open_anew(times) {
                tracing::error!(path = %self.path.display(), %error, "the store cannot be opened anew");
            }
        }
        result
    }

    /// Unless somebody else has done it since.
    fn open_anew(&self, times: u64) -> Redb<()> {
        let mut opened = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if opened.times == times {
            // Closed first: a file is open once at a time.
            opened.database = None;
            opened.database = Some((self.open)()?);
            opened.times += 1;
        }
        Ok(())
    }

    fn named<T>(&self, result: Redb<T>) -> Result<T, StoreError> {
        result.map_err(|e| storage(&self.path, &e))
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Whether redb will do nothing more with this database.
fn is_broken(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed)
}

fn try_apply<'a>(
    database: &Database,
    history: u64,
    orders: impl Iterator<Item = &'a Order>,
) -> Redb<(Vec<Result<Answer, StoreError>>, Revision)> {
    let tx = database.begin_write()?;
    let mut tables = Tables::open(&tx)?;
    let before = tables.revision;
    let mut answers = Vec::new();
    for order in orders {
        answers.push(tables.carry_out(order)?);
    }
    let after = tables.revision;
    if after > before {
        tables.close_revision(history)?;
    }
    drop(tables);
    tx.commit()?;
    Ok((answers, Revision(after)))
}

/// Makes the tables of a new file; returns the format of an old one.
fn prepare(database: &Database) -> Redb<u64> {
    let tx = database.begin_write()?;
    let found = tx.open_table(COUNTERS)?.get("format")?.map(|guard| guard.value());
    if let Some(format) = found {
        tx.abort()?;
        return Ok(format);
    }
    drop(Tables::open(&tx)?);
    tx.open_table(COUNTERS)?.insert("format", FORMAT)?;
    tx.commit()?;
    Ok(FORMAT)
}

/// What has been forgotten, and the changes.
fn read_changes(tx: &ReadTransaction, prefix: &str, after: Revision) -> Redb<(Revision, Chunk)> {
    let counters = tx.open_table(COUNTERS)?;
    let forgotten = Revision(counter(&counters, "forgotten")?);
    let mut chunk = Chunk { batches: Vec::new(), up_to: Revision(counter(&counters, "revision")?) };
    for (read, entry) in tx.open_table(HISTORY)?.range((after.next().0, 0)..)?.enumerate() {
        let (at, change) = entry?;
        let ((at, position), (key, value)) = (at.value(), change.value());
        if read >= CHUNK && position == 0 {
            chunk.up_to = Revision(at - 1);
            break;
        }
        if !key.starts_with(prefix) {
            continue;
        }
        let change = Change { key: key.to_owned(), value: value.map(<[u8]>::to_vec) };
        match chunk.batches.last_mut() {
            Some(batch) if batch.revision.0 == at => batch.changes.push(change),
            _ => chunk.batches.push(Batch { revision: Revision(at), changes: vec![change] }),
        }
    }
    Ok((forgotten, chunk))
}

/// The tables of one write transaction.
struct Tables<'tx> {
    records: Table<'tx, &'static str, (u64, i64, &'static [u8])>,
    history: Table<'tx, (u64, u32), LoggedChange<'static>>,
    leases: Table<'tx, i64, u64>,
    leased: MultimapTable<'tx, i64, &'static str>,
    counters: Table<'tx, &'static str, u64>,
    /// The last revision so far.
    revision: u64,
}

impl<'tx> Tables<'tx> {
    fn open(tx: &'tx WriteTransaction) -> Redb<Self> {
        let counters = tx.open_table(COUNTERS)?;
        let revision = counter(&counters, "revision")?;
        Ok(Self {
            records: tx.open_table(RECORDS)?,
            history: tx.open_table(HISTORY)?,
            leases: tx.open_table(LEASES)?,
            leased: tx.open_multimap_table(LEASED)?,
            counters,
            revision,
        })
    }

    fn carry_out(&mut self, order: &Order) -> Redb<Result<Answer, StoreError>> {
        match order {
            Order::Commit(txn) => Ok(self.commit(txn)?.map(Answer::Outcome)),
            Order::Grant(lease, ttl) => {
                self.leases.insert(lease.0, u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))?;
                Ok(Ok(Answer::Done))
            }
            Order::End(lease) => {
                self.end(*lease)?;
                Ok(Ok(Answer::Done))
            }
        }
    }

    fn commit(&mut self, txn: &Txn) -> Redb<Result<Outcome, StoreError>> {
        let mut present = Vec::with_capacity(txn.compares.len());
        for compare in &txn.compares {
            let found = self.records.get(compare.key())?;
            present.push(found.map(|guard| record(compare.key(), guard.value())));
        }
        if !txn.compares.iter().zip(&present).all(|(compare, record)| compare.holds(record.as_ref())) {
            return Ok(Ok(Outcome::Refused(present)));
        }
        for write in &txn.writes {
            if let Write::Put { lease: Some(lease), .. } = write
                && self.leases.get(lease.0)?.is_none()
            {
                return Ok(Err(StoreError::LeaseLost(*lease)));
            }
        }
        let mut position = 0;
        for write in &txn.writes {
            let wrote = match write {
                Write::Put { key, value, lease } => self.put(position, key, value, *lease)?,
                Write::Delete { key } => self.delete(position, key)?,
            };
            position += u32::from(wrote);
        }
        self.revision += u64::from(position > 0);
        Ok(Ok(Outcome::Committed(Revision(self.revision))))
    }

    /// Writes at the revision that is being made, as its change at `position`.
    fn put(&mut self, position: u32, key: &str, value: &[u8], lease: Option<LeaseId>) -> Redb<bool> {
        let (at, lease) = (self.revision + 1, lease.map_or(0, |lease| lease.0));
        let former = self.records.insert(key, (at, lease, value))?.map_or(0, |guard| guard.value().1);
        if former != lease {
            if former != 0 {
                self.leased.remove(former, key)?;
            }
            if lease != 0 {
                self.leased.insert(lease, key)?;
            }
        }
        self.history.insert((at, position), (key, Some(value)))?;
        Ok(true)
    }

    /// Whether there was something to remove.
    fn delete(&mut self, position: u32, key: &str) -> Redb<bool> {
        let Some(former) = self.records.remove(key)?.map(|guard| guard.value().1) else { return Ok(false) };
        if former != 0 {
            self.leased.remove(former, key)?;
        }
        self.history.insert((self.revision + 1, position), (key, None))?;
        Ok(true)
    }

    fn end(&mut self, lease: LeaseId) -> Redb<()> {
        self.leases.remove(lease.0)?;
        let mut keys = Vec::new();
        for key in self.leased.remove_all(lease.0)? {
            keys.push(key?.value().to_owned());
        }
        let mut position = 0;
        for key in keys {
            position += u32::from(self.delete(position, &key)?);
        }
        self.revision += u64::from(position > 0);
        Ok(())
    }

    /// Writes the counters down and forgets the oldest history.
    fn close_revision(&mut self, history: u64) -> Redb<()> {
        self.counters.insert("revision", self.revision)?;
        let forgotten = self.revision.saturating_sub(history);
        if forgotten > counter(&self.counters, "forgotten")? {
            self.history.retain_in(..(forgotten + 1, 0), |_, _| false)?;
            self.counters.insert("forgotten", forgotten)?;
        }
        Ok(())
    }
}

fn counter(counters: &impl ReadableTable<&'static str, u64>, name: &str) -> Redb<u64> {
    Ok(counters.get(name)?.map_or(0, |guard| guard.value()))
}

fn record(key: &str, (modified, _, value): (u64, i64, &[u8])) -> Record {
    Record { key: key.to_owned(), value: value.to_vec(), modified: Revision(modified) }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
