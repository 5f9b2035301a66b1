//! The journal: what was done while the store was away, on disk before anybody is answered.
//!
//! A file of JSON lines: a head that names the store, then an entry each, and a mark for each entry that is done with. A
//! last line that a crash has cut off was never answered for, and is dropped. Without entries the file is the head alone.

use crate::{AgentError, json_line::json_line};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};
use weft_model::{Revision, schema::Scope};
use weft_store::replace_file;

const MODE: u32 = 0o644;

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Keys that it does not write and that must have a record (`true`) or none.
    pub conditions: Vec<(String, bool)>,
    /// What it writes.
    pub steps: Vec<Step>,
}

/// One key's change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    /// The key.
    pub key: String,
    /// The record's JSON as this node knew it; `None`: there was none.
    pub before: Option<String>,
    /// And as it is now.
    pub after: Option<String>,
}

impl Entry {
    /// The keys that it writes.
    pub fn keys(&self) -> Vec<&str> {
        self.steps.iter().map(|step| step.key.as_str()).collect()
    }
}

#[derive(Serialize, Deserialize)]
enum Line {
    Head {
        store: String,
    },
    Entry(Entry),
    /// The oldest entry is done with.
    Done,
}

/// See the module.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    head: Vec<u8>,
    /// Entries that the store has not been told, the oldest first, each with its number.
    entries: VecDeque<(u64, Entry)>,
    /// Entries that it has been told, and that the follower has not brought back yet, by revision.
    told: Vec<(Revision, Entry)>,
    /// The number of the last entry that wrote a key.
    versions: BTreeMap<String, u64>,
    next: u64,
}

impl Journal {
    /// Opens the journal at `path` for the store at the address `store`, with what was left in it.
    pub fn open(path: &Path, store: &str) -> Result<Self, AgentError> {
        let fail = |reason: String| AgentError::file(path, reason);
        let head = json_line(&Line::Head { store: store.to_owned() });
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| fail(e.to_string()))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|e| fail(e.to_string()))?;
        let (entries, whole) = read(&text, store).map_err(fail)?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
            head,
            entries: VecDeque::new(),
            told: Vec::new(),
            versions: BTreeMap::new(),
            next: 1,
        };
        journal.cut(whole)?;
        if whole == 0 {
            journal.write(&journal.head.clone())?;
        }
        for entry in entries {
            journal.remember(entry);
        }
        Ok(journal)
    }

    /// The store is at another address from now on, with all that it was told.
    pub fn rebind(&mut self, store: &str) -> Result<(), AgentError> {
        let head = json_line(&Line::Head { store: store.to_owned() });
        let entries = self.entries.iter().flat_map(|(_, entry)| json_line(&Line::Entry(entry.clone())));
        let text: Vec<u8> = head.iter().copied().chain(entries).collect();
        replace_file(&self.path, MODE, &text).map_err(|e| self.failed(&e))?;
        let file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(|e| self.failed(&e))?;
        (self.file, self.head) = (file, head);
        self.told.clear();
        let entries = &self.entries;
        self.versions.retain(|_, number| entries.front().is_some_and(|(first, _)| *number >= *first));
        Ok(())
    }

    /// Entries that the store has not been told.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entries that the follower has not brought back, told or not.
    pub fn pending(&self) -> usize {
        self.entries.len() + self.told.len()
    }

    /// The oldest entry that the store has not been told.
    pub fn oldest(&self) -> Option<&Entry> {
        self.entries.front().map(|(_, entry)| entry)
    }

    /// The number of the last entry that wrote `key`, while there is one.
    pub fn version(&self, key: &str) -> Option<u64> {
        self.versions.get(key).copied()
    }

    /// The last revision at which the store was told of `key`, if the follower has not brought it back yet.
    pub fn told_at(&self, key: &str) -> Option<Revision> {
        let about = |entry: &Entry| entry.steps.iter().any(|step| step.key == key);
        self.told.iter().rev().find(|(_, entry)| about(entry)).map(|(revision, _)| *revision)
    }

    /// What the view has to show although the follower has not brought it: the last value of each key.
    pub fn untold(&self) -> crate::view::Untold {
        let told = self.told.iter().map(|(_, entry)| entry);
        let steps = told.chain(self.entries.iter().map(|(_, entry)| entry)).flat_map(|entry| &entry.steps);
        steps.map(|step| (step.key.clone(), step.after.clone().map(String::into_bytes))).collect()
    }

    /// Adds an entry; it is on disk when this returns. Its number.
    pub fn append(&mut self, entry: Entry) -> Result<u64, AgentError> {
        let line = json_line(&Line::Entry(entry.clone()));
        self.write(&line)?;
        Ok(self.remember(entry))
    }

    fn remember(&mut self, entry: Entry) -> u64 {
        let number = self.next;
        self.next += 1;
        for step in &entry.steps {
            self.versions.insert(step.key.clone(), number);
        }
        self.entries.push_back((number, entry));
        number
    }

    /// The store was told the oldest entry, as this revision.
    pub fn told(&mut self, revision: Revision) -> Result<(), AgentError> {
        if let Some(entry) = self.take_oldest()? {
            self.told.push((revision, entry));
        }
        Ok(())
    }

    /// The store was told this without the journal, as this revision; `after` is the record from then on.
    pub fn done(&mut self, revision: Revision, key: &str, after: Option<String>) {
        let step = Step { key: key.to_owned(), before: None, after };
        // Answers overtake one another.
        let at = self.told.partition_point(|(told, _)| *told <= revision);
        self.told.insert(at, (revision, Entry { conditions: Vec::new(), steps: vec![step] }));
    }

    /// The oldest entry counts for nothing.
    pub fn forget_oldest(&mut self) -> Result<(), AgentError> {
        self.take_oldest().map(drop)
    }

    fn take_oldest(&mut self) -> Result<Option<Entry>, AgentError> {
        if self.entries.len() <= 1 {
            self.cut(self.head.len() as u64)?;
        } else {
            self.write(&json_line(&Line::Done))?;
        }
        Ok(self.entries.pop_front().map(|(_, entry)| entry))
    }

    /// The follower of a scope is at `revision`: what was told up to there need not be shown any more. Whether there was any.
    pub fn confirm(&mut self, scope: &Scope, revision: Revision) -> bool {
        let before = self.told.len();
        // A node writes alone what is on one network, so an entry is in one scope.
        let is_in = |entry: &Entry| entry.steps.iter().any(|step| Scope::of(&step.key) == *scope);
        self.told.retain(|(told, entry)| *told > revision || !is_in(entry));
        let entries = &self.entries;
        if self.told.is_empty() {
            self.versions.retain(|_, number| entries.front().is_some_and(|(first, _)| *number >= *first));
        }
        before != self.told.len()
    }

    fn write(&mut self, line: &[u8]) -> Result<(), AgentError> {
        let end = self.file.seek(SeekFrom::End(0)).map_err(|e| self.failed(&e))?;
        let written = self.file.write_all(line).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Half a line in the way of the next one would make both unreadable.
            self.cut(end)?;
            return Err(self.failed(&error));
        }
        Ok(())
    }

    fn cut(&mut self, length: u64) -> Result<(), AgentError> {
        self.file.set_len(length).and_then(|()| self.file.sync_data()).map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &std::io::Error) -> AgentError {
        AgentError::file(&self.path, error)
    }
}

/// The entries that are not done with, and how many bytes of the file are whole lines.
fn read(text: &str, store: &str) -> Result<(VecDeque<Entry>, u64), String> {
    let mut entries = VecDeque::new();
    let mut whole = 0;
    let mut other = None;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if !line.ends_with('\n') {
            break;
        }
        match (number, serde_json::from_str(line)) {
            (0, Ok(Line::Head { store: of })) => other = Some(of).filter(|of| of != store),
            (1.., Ok(Line::Entry(entry))) => entries.push_back(entry),
            (1.., Ok(Line::Done)) => drop(entries.pop_front()),
            (_, Ok(_)) => return Err(format!("line {} is out of place", number + 1)),
            (_, Err(error)) => return Err(format!("line {} cannot be read: {error}", number + 1)),
        }
        whole += line.len() as u64;
    }
    match other {
        Some(of) if !entries.is_empty() => Err(format!(
            "it holds changes that the store {of} has not been told, and this is {store}: start the daemon with that \
             store once, or move the file away to give them up"
        )),
        Some(_) => Ok((entries, 0)),
        // Only the head is worth keeping.
        None if entries.is_empty() && whole > 0 => {
            let head = text.find('\n').map_or(0, |end| end as u64 + 1);
            Ok((entries, head))
        }
        None => Ok((entries, whole)),
    }
}

/// Reads a journal as [`Journal::open`] does: see [`crate::fuzzing`]. The whole lines say the same without the rest, and
/// so do the entries when they are written again.
#[allow(clippy::expect_used)] // A panic is how a fuzzer is told.
pub(crate) fn fuzzing(text: &str, store: &str) -> Result<usize, String> {
    let (entries, whole) = read(text, store)?;
    let whole = usize::try_from(whole).expect("no more than the text");
    assert_eq!(read(&text[..whole], store).as_ref().map(|(again, _)| again), Ok(&entries));
    let mut again = json_line(&Line::Head { store: store.to_owned() });
    again.extend(entries.iter().flat_map(|entry| json_line(&Line::Entry(entry.clone()))));
    let again = String::from_utf8(again).expect("JSON is UTF-8");
    assert_eq!(read(&again, store), Ok((entries.clone(), again.len() as u64)));
    Ok(entries.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str) -> Entry {
        let step = Step { key: key.to_owned(), before: None, after: Some("{\"a\":1}".to_owned()) };
        Entry { conditions: vec![("n".to_owned(), true)], steps: vec![step] }
    }

    fn open(path: &Path) -> Journal {
        Journal::open(path, "etcd://a").unwrap()
    }

    #[test]
    fn what_was_not_told_is_there_after_a_restart_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox.jsonl");
        let mut journal = open(&path);
        for key in ["a", "b", "c"] {
            journal.append(entry(key)).unwrap();
        }
        journal.told(Revision(7)).unwrap();
        assert_eq!((journal.len(), journal.pending()), (2, 3));
        drop(journal);
        let mut journal = open(&path);
        assert_eq!((journal.len(), journal.oldest()), (2, Some(&entry("b"))));
        journal.forget_oldest().unwrap();
        journal.told(Revision(9)).unwrap();
        assert_eq!(journal.untold().into_keys().collect::<Vec<_>>(), ["c"]);
        assert!(
            !journal.confirm(&Scope::Cluster, Revision(8)) && journal.confirm(&Scope::Cluster, Revision(9))
        );
        assert!(journal.untold().is_empty() && journal.version("c").is_none());
        drop(journal);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert_eq!(open(&path).len(), 0);
    }

    #[test]
    fn a_crash_at_any_byte_loses_only_what_was_not_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox.jsonl");
        let mut journal = open(&path);
        let mut answered = vec![std::fs::metadata(&path).unwrap().len()];
        for key in ["a", "b", "c"] {
            journal.append(entry(key)).unwrap();
            answered.push(std::fs::metadata(&path).unwrap().len());
        }
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let mut journal = open(&path);
            let whole = answered.iter().filter(|end| **end <= length as u64).count();
            assert_eq!(journal.len(), whole.saturating_sub(1), "{length} bytes are left");
            journal.append(entry("d")).unwrap();
            assert_eq!(open(&path).len(), whole.saturating_sub(1) + 1);
        }
    }

    #[test]
    fn another_stores_journal_is_not_told_to_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox.jsonl");
        open(&path).append(entry("a")).unwrap();
        let error = Journal::open(&path, "etcd://b").err().unwrap().to_string();
        assert!(error.contains("etcd://a") && error.contains("move the file away"), "{error}");
        std::fs::write(&path, "{\"Head\":{\"store\":\"etcd://a\"}}\nnonsense\n").unwrap();
        assert!(Journal::open(&path, "etcd://a").err().unwrap().to_string().contains("line 2"));
    }

    #[test]
    fn a_journal_without_entries_may_follow_to_another_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox.jsonl");
        drop(open(&path));
        Journal::open(&path, "etcd://b").unwrap();
    }

    #[test]
    fn what_was_not_told_goes_along_to_another_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox.jsonl");
        let mut journal = open(&path);
        for key in ["a", "b", "c"] {
            journal.append(entry(key)).unwrap();
        }
        journal.told(Revision(700)).unwrap();
        journal.rebind("etcd://b").unwrap();
        // What was told is in the new store, whose revisions are others.
        assert_eq!(journal.untold().into_keys().collect::<Vec<_>>(), ["b", "c"]);
        journal.append(entry("d")).unwrap();
        drop(journal);
        let journal = Journal::open(&path, "etcd://b").unwrap();
        assert_eq!(journal.untold().into_keys().collect::<Vec<_>>(), ["b", "c", "d"]);
    }

    #[test]
    fn a_full_disk_acknowledges_nothing_that_is_not_on_it_and_is_used_again_once_it_has_room() {
        let dir = tempfile::tempdir().unwrap();
        let disk = weft_lab::SmallDisk::mount(dir.path(), 1 << 20).unwrap();
        let path = disk.path("outbox.jsonl");
        let mut journal = open(&path);
        journal.append(entry("a")).unwrap();
        disk.fill().unwrap();
        let mut noted = 1;
        let error = loop {
            match journal.append(entry(&"b".repeat(3000))) {
                // There may be room in the file's last block.
                Ok(_) if noted < 100 => noted += 1,
                Ok(_) => panic!("the disk does not fill"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("outbox.jsonl") && error.contains("No space left"), "{error}");
        assert_eq!(journal.len(), noted);
        // A start while it is full finds what was acknowledged and nothing else.
        drop(journal);
        let mut journal = open(&path);
        assert_eq!(journal.len(), noted);
        disk.free().unwrap();
        journal.append(entry("c")).unwrap();
        drop(journal);
        assert_eq!(open(&path).len(), noted + 1);
    }
}
