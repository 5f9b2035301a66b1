//! Keys of the store that verbs of this host are at work on.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Each as often as a verb has begun with it and has not ended.
#[derive(Default)]
pub(crate) struct UnderWay(Mutex<Vec<String>>);

/// A key that is under way, until this is dropped.
pub(crate) struct Begun<'a> {
    all: &'a UnderWay,
    key: String,
}

impl UnderWay {
    pub(crate) fn begin(&self, key: &str) -> Begun<'_> {
        self.lock().push(key.to_owned());
        Begun { all: self, key: key.to_owned() }
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.lock().iter().any(|begun| begun == key)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(at) = all.iter().position(|begun| *begun == self.key) {
            all.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_under_way_until_the_last_verb_with_it_has_ended() {
        let all = UnderWay::default();
        let (first, other) = (all.begin("a"), all.begin("b"));
        let second = all.begin("a");
        drop(first);
        assert!(all.contains("a") && all.contains("b"));
        drop(second);
        assert!(!all.contains("a") && all.contains("b"));
        drop(other);
        assert!(!all.contains("b"));
    }
}
