//! A request to the embedded store or an answer of it: the call's name (`commit`, `answer/commit`) on the first line, then
//! the JSON.

use crate::first_line;

pub fn check(bytes: &[u8]) {
    if let Some((call, json)) = first_line(bytes) {
        drop(weft_store::fuzzing::store_call(call, json));
    }
}
