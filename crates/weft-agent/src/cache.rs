//! The last snapshot on disk: with it, a daemon that starts while the store is away carries on as before.
//!
//! A file of JSON lines: a head that names the store, all records, and then what has changed since, a line each time. So a
//! change costs what it is worth and not what the cluster is worth. When the changes have grown as long as the rest, the file
//! is written anew. A last line that a crash has cut off counts for nothing.

use crate::{
    AgentError,
    json_line::json_line,
    outbox::Outbox,
    troubles::{Subject, Troubles},
    view::{Unsaved, View},
};
use serde::{Deserialize, Serialize, de::Error as _};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_model::{Revision, Snapshot};
use weft_store::{Store, replace_file, task};

/// How long changes are gathered before they are written.
const SETTLE: Duration = Duration::from_secs(1);
/// After a write, a rest of this many times as long as it took: a large snapshot is written less often.
const REST_FACTOR: u32 = 50;
/// Changes may grow as long as this, however small the rest is, in bytes.
const FEW: u64 = 64 * 1024;

#[derive(Serialize, Deserialize)]
enum Line {
    /// Records of one store say nothing about another's.
    Head { store: String },
    /// Keys and the records' JSON, up to a revision; without JSON, there is no record any more.
    Records { revision: Revision, records: Vec<(String, Option<String>)> },
}

/// The snapshot that was kept for this store, if there is one that can be read.
pub(crate) fn load(path: &Path, store: &str) -> Option<Snapshot> {
    let bytes = std::fs::read(path).ok()?;
    match read(&bytes, store) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the kept snapshot cannot be read and is ignored");
            None
        }
    }
}

/// The snapshot in a file's bytes; `None` if it is of another store.
pub(crate) fn read(bytes: &[u8], store: &str) -> Result<Option<Snapshot>, serde_json::Error> {
    let misplaced = || serde_json::Error::custom("a line is out of place");
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let mut next = || lines.next().map(serde_json::from_slice::<Line>);
    let Line::Head { store: of } = next().ok_or_else(misplaced)?? else { return Err(misplaced()) };
    if of != store {
        tracing::info!(kept = of, store, "the kept snapshot is of another store and is ignored");
        return Ok(None);
    }
    let Line::Records { mut revision, records } = next().ok_or_else(misplaced)?? else {
        return Err(misplaced());
    };
    let mut all: BTreeMap<String, Option<String>> = records.into_iter().collect();
    // All that was written before a line that cannot be read was so at that time.
    while let Some(Ok(Line::Records { revision: at, records })) = next() {
        revision = at;
        all.extend(records);
    }
    let records = all.into_iter().filter_map(|(key, value)| Some((key, value?.into_bytes())));
    Ok(Some(Snapshot::from_records(revision, records).0))
}

/// The bytes of a file with this snapshot alone.
pub(crate) fn written(store: &str, snapshot: &Snapshot) -> Vec<u8> {
    let records = snapshot.to_records().into_iter().map(|(key, value)| (key, Some(value)));
    [json_line(&Line::Head { store: store.to_owned() }), changes(snapshot.revision, records)].concat()
}

/// The bytes of a line of records.
fn changes(revision: Revision, records: impl IntoIterator<Item = (String, Option<Vec<u8>>)>) -> Vec<u8> {
    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
    let records = records.into_iter().map(|(key, value)| (key, value.map(text))).collect();
    json_line(&Line::Records { revision, records })
}

/// The file, as this daemon has written it, in bytes.
struct Log {
    /// The head and all records.
    whole: u64,
    /// The changes since.
    changes: u64,
}

impl Log {
    /// Writes the snapshot, whole or not at all.
    fn begin(path: &Path, store: &str, snapshot: &Snapshot) -> Result<Self, AgentError> {
        let bytes = written(store, snapshot);
        replace_file(path, 0o644, &bytes).map_err(|e| AgentError::file(path, e))?;
        Ok(Self { whole: bytes.len() as u64, changes: 0 })
    }

    /// Adds what has changed. What is not on the disk yet when the machine crashes is lost: its containers have ended then.
    fn add(&mut self, path: &Path, changes: &[u8]) -> Result<(), AgentError> {
        self.changes += changes.len() as u64;
        let file = OpenOptions::new().append(true).open(path);
        file.and_then(|mut file| file.write_all(changes)).map_err(|e| AgentError::file(path, e))
    }

    fn is_long(&self) -> bool {
        self.changes > self.whole.max(FEW)
    }
}

/// The file, and what it is to hold.
pub(crate) struct Kept {
    path: PathBuf,
    outbox: Arc<Outbox>,
    view: Arc<View>,
    /// `None`: it has to be written anew.
    log: Option<Log>,
    /// The store that its records are of.
    store: String,
}

impl Kept {
    pub(crate) fn new(path: PathBuf, outbox: Arc<Outbox>, view: Arc<View>) -> Self {
        Self { path, outbox, view, log: None, store: String::new() }
    }

    /// Keeps the file up to date until `shutdown`, and once more then. What cannot be written is tried again until it can.
    pub(crate) async fn keep(mut self, troubles: Arc<Troubles>, shutdown: CancellationToken) {
        let (mut seen, mut link) = (self.view.seen(), self.view.link());
        let mut failing = false;
        let mut rest = SETTLE;
        let mut ending = false;
        while !ending {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => ending = true,
                changed = seen.changed() => ending = changed.is_err(),
                () = tokio::time::sleep(rest), if failing => {}
            }
            if !ending {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => ending = true,
                    // From here on this file may be all that the next start has.
                    _ = link.changed() => {}
                    () = tokio::time::sleep(rest) => {}
                }
            }
            seen.mark_unchanged();
            let begun = Instant::now();
            let trouble = self.save_once().await;
            failing = trouble.is_some();
            rest = SETTLE.max(begun.elapsed() * REST_FACTOR);
            let told = trouble.clone().unwrap_or_else(|| "the snapshot is kept again".to_owned());
            if troubles.set(Subject::Snapshot, trouble) {
                tracing::warn!("{told}");
            }
        }
    }

    /// Writes what has changed, or all of it. `None`: it is written; else why not.
    async fn save_once(&mut self) -> Option<String> {
        // Asked each time: it may have moved.
        let store = self.outbox.address();
        let log = self.log.take().filter(|log| !log.is_long() && store == self.store);
        self.store.clone_from(&store);
        let (unsaved, harmless) = self.view.take_unsaved(log.is_none(), |snapshot| {
            self.outbox.spent.harmless(|key| self.outbox.own_claim(snapshot, key).is_some())
        });
        let (path, outbox) = (self.path.clone(), Arc::clone(&self.outbox));
        let saved = task::blocking(move || {
            let log = match (unsaved, log) {
                (Unsaved::Changes(revision, records), Some(mut log)) => {
                    log.add(&path, &changes(revision, records))?;
                    Some(log)
                }
                (Unsaved::All(snapshot), _) => Some(Log::begin(&path, &store, &snapshot)?),
                // Never: all of it was asked for.
                (Unsaved::Changes(..), None) => None,
            };
            outbox.spent.saved(&harmless)?;
            Ok::<_, AgentError>(log)
        })
        .await;
        let error = match saved {
            Ok(Ok(log)) => {
                self.log = log;
                return None;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Some(format!(
            "the snapshot cannot be kept, without which this daemon does not start while the store is away: {error}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::{Change, NodeId, encode, schema};

    #[test]
    fn what_was_saved_is_loaded_for_the_same_store_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot.json");
        assert!(load(&path, "etcd://a").is_none());
        let records = [(schema::alive_key(&NodeId::random()), encode(&3u64))];
        let (snapshot, bad) = Snapshot::from_records(Revision(12), records);
        assert!(bad.is_empty());
        Log::begin(&path, "etcd://a", &snapshot).unwrap();
        assert_eq!(load(&path, "etcd://a"), Some(snapshot));
        assert!(load(&path, "etcd://b").is_none());
        std::fs::write(&path, b"{").unwrap();
        assert!(load(&path, "etcd://a").is_none());
    }

    #[test]
    fn a_crash_at_any_byte_leaves_what_was_so_at_some_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot.json");
        let nodes: Vec<NodeId> = (0..4).map(|_| NodeId::random()).collect();
        let key = |n: usize| schema::alive_key(&nodes[n]);
        let (mut snapshot, _) = Snapshot::from_records(Revision(1), [(key(0), encode(&3u64))]);
        let mut log = Log::begin(&path, "etcd://a", &snapshot).unwrap();
        let mut steps = vec![(std::fs::metadata(&path).unwrap().len(), snapshot.clone())];
        for (revision, n, value) in [(5, 1, Some(1u64)), (6, 0, None), (9, 2, Some(7)), (9, 1, Some(8))] {
            let change = Change { key: key(n), value: value.map(|epoch| encode(&epoch)) };
            snapshot.apply(&change).unwrap();
            snapshot.revision = Revision(revision);
            log.add(&path, &changes(snapshot.revision, [(change.key, change.value)])).unwrap();
            steps.push((std::fs::metadata(&path).unwrap().len(), snapshot.clone()));
        }
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..=bytes.len() {
            let whole = steps.iter().rfind(|(end, _)| *end <= length as u64).map(|(_, snapshot)| snapshot);
            let found = read(&bytes[..length], "etcd://a").unwrap_or(None);
            assert_eq!(found.as_ref(), whole, "{length} bytes are left");
        }
        // What a machine that lost its power has left behind the last line.
        std::fs::write(&path, [&bytes[..], &[0; 99], b"\n"].concat()).unwrap();
        assert_eq!(load(&path, "etcd://a"), Some(snapshot));
    }

    #[test]
    fn changes_are_added_until_they_are_as_long_as_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot.json");
        let records = (0..2000u64).map(|epoch| (schema::alive_key(&NodeId::random()), encode(&epoch)));
        let (snapshot, _) = Snapshot::from_records(Revision(1), records);
        let mut log = Log::begin(&path, "etcd://a", &snapshot).unwrap();
        let whole = std::fs::metadata(&path).unwrap().len();
        assert!(whole > FEW);
        while !log.is_long() {
            let change = (schema::alive_key(&NodeId::random()), Some(encode(&7u64)));
            log.add(&path, &changes(Revision(2), [change])).unwrap();
        }
        let now = std::fs::metadata(&path).unwrap().len();
        assert!((2 * whole..2 * whole + 1000).contains(&now), "{now} of {whole}");
    }

    #[test]
    fn a_disk_that_refuses_is_named() {
        let error =
            Log::begin(Path::new("/proc/weft/snapshot.json"), "x", &Snapshot::default()).err().unwrap();
        assert!(error.to_string().contains("/proc/weft"), "{error}");
    }

    #[test]
    fn a_full_disk_is_told_and_the_last_snapshot_stays() {
        let dir = tempfile::tempdir().unwrap();
        let disk = weft_lab::SmallDisk::mount(dir.path(), 1 << 20).unwrap();
        let path = disk.path("snapshot.json");
        Log::begin(&path, "etcd://a", &Snapshot::default()).unwrap();
        disk.fill().unwrap();
        let records = (0..5000u64).map(|epoch| (schema::alive_key(&NodeId::random()), encode(&epoch)));
        let (snapshot, _) = Snapshot::from_records(Revision(12), records);
        let error = Log::begin(&path, "etcd://a", &snapshot).err().unwrap().to_string();
        assert!(error.contains("snapshot.json") && error.contains("No space left"), "{error}");
        assert_eq!(load(&path, "etcd://a"), Some(Snapshot::default()));
        disk.free().unwrap();
        Log::begin(&path, "etcd://a", &snapshot).unwrap();
        assert_eq!(load(&path, "etcd://a"), Some(snapshot));
    }
}
