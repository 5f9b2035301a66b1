//! What is read of Consul: `answer`, `segments`, `entry`, `head` or `key` on the first line, then the value.

use crate::first_line;

pub fn check(bytes: &[u8]) {
    if let Some((what, value)) = first_line(bytes) {
        weft_store::fuzzing::consul_value(what, value);
    }
}
