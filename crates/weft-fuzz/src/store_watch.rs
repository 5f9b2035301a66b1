//! The body of a watch's answer, in pieces of any length: each batch is delivered, and the end is an error, however the
//! body is cut. The first byte says how long the pieces are.

use std::cell::RefCell;
use tokio::runtime::{Builder, Runtime};
use weft_store::{Batch, StoreError, fuzzing::watch};

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().enable_time().build().expect("a runtime"));
}

pub fn check(bytes: &[u8]) {
    let Some((length, body)) = bytes.split_first() else { return };
    let length = usize::from(*length).max(1);
    let whole = watched(vec![body.to_vec()]);
    assert_eq!(watched(body.chunks(length).map(<[u8]>::to_vec).collect()), whole);
    assert!(!whole.1.to_string().is_empty());
}

fn watched(pieces: Vec<Vec<u8>>) -> (Vec<Batch>, StoreError) {
    RUNTIME.with_borrow(|runtime| runtime.block_on(watch(pieces)))
}
