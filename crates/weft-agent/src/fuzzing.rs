//! The parsers of this crate that read files which somebody else may have written, for `weft-fuzz` alone. Each
//! function panics when what it is about does not hold.

#![allow(clippy::expect_used, clippy::missing_panics_doc)] // A panic is how a fuzzer is told.

use crate::{cache, outbox};
use weft_model::Snapshot;

/// The journal of the outbox, for the store at the address `store`: how many entries it holds, or why it cannot be
/// read.
pub fn outbox(text: &str, store: &str) -> Result<usize, String> {
    outbox::fuzzing(text, store)
}

/// The kept snapshot, if it is of the store at the address `store`. What is kept of it is loaded as the same.
pub fn kept_snapshot(bytes: &[u8], store: &str) -> Option<Snapshot> {
    let snapshot = cache::read(bytes, store).ok()??;
    let again = cache::written(store, &snapshot);
    assert_eq!(cache::read(&again, store).expect("and read").as_ref(), Some(&snapshot));
    Some(snapshot)
}
