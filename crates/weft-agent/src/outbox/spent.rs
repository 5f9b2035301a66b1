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

/// The keys. A file holds the same.
pub(crate) struct Spent {
    path: PathBuf,
    all: Mutex<All>,
}

#[derive(Clone, Default)]
struct All {
    next: u64,
    keys: BTreeMap<String, Note>,
}

#[derive(Clone, Copy)]
struct Note {
    number: u64,
    /// The view shows what became of the claim.
    settled: bool,
}

/// Notes that a snapshot makes needless: see [`Spent::harmless`].
pub(crate) struct Harmless(Vec<(String, u64)>);

impl Spent {
    /// The file at `path`, with what an earlier daemon has left in it: nobody knows what became of that.
    pub(super) fn open(path: &Path) -> Result<Self, AgentError> {
        let fail = |reason: String| AgentError::file(path, reason);
        let keys: Vec<String> = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                fail(format!(
                    "{e}: it tells which addresses this host holds no longer; remove it while the store can be reached"
                ))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(fail(error.to_string())),
        };
        let mut all = All::default();
        all.note(keys);
        Ok(Self { path: path.to_owned(), all: Mutex::new(all) })
    }

    /// The store is about to be asked to change these. They are on disk when this returns.
    pub(crate) fn note(&self, keys: Vec<String>) -> Result<(), AgentError> {
        self.change(|all| all.note(keys))
    }

    /// The view shows what became of them.
    pub(crate) fn settle(&self, keys: &[String]) {
        let mut all = self.lock();
        for key in keys {
            if let Some(note) = all.keys.get_mut(key) {
                note.settled = true;
            }
        }
    }

    /// What a snapshot of the view as it is now makes needless when it is on disk: it is right about what is settled; of the
    /// others, those that it does not show as this host's do no harm.
    pub(crate) fn harmless(&self, is_ours: impl Fn(&str) -> bool) -> Harmless {
        let all = self.lock();
        let found = all.keys.iter().filter(|(key, note)| note.settled || !is_ours(key));
        Harmless(found.map(|(key, note)| (key.clone(), note.number)).collect())
    }

    /// The snapshot is on disk. What was noted anew meanwhile stays.
    pub(crate) fn saved(&self, Harmless(notes): &Harmless) -> Result<(), AgentError> {
        self.change(|all| {
            for (key, number) in notes {
                if all.keys.get(key).is_some_and(|note| note.number == *number) {
                    all.keys.remove(key);
                }
            }
        })
    }

    /// Whether the claim may be this host's no longer, whatever the view shows.
    pub(crate) fn contains(&self, key: &str) -> bool {
        self.lock().keys.contains_key(key)
    }

    /// Whether nobody knows what became of the claim.
    pub(super) fn is_unsettled(&self, key: &str) -> bool {
        self.lock().keys.get(key).is_some_and(|note| !note.settled)
    }

    /// Those of which nobody knows what became of them.
    pub(crate) fn unsettled(&self) -> Vec<String> {
        let all = self.lock();
        all.keys.iter().filter(|(_, note)| !note.settled).map(|(key, _)| key.clone()).collect()
    }

    /// Changes the keys, on disk first; on an error they are as before.
    fn change(&self, change: impl FnOnce(&mut All)) -> Result<(), AgentError> {
        let mut all = self.lock();
        let mut changed = all.clone();
        change(&mut changed);
        if !changed.keys.keys().eq(all.keys.keys()) {
            let keys: Vec<_> = changed.keys.keys().collect();
            replace_file(&self.path, MODE, &weft_model::encode(&keys))
                .map_err(|error| AgentError::file(&self.path, error))?;
        }
        *all = changed;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn note(&mut self, keys: Vec<String>) {
        for key in keys {
            self.next += 1;
            self.keys.insert(key, Note { number: self.next, settled: false });
        }
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
        spent.note(keys(&["a", "b", "c", "d"])).unwrap();
        let after_a_crash = Spent::open(&path).unwrap();
        assert_eq!(after_a_crash.unsettled(), keys(&["a", "b", "c", "d"]));

        spent.settle(&keys(&["a", "d"]));
        let harmless = spent.harmless(|key| key != "c");
        // After the snapshot was read: it may not show it.
        spent.settle(&keys(&["b"]));
        spent.note(keys(&["d"])).unwrap();
        spent.saved(&harmless).unwrap();
        assert_eq!(["a", "b", "c", "d"].map(|key| spent.contains(key)), [false, true, false, true]);
        assert_eq!(Spent::open(&path).unwrap().unsettled(), keys(&["b", "d"]));
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
