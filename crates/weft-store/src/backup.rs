//! A backup: the records of one revision in a file that tells what it is and whether it is whole.
//!
//! Lines of JSON: a head, then a record each, then the SHA-256 of all bytes before. Records that are bound to a lease (which
//! nodes live) are left out: their owners write them again.

use crate::{Store, StoreError, base64_value, replace_file};
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::{fmt::Write as _, io, path::Path};
use weft_model::{Revision, UnixSeconds, schema, unix_now};

/// The form of the file that this weft writes, and the only one that it reads.
const FORM: u32 = 1;
/// Only its owner reads it: records are nobody else's business.
const MODE: u32 = 0o600;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHead {
    /// The form of the file.
    pub weft_backup: u32,
    /// The version of the records' layout, [`schema::VERSION`].
    pub schema: u32,
    /// The store's address.
    pub store: String,
    /// The revision of that store.
    pub revision: Revision,
    /// When it was taken, by the clock of the host that took it.
    pub taken: UnixSeconds,
    /// How many records follow.
    pub records: usize,
}

/// A record's key and value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key, without the store's prefix.
    pub key: String,
    /// The value.
    #[serde(with = "base64_value")]
    pub value: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Foot {
    sha256: String,
}

/// The records of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// What they are.
    pub head: BackupHead,
    /// In the order of their keys.
    pub records: Vec<KeyValue>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be read or written.
    #[error("the backup {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("the backup {path} is damaged or none: {reason}; use another one")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Backup {
    /// Takes one: all records as of one revision, while the store is in use.
    pub async fn take(store: &dyn Store) -> Result<Self, StoreError> {
        let listing = store.list(schema::ALL).await?;
        let kept = |key: &str| !key.starts_with(schema::ALIVE) && key != schema::MOVED;
        let records: Vec<_> = listing
            .records
            .into_iter()
            .filter(|record| kept(&record.key))
            .map(|record| KeyValue { key: record.key, value: record.value })
            .collect();
        let head = BackupHead {
            weft_backup: FORM,
            schema: schema::VERSION,
            store: store.address(),
            revision: listing.revision,
            taken: unix_now(),
            records: records.len(),
        };
        Ok(Self { head, records })
    }

    /// Writes the file, whole or not at all, for its owner alone.
    pub fn write(&self, path: &Path) -> Result<(), BackupError> {
        let mut text = line(&self.head);
        for record in &self.records {
            text.extend(line(record));
        }
        let foot = Foot { sha256: hexadecimal(digest(&SHA256, &text).as_ref()) };
        text.extend(line(&foot));
        let file = |source| BackupError::File { path: path.display().to_string(), source };
        replace_file(path, MODE, &text).map_err(file)
    }

    /// Reads a file. [`BackupError::Damaged`] unless every byte is as it was written.
    pub fn read(path: &Path) -> Result<Self, BackupError> {
        let name = || path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| BackupError::File { path: name(), source })?;
        parse(&bytes).map_err(|reason| BackupError::Damaged { path: name(), reason })
    }
}

fn line(what: &impl Serialize) -> Vec<u8> {
    let mut line = weft_model::encode(what);
    line.push(b'\n');
    line
}

fn parse(bytes: &[u8]) -> Result<Backup, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    let whole = text.strip_suffix('\n').ok_or("its end is missing")?;
    let (body, foot) = whole.rsplit_once('\n').ok_or("it has no records' lines")?;
    let mut lines = body.lines();
    let head: BackupHead = lines
        .next()
        .and_then(|line| serde_json::from_str(line).ok())
        .ok_or("its first line is not that of a weft backup")?;
    if head.weft_backup != FORM || head.schema != schema::VERSION {
        return Err(format!(
            "it has form {} and records of schema {}, this weft reads form {FORM} and schema {}: use the weft that wrote it",
            head.weft_backup,
            head.schema,
            schema::VERSION
        ));
    }
    let foot: Foot = serde_json::from_str(foot).map_err(|_| "its end is missing")?;
    let found = hexadecimal(digest(&SHA256, &bytes[..=body.len()]).as_ref());
    if foot.sha256 != found {
        return Err(format!("its checksum should be {} and is {found}", foot.sha256));
    }
    let records: Vec<KeyValue> = lines
        .map(|line| serde_json::from_str(line).map_err(|e| format!("a record cannot be read: {e}")))
        .collect::<Result<_, _>>()?;
    if records.len() != head.records {
        return Err(format!("it should hold {} records and holds {}", head.records, records.len()));
    }
    Ok(Backup { head, records })
}

/// Bytes in writing.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Embedded, Txn};
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn a_backup_is_whole_or_refused_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(folder.path().join("store.redb")).await.unwrap();
        let lease = store.grant(std::time::Duration::from_secs(30)).await.unwrap();
        let txn = Txn::new()
            .put(schema::META, b"{\"schema\":2}".to_vec())
            .put("v1/pools/a", vec![0, 255])
            .put_leased("v1/alive/n", b"1".to_vec(), lease);
        store.commit(txn).await.unwrap();
        let backup = Backup::take(&store).await.unwrap();
        let keys: Vec<_> = backup.records.iter().map(|r| r.key.as_str()).collect();
        assert_eq!((keys, backup.head.revision), (vec!["v1/meta", "v1/pools/a"], Revision(1)));
        let path = folder.path().join("backup");
        backup.write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Backup::read(&path).unwrap(), backup);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(Backup::read(&path), Err(BackupError::Damaged { .. })), "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            let error = Backup::read(&path).unwrap_err().to_string();
            assert!(
                error.contains(path.to_str().unwrap()) && error.contains("damaged"),
                "cut at {at}: {error}"
            );
        }
    }
}
