//! The last snapshot on disk: with it, a daemon that starts while the store is away carries on as before.

use crate::{
    AgentError,
    outbox::Outbox,
    troubles::{Subject, Troubles},
    view::View,
};
use serde::{Deserialize, Serialize};
use std::{
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

#[derive(Serialize, Deserialize)]
struct File {
    /// Records of one store say nothing about another's.
    store: String,
    revision: Revision,
    /// Keys and the records' JSON.
    records: Vec<(String, String)>,
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
    let file: File = serde_json::from_slice(bytes)?;
    if file.store != store {
        tracing::info!(kept = file.store, store, "the kept snapshot is of another store and is ignored");
        return Ok(None);
    }
    let records = file.records.into_iter().map(|(key, value)| (key, value.into_bytes()));
    Ok(Some(Snapshot::from_records(file.revision, records).0))
}

/// The bytes of a file.
pub(crate) fn written(store: &str, snapshot: &Snapshot) -> Result<Vec<u8>, serde_json::Error> {
    let records = snapshot.to_records().into_iter();
    let records = records.map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned())).collect();
    serde_json::to_vec(&File { store: store.to_owned(), revision: snapshot.revision, records })
}

/// Writes the snapshot, whole or not at all.
pub(crate) fn save(path: &Path, store: &str, snapshot: &Snapshot) -> Result<(), AgentError> {
    let error = |e: &dyn std::fmt::Display| AgentError::File {
        path: path.display().to_string(),
        reason: e.to_string(),
    };
    let bytes = written(store, snapshot).map_err(|e| error(&e))?;
    replace_file(path, 0o644, &bytes).map_err(|e| error(&e))
}

/// The file, and what it is to hold.
pub(crate) struct Kept {
    pub(crate) path: PathBuf,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) view: Arc<View>,
}

impl Kept {
    /// Keeps the file up to date until `shutdown`, and once more then. What cannot be written is tried again until it can.
    pub(crate) async fn keep(self, troubles: Arc<Troubles>, shutdown: CancellationToken) {
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

    /// Writes it as it is now. `None`: it is written; else why not.
    async fn save_once(&self) -> Option<String> {
        let settled = self.outbox.spent.settled();
        let snapshot = self.view.read(Snapshot::clone);
        // Asked each time: it may have moved.
        let (path, store) = (self.path.clone(), self.outbox.address());
        let outbox = Arc::clone(&self.outbox);
        let saved = task::blocking(move || {
            save(&path, &store, &snapshot)?;
            outbox.spent.saved(&settled, |key| outbox.own_claim(&snapshot, key).is_some())
        })
        .await;
        let error = match saved {
            Ok(Ok(())) => return None,
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
    use weft_model::{NodeId, encode, schema};

    #[test]
    fn what_was_saved_is_loaded_for_the_same_store_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot.json");
        assert!(load(&path, "etcd://a").is_none());
        let records = [(schema::alive_key(&NodeId::random()), encode(&3u64))];
        let (snapshot, bad) = Snapshot::from_records(Revision(12), records);
        assert!(bad.is_empty());
        save(&path, "etcd://a", &snapshot).unwrap();
        assert_eq!(load(&path, "etcd://a"), Some(snapshot));
        assert!(load(&path, "etcd://b").is_none());
        std::fs::write(&path, b"{").unwrap();
        assert!(load(&path, "etcd://a").is_none());
    }

    #[test]
    fn a_disk_that_refuses_is_named() {
        let error = save(Path::new("/proc/weft/snapshot.json"), "x", &Snapshot::default()).unwrap_err();
        assert!(error.to_string().contains("/proc/weft"), "{error}");
    }

    #[test]
    fn a_full_disk_is_told_and_the_last_snapshot_stays() {
        let dir = tempfile::tempdir().unwrap();
        let disk = weft_lab::SmallDisk::mount(dir.path(), 1 << 20).unwrap();
        let path = disk.path("snapshot.json");
        save(&path, "etcd://a", &Snapshot::default()).unwrap();
        disk.fill().unwrap();
        let records = (0..5000u64).map(|epoch| (schema::alive_key(&NodeId::random()), encode(&epoch)));
        let (snapshot, _) = Snapshot::from_records(Revision(12), records);
        let error = save(&path, "etcd://a", &snapshot).unwrap_err().to_string();
        assert!(error.contains("snapshot.json") && error.contains("No space left"), "{error}");
        assert_eq!(load(&path, "etcd://a"), Some(Snapshot::default()));
        disk.free().unwrap();
        save(&path, "etcd://a", &snapshot).unwrap();
        assert_eq!(load(&path, "etcd://a"), Some(snapshot));
    }
}
