//! The snapshot kept on disk: it is loaded or ignored, and what is loaded can be planned.

use crate::promises;

pub fn check(bytes: &[u8]) {
    if let Some(snapshot) = weft_agent::fuzzing::kept_snapshot(bytes, "local") {
        promises::hold(&snapshot);
    }
}
