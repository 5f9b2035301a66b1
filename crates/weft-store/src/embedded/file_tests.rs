//! The file on a disk that forgets, at a power failure, any part of what it was not told to keep, and on one that fails.

use super::*;
use proptest::prelude::*;
use redb::StorageBackend;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

/// What a disk keeps or forgets as one.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Doing {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// What is on the disk, and what it was told since it was last told to keep everything.
#[derive(Debug, Default)]
struct Contents {
    kept: Vec<u8>,
    seen: Vec<u8>,
    since: Vec<Doing>,
    /// Writes and syncs until it fails for good.
    left: Option<u32>,
}

impl Contents {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => Err(io::Error::other("the power is off")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The disk after a power failure: of what it was told since the last sync, each sector is there or not as `keeps` says.
    fn lose(&mut self, mut keeps: impl FnMut() -> bool) {
        for doing in std::mem::take(&mut self.since) {
            match doing {
                Doing::Write(offset, data) => {
                    for (number, sector) in data.chunks(SECTOR).enumerate() {
                        let start = offset + number * SECTOR;
                        if keeps() {
                            let end = start + sector.len();
                            self.kept.resize(self.kept.len().max(end), 0);
                            self.kept[start..end].copy_from_slice(sector);
                        }
                    }
                }
                Doing::Length(length) => {
                    if keeps() {
                        self.kept.resize(length, 0);
                    }
                }
            }
        }
        self.seen = self.kept.clone();
        self.left = None;
    }
}

#[derive(Clone, Debug, Default)]
struct Forgetful(Arc<Mutex<Contents>>);

impl Forgetful {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap()
    }

    fn open(&self) -> StoreFile {
        let disk = self.clone();
        let open = move || builder().create_with_backend(disk.clone());
        StoreFile::open_by(Box::new(open), Wanting::default(), Path::new("a disk"), 100).unwrap()
    }
}

impl StorageBackend for Forgetful {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let contents = self.lock();
        let found = contents.seen.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).unwrap();
        let mut contents = self.lock();
        contents.step()?;
        contents.seen.resize(length, 0);
        contents.since.push(Doing::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut contents = self.lock();
        contents.step()?;
        contents.kept = contents.seen.clone();
        contents.since.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let mut contents = self.lock();
        contents.step()?;
        contents.seen[start..start + data.len()].copy_from_slice(data);
        contents.since.push(Doing::Write(start, data.to_vec()));
        Ok(())
    }
}

/// Writes three records as one transaction; whether that was acknowledged.
fn write(file: &StoreFile, number: u64) -> bool {
    let value = vec![u8::try_from(number % 251).unwrap(); 300];
    let txn = ["a", "b", "c"].iter().fold(Txn::new(), |txn, part| {
        txn.put(format!("{part}/{}", number % 20), [&number.to_be_bytes(), &value[..]].concat())
    });
    file.apply([Order::Commit(txn)].iter()).is_ok()
}

/// What the records are after the transactions 1 to `last`: each key's number.
fn expected(last: u64) -> BTreeMap<String, u64> {
    let keys =
        |number: u64| ["a", "b", "c"].map(|part| (format!("{part}/{}", number % 20), number)).into_iter();
    (1..=last).flat_map(keys).collect()
}

fn numbers(file: &StoreFile) -> (u64, BTreeMap<String, u64>) {
    let listing = file.list("").unwrap();
    let number = |record: &Record| u64::from_be_bytes(record.value[..8].try_into().unwrap());
    (listing.revision.0, listing.records.iter().map(|record| (record.key.clone(), number(record))).collect())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: weft_lab::short_or_long(60, 2000), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn after_a_power_failure_every_acknowledged_transaction_is_there_and_none_in_part(
        crashes in prop::collection::vec((1..120_u32, any::<u64>()), 1..4)
    ) {
        let disk = Forgetful::default();
        drop(disk.open());
        let mut last = 0;
        for (steps, luck) in crashes {
            let file = disk.open();
            prop_assert_eq!(numbers(&file), (last, expected(last)));
            disk.lock().left = Some(steps);
            let mut acknowledged = last;
            while write(&file, acknowledged + 1) {
                acknowledged += 1;
            }
            drop(file);
            // Random, from the number that the test is told.
            let mut state = luck | 1;
            disk.lock().lose(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state & 1 == 0
            });
            let file = disk.open();
            let (revision, found) = numbers(&file);
            prop_assert!(revision == acknowledged || revision == acknowledged + 1, "{revision}, {acknowledged}");
            prop_assert_eq!(found, expected(revision));
            let changes = file.changes("", Revision(revision.saturating_sub(100))).unwrap();
            let revisions: Vec<_> = changes.batches.iter().map(|batch| batch.revision.0).collect();
            prop_assert_eq!(revisions, (revision.saturating_sub(100) + 1..=revision).collect::<Vec<_>>());
            prop_assert!(changes.batches.iter().all(|batch| batch.changes.len() == 3));
            last = revision;
        }
    }

    #[test]
    fn a_disk_that_fails_for_a_while_loses_nothing_and_the_store_goes_on(steps in 1..60_u32) {
        let disk = Forgetful::default();
        let file = disk.open();
        prop_assert!(write(&file, 1));
        disk.lock().left = Some(steps);
        let mut number = 1;
        while write(&file, number + 1) {
            number += 1;
        }
        // Opening needs the disk as well; that it is of no use now is no reason never to try again.
        prop_assert!(!write(&file, number + 1));
        disk.lock().left = None;
        let (revision, found) = numbers(&file);
        prop_assert!(revision == number || revision == number + 1, "{revision}, {number}");
        prop_assert_eq!(found, expected(revision));
        prop_assert!(write(&file, revision + 1));
        prop_assert_eq!(numbers(&file), (revision + 1, expected(revision + 1)));
    }
}
