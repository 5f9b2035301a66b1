//! The last snapshot on disk: with it, a daemon that starts while the store is away carries on as before.

use crate::{AgentError, view::View};
use serde::{Deserialize, Serialize};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_model::{Revision, Snapshot};

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
    let file: File = match serde_json::from_slice(&bytes) {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the kept snapshot cannot be read and is ignored");
            return None;
        }
    };
    if file.store != store {
        tracing::info!(kept = file.store, store, "the kept snapshot is of another store and is ignored");
        return None;
    }
    let records = file.records.into_iter().map(|(key, value)| (key, value.into_bytes()));
    Some(Snapshot::from_records(file.revision, records).0)
}

/// Writes the snapshot, whole or not at all.
pub(crate) fn save(path: &Path, store: &str, snapshot: &Snapshot) -> Result<(), AgentError> {
    let records = snapshot.to_records().into_iter();
    let records = records.map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned())).collect();
    let file = File { store: store.to_owned(), revision: snapshot.revision, records };
    let error = |e: &dyn std::fmt::Display| AgentError::File {
        path: path.display().to_string(),
        reason: e.to_string(),
    };
    let bytes = serde_json::to_vec(&file).map_err(|e| error(&e))?;
    // Renamed into place once it is on disk: a crash leaves the old one or the new one.
    let new = path.with_extension("new");
    let mut out = std::fs::File::create(&new).map_err(|e| error(&e))?;
    out.write_all(&bytes).and_then(|()| out.sync_all()).map_err(|e| error(&e))?;
    std::fs::rename(&new, path).map_err(|e| error(&e))
}

/// Keeps the file up to date until `shutdown`, and once more then.
pub(crate) async fn keep(path: PathBuf, store: String, view: Arc<View>, shutdown: CancellationToken) {
    let (mut seen, mut link) = (view.seen(), view.link());
    let mut failing = false;
    let mut rest = SETTLE;
    let mut ending = false;
    while !ending {
        tokio::select! {
            changed = seen.changed() => ending = changed.is_err(),
            () = shutdown.cancelled() => ending = true,
        }
        if !ending {
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                // From here on this file may be all that the next start has.
                _ = link.changed() => {}
                () = shutdown.cancelled() => ending = true,
            }
        }
        seen.mark_unchanged();
        let begun = Instant::now();
        let snapshot = view.read(Snapshot::clone);
        let (file, address) = (path.clone(), store.clone());
        let saved = tokio::task::spawn_blocking(move || save(&file, &address, &snapshot)).await;
        match saved {
            Ok(Ok(())) => failing = false,
            Ok(Err(error)) if !failing => {
                tracing::error!(%error, "the snapshot cannot be kept; a start without the store would not work");
                failing = true;
            }
            Ok(Err(_)) => {}
            Err(error) => tracing::error!(%error, "the task that keeps the snapshot failed"),
        }
        rest = SETTLE.max(begun.elapsed() * REST_FACTOR);
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
}
