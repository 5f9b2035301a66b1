//! Addresses that this host may not have any longer.
//!
//! The snapshot on disk is a moment older than what the store has been asked since. A daemon that is killed in that moment
//! and starts while the store is away would find an address in it that it gave back, and give it to a container. So the keys
//! of such claims are on disk before the store is asked, until a snapshot that shows what became of them is.

use crate::AgentError;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use weft_store::replace_file;

const MODE: u32 = 0o644;

/// The keys, each with whether the view shows what became of it. A file holds the same keys.
pub(crate) struct Spent {
    path: PathBuf,
    keys: Mutex<BTreeMap<String, bool>>,
}

impl Spent {
    /// The file at `path`, with what an earlier daemon has left in it: nobody knows what became of that.
    pub(super) fn open(path: &Path) -> Result<Self, AgentError> {
        let fail = |reason: &dyn std::fmt::Display| AgentError::File {
            path: path.display().to_string(),
            reason: reason.to_string(),
        };
        let keys: Vec<String> = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                fail(&format!(
                    "{e}: it tells which addresses this host holds no longer; remove it while the store can be reached"
                ))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(fail(&error)),
        };
        let keys = keys.into_iter().map(|key| (key, false)).collect();
        Ok(Self { path: path.to_owned(), keys: Mutex::new(keys) })
    }

    /// The store is about to be asked to change these. They are on disk when this returns.
    pub(crate) fn note(&self, keys: Vec<String>) -> Result<(), AgentError> {
        self.change(|all| all.extend(keys.into_iter().map(|key| (key, false))))
    }

    /// The view shows what became of them.
    pub(super) fn settle(&self, keys: &[String]) {
        let mut all = self.lock();
        for key in keys {
            if let Some(settled) = all.get_mut(key) {
                *settled = true;
            }
        }
    }

    /// Those that the view shows. A snapshot that is read from now on is right about them.
    pub(crate) fn settled(&self) -> Vec<String> {
        self.lock().iter().filter(|(_, settled)| **settled).map(|(key, _)| key.clone()).collect()
    }

    /// A snapshot is on disk. It is right about the `settled`; of the others, those that it does not show as this host's can
    /// do no harm.
    pub(crate) fn saved(&self, settled: &[String], is_ours: impl Fn(&str) -> bool) -> Result<(), AgentError> {
        self.change(|all| all.retain(|key, _| !settled.contains(key) && is_ours(key)))
    }

    /// Whether the claim may be this host's no longer, whatever the view shows.
    pub(crate) fn contains(&self, key: &str) -> bool {
        self.lock().contains_key(key)
    }

    /// Those of which nobody knows what became of them.
    pub(crate) fn unsettled(&self) -> Vec<String> {
        self.lock().iter().filter(|(_, settled)| !**settled).map(|(key, _)| key.clone()).collect()
    }

    /// Changes the keys, on disk first; on an error they are as before.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, bool>)) -> Result<(), AgentError> {
        let mut keys = self.lock();
        let mut changed = keys.clone();
        change(&mut changed);
        if !changed.keys().eq(keys.keys()) {
            let all: Vec<_> = changed.keys().collect();
            replace_file(&self.path, MODE, &weft_model::encode(&all)).map_err(|error| AgentError::File {
                path: self.path.display().to_string(),
                reason: error.to_string(),
            })?;
        }
        *keys = changed;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn a_key_is_on_disk_until_a_snapshot_shows_what_became_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spent.json");
        let spent = Spent::open(&path).unwrap();
        spent.note(keys(&["a", "b", "c"])).unwrap();
        let after_a_crash = Spent::open(&path).unwrap();
        assert_eq!(after_a_crash.unsettled(), keys(&["a", "b", "c"]));

        spent.settle(&keys(&["a"]));
        let settled = spent.settled();
        // Settled after the snapshot was read: it may not show it.
        spent.settle(&keys(&["b"]));
        spent.saved(&settled, |key| key != "c").unwrap();
        assert!(!spent.contains("a") && spent.contains("b") && !spent.contains("c"));
        assert_eq!(Spent::open(&path).unwrap().unsettled(), keys(&["b"]));
    }

    #[test]
    fn a_disk_that_refuses_keeps_the_store_from_being_asked() {
        let spent = Spent::open(Path::new("/proc/weft/spent.json")).unwrap();
        let error = spent.note(keys(&["a"])).unwrap_err().to_string();
        assert!(error.contains("/proc/weft/spent.json"), "{error}");
        assert!(!spent.contains("a"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spent.json");
        std::fs::write(&path, "[1").unwrap();
        let error = Spent::open(&path).err().unwrap().to_string();
        assert!(error.contains("spent.json") && error.contains("remove it"), "{error}");
    }
}
