//! What dockerd's API answers: `networks` or `event` on the first line, then the JSON.

use crate::first_line;
use weft_engines::docker::fuzzing::{event, listed_networks};

pub fn check(bytes: &[u8]) {
    match first_line(bytes) {
        Some(("networks", json)) => drop(listed_networks(json)),
        Some(("event", json)) => drop(event(json)),
        _ => {}
    }
}
