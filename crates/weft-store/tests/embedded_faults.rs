//! The embedded store under `kill -9`, and on a disk that is full: no acknowledged write is lost, nothing is half done.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use futures::StreamExt as _;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use weft_lab::{SmallDisk, figures, short_or_long};
use weft_model::Revision;
use weft_store::{Embedded, Listing, Outcome, Store, StoreError, Txn};

const CRASH_FILE: &str = "WEFT_TEST_CRASH_FILE";
/// So short that some watches can go on after a kill and some have been outrun.
const HISTORY: u64 = 100;
/// Keys that the writers go round, so that records are overwritten.
const ROUND: u64 = 500;
const PATIENCE: Duration = Duration::from_mins(1);

async fn open(path: &Path) -> Embedded {
    Embedded::open_with_history(path, HISTORY).await.unwrap()
}

/// Not a test of its own: [`killed_at_any_moment_it_keeps_what_it_acknowledged`] runs it in a process and kills that. Four
/// tasks write, each transaction three records of one number; it is said once its write is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_child() {
    let Some(path) = std::env::var_os(CRASH_FILE) else { return };
    let store = Arc::new(open(&PathBuf::from(path)).await);
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut number = own(&store.list("a/").await.unwrap(), writer);
            loop {
                number += 1;
                let key = |part| format!("{part}/{writer}/{}", number % ROUND);
                let value = format!("{writer} {number}");
                let txn = ["a", "b", "c"]
                    .into_iter()
                    .fold(Txn::new(), |txn, part| txn.put(key(part), value.clone().into_bytes()));
                let Outcome::Committed(at) = store.commit(txn).await.unwrap() else { panic!("refused") };
                println!("written {value} {at}");
            }
        })
    });
    futures::future::join_all(writers).await;
}

/// The last number that a writer has written.
fn own(listing: &Listing, writer: u64) -> u64 {
    values(listing).values().filter(|(by, _)| *by == writer).map(|(_, number)| *number).max().unwrap_or(0)
}

/// Each key's writer and number.
fn values(listing: &Listing) -> BTreeMap<&str, (u64, u64)> {
    let value = |value: &[u8]| {
        let text = std::str::from_utf8(value).unwrap();
        let (writer, number) = text.split_once(' ').unwrap();
        (writer.parse().unwrap(), number.parse().unwrap())
    };
    listing.records.iter().map(|record| (record.key.as_str(), value(&record.value))).collect()
}

/// A child that is gone at the end, however that comes.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// What was acknowledged: each writer's last number, and the last revision.
#[derive(Debug, Default)]
struct Acknowledged {
    numbers: BTreeMap<u64, u64>,
    revision: Revision,
    writes: u64,
}

impl Acknowledged {
    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (Some("written"), Some(writer), Some(number), Some(at), None) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            return;
        };
        let (writer, number): (u64, u64) = (writer.parse().unwrap(), number.parse().unwrap());
        let last = self.numbers.insert(writer, number).unwrap_or(0);
        assert!(number > last, "writer {writer} went from {last} to {number}");
        self.revision = self.revision.max(Revision(at.parse().unwrap()));
        self.writes += 1;
    }
}

/// Lets the child write to the file and kills it after `lines` acknowledgements and `more` time.
fn write_until_killed(path: &Path, acknowledged: &mut Acknowledged, lines: usize, more: Duration) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash_child", "--nocapture"])
        .env(CRASH_FILE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = Writer(child.unwrap());
    let mut said = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let is_written = |line: &String| line.starts_with("written ");
    let heard: Vec<_> = said.by_ref().filter(is_written).take(lines).collect();
    assert!(heard.len() >= lines, "it ended early: {heard:?}");
    std::thread::sleep(more);
    child.0.kill().unwrap();
    // What it said between the last line read and its end counts too. The very last line may be a torn one.
    let mut rest: Vec<_> = said.collect();
    rest.pop();
    heard.iter().chain(&rest).for_each(|line| acknowledged.hear(line));
}

/// Whether the records are those of whole transactions, nothing acknowledged missing.
fn check(listing: &Listing, acknowledged: &Acknowledged) {
    let values = values(listing);
    for (key, value) in &values {
        let (_, rest) = key.split_once('/').unwrap();
        for part in ["a", "b", "c"] {
            assert_eq!(values.get(format!("{part}/{rest}").as_str()), Some(value), "half of {key}");
        }
    }
    for (writer, number) in &acknowledged.numbers {
        // The writer's later writes may have overwritten older ones; each key has the latest number of its round.
        for wrote in number.saturating_sub(ROUND - 1).max(1)..=*number {
            let found = values.get(format!("a/{writer}/{}", wrote % ROUND).as_str());
            assert!(
                found.is_some_and(|(by, found)| by == writer && *found >= wrote),
                "{writer} {wrote}: {found:?}"
            );
        }
    }
    assert!(listing.revision >= acknowledged.revision, "it went back: {listing:?}");
    // Every transaction is one revision, so the revisions count the writes.
    let writes: u64 = (0..4).map(|writer| own(listing, writer)).sum();
    assert_eq!(listing.revision.0, writes);
}

#[tokio::test]
async fn killed_at_any_moment_it_keeps_what_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let mut acknowledged = Acknowledged::default();
    let (mut resumed, mut compacted) = (0, 0);
    let kills = short_or_long(20, 1000);
    for kill in 0..kills {
        let before = acknowledged.revision;
        let random = getrandom::u64().unwrap();
        // Some die while they open the file.
        let lines = if kill % 4 == 3 { 0 } else { usize::try_from(random % 200).unwrap() };
        let more = Duration::from_micros(random >> 32 & 0x3fff);
        write_until_killed(&path, &mut acknowledged, lines, more);
        let store = open(&path).await;
        let listing = store.list("").await.unwrap();
        check(&listing, &acknowledged);
        let watch = match store.watch("", before).await {
            Ok(watch) => watch,
            Err(error) => {
                assert!(matches!(error, StoreError::Compacted(_)), "{error}");
                assert!(listing.revision.0 > before.0 + HISTORY, "{before} is not so long ago");
                compacted += 1;
                continue;
            }
        };
        let missed = usize::try_from(listing.revision.0 - before.0).unwrap();
        let batches: Vec<_> = tokio::time::timeout(PATIENCE, watch.take(missed).collect()).await.unwrap();
        for (revision, batch) in (before.0 + 1..).zip(batches) {
            let batch: weft_store::Batch = batch.unwrap();
            assert_eq!((batch.revision.0, batch.changes.len()), (revision, 3));
        }
        resumed += 1;
    }
    let writes = acknowledged.writes;
    assert!(writes > 0);
    figures(
        "embedded store killed",
        &format!(
            "{kills} kills, 0 of {writes} acknowledged writes lost, 0 in part; {resumed} watches went on, {compacted} said \
             that history was forgotten"
        ),
    );
}

async fn put(store: &Embedded, number: u64) -> Result<Outcome, StoreError> {
    let value = [&number.to_be_bytes()[..], &[7; 8000]].concat();
    store.commit(Txn::new().put(format!("k/{number:06}"), value)).await
}

/// Writes until the store refuses; the numbers that it acknowledged, and the refusal.
async fn write_until_refused(store: &Embedded, numbers: &mut Vec<u64>) -> StoreError {
    loop {
        let number = numbers.len() as u64;
        match put(store, number).await {
            Ok(_) => numbers.push(number),
            Err(error) => return error,
        }
        assert!(numbers.len() < 100_000, "the disk does not fill");
    }
}

async fn holds(store: &Embedded, numbers: &[u64]) {
    let listing = store.list("k/").await.unwrap();
    let found: Vec<u64> =
        listing.records.iter().map(|r| u64::from_be_bytes(r.value[..8].try_into().unwrap())).collect();
    assert_eq!(found, numbers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_writes_are_refused_reads_go_on_and_it_recovers_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(folder.path(), short_or_long(64 << 20, 256 << 20)).unwrap();
    let path = disk.path("store.redb");
    let store = open(&path).await;
    let mut numbers = Vec::new();
    for number in 0..100_u64 {
        put(&store, number).await.unwrap();
        numbers.push(number);
    }
    let mut refusals = 0;
    // The file doubles with each.
    for _ in 0..short_or_long(2, 4) {
        disk.fill().unwrap();
        let error = write_until_refused(&store, &mut numbers).await;
        let text = error.to_string();
        assert!(matches!(error, StoreError::Storage { .. }), "{text}");
        assert!(text.contains(path.to_str().unwrap()) && text.contains("No space left"), "{text}");
        // Again and again, while it lasts: reads go on, and nothing that was acknowledged is missing.
        for _ in 0..10 {
            write_until_refused(&store, &mut numbers).await;
            holds(&store, &numbers).await;
            refusals += 1;
        }
        let lease = store.grant(PATIENCE).await;
        assert!(lease.is_ok() || matches!(lease, Err(StoreError::Storage { .. })), "{lease:?}");
        disk.free().unwrap();
        // It goes on as soon as there is room, without a restart.
        let number = numbers.len() as u64;
        put(&store, number).await.unwrap();
        numbers.push(number);
        holds(&store, &numbers).await;
    }
    drop(store);
    disk.fill().unwrap();
    // A start on a full disk, too.
    let store = open(&path).await;
    holds(&store, &numbers).await;
    figures(
        "embedded store's disk full",
        &format!(
            "{} writes acknowledged, 0 lost; {refusals} refused, each with path and cause",
            numbers.len()
        ),
    );
}
