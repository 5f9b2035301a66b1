//! What is read of Consul, for `weft-fuzz`: see [`crate::fuzzing`].

#![allow(clippy::expect_used, clippy::missing_panics_doc)] // A panic is how a fuzzer is told.

use super::{
    api::{Applied, TxnAnswer},
    journal,
    layout::{Epoch, Layout, lease_in},
    segments::Segments,
};
use weft_model::Revision;

/// A key, or the value of one of weft's own keys in Consul, by what it is: `answer` (to a transaction), `segments`,
/// `entry` (of the change log), `head`, `key`. Whether it is one.
pub fn value(what: &str, bytes: &[u8]) -> Option<bool> {
    match what {
        "answer" => {
            let answer: TxnAnswer = serde_json::from_slice(bytes).ok()?;
            if let Applied::Done(entries) = answer.into() {
                for entry in entries {
                    let _ = (lease_in(entry.flags), entry.value().len());
                    value("segments", entry.value());
                    value("entry", entry.value());
                    value("key", entry.key.as_bytes());
                }
            }
        }
        "segments" => segments(&Segments::read(bytes, 1 << 20).ok()?),
        "entry" => {
            let logged = journal::decode(bytes).ok()?;
            let again = journal::encode(logged.last, &logged.changes).expect("what was read can be written");
            assert_eq!(journal::decode(&again).as_ref(), Ok(&logged));
        }
        "head" => {
            let epoch = Epoch::from_head(bytes)?;
            assert_eq!(epoch.index(epoch.revision(7)), Some(7));
        }
        "key" => {
            let (key, layout) = (std::str::from_utf8(bytes).ok()?, Layout::new("weft"));
            if let Some(record) = layout.key_of_record(key) {
                assert_eq!(layout.record(record), key);
            }
            if let Some((lease, record)) = layout.bound_of(key) {
                assert_eq!(layout.bound_of(&layout.bound(lease, record)), Some((lease, record)));
            }
            let _ = layout.lease_of(key);
        }
        _ => return None,
    }
    Some(true)
}

/// Whatever somebody wrote there: looking up, closing and forgetting segments ends well.
fn segments(read: &Segments) {
    let current = read.current();
    assert!(read.holds(current) && read.holds(read.oldest()));
    for index in [0, 1, 1 << 19, 1 << 20, u64::MAX] {
        assert!(read.holding(index).is_none_or(|segment| read.holds(segment)));
    }
    let _ = (read.forgotten(), current.next(), read.epoch.index(Revision(u64::MAX)));
    let (next, _) = read.closed();
    let stored = Segments::read(&next.to_value(), 1 << 21).expect("what is written can be read");
    assert_eq!(stored, next.modified(1 << 21));
}
