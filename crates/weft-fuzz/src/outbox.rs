//! The journal of what the store has not been told: read after any crash, and after any hand was on it.

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for store in ["local", "etcd://a:2379/weft"] {
        if let Err(reason) = weft_agent::fuzzing::outbox(text, store) {
            assert!(!reason.is_empty());
        }
    }
}
