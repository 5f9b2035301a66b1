//! The parsers of this crate that read what a stranger wrote, for `weft-fuzz` alone: what cannot be reached from
//! outside of the crate otherwise. Each function panics when what it is about does not hold.

#![allow(clippy::expect_used, clippy::panic, clippy::missing_panics_doc)] // A panic is how a fuzzer is told.

use crate::{Batch, LeaseId, Listing, Outcome, Record, StoreError, Txn, remote, wire};
use serde::{Serialize, de::DeserializeOwned};

pub use crate::consul::fuzzing::value as consul_value;

/// A call of the embedded store's protocol by its name, or with `answer/` before it an answer. What is read is
/// read the same when it is written again. `None`: there is no such call, or the text is not one.
pub fn store_call(call: &str, json: &[u8]) -> Option<Vec<u8>> {
    match call {
        "get" => again::<wire::Key>(json),
        "list" => again::<wire::Prefix>(json),
        "watch" => again::<wire::WatchFrom>(json),
        "commit" => again::<Txn>(json).inspect(|text| check(text)),
        "grant" => again::<wire::Ttl>(json),
        "keep_alive" | "revoke" => again::<wire::Lease>(json),
        "answer/get" => again::<Option<Record>>(json),
        "answer/list" => again::<Listing>(json),
        "answer/watch" => again::<wire::Line>(json),
        "answer/commit" => again::<Outcome>(json),
        "answer/grant" => again::<LeaseId>(json),
        "answer/error" => again::<StoreError>(json).inspect(|text| {
            let error: StoreError = serde_json::from_slice(text).expect("what was just written");
            assert!(!error.to_string().is_empty());
        }),
        _ => None,
    }
}

/// What a store lets through keeps to the limits that it states.
fn check(text: &[u8]) {
    let txn: Txn = serde_json::from_slice(text).expect("what was just written");
    if txn.check().is_ok() {
        assert!(txn.compares.len() + txn.writes.len() <= Txn::MAX_OPERATIONS);
        assert!(txn.writes.iter().all(|write| !write.key().is_empty()));
    }
}

/// Parses, writes, and insists that this is read as the same.
fn again<T: Serialize + DeserializeOwned>(json: &[u8]) -> Option<Vec<u8>> {
    let value: T = serde_json::from_slice(json).ok()?;
    let text = serde_json::to_vec(&value).expect("what was read can be written");
    let read: T = serde_json::from_slice(&text).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&read).expect("and written again"), text);
    Some(text)
}

/// What a watch delivers whose answer's body comes in these pieces: batches, and the error that it ends with.
pub async fn watch(pieces: Vec<Vec<u8>>) -> (Vec<Batch>, StoreError) {
    remote::watch_of(pieces).await
}
