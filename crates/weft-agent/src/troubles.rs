//! What the daemon cannot do at the moment although nobody asked for it: told by `weft status` until it is over.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// What work in the background is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// This host's address in the underlay.
    Underlay,
    /// The node's id.
    Identity,
    /// The snapshot on disk.
    Snapshot,
    /// The name servers in the sandboxes.
    Names,
    /// The multicast groups of the endpoints here.
    Groups,
}

/// The troubles there are, one a subject.
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<BTreeMap<Subject, String>>);

impl Troubles {
    /// Takes note of a trouble, or that there is none (any more). Whether this is news.
    pub(crate) fn set(&self, subject: Subject, trouble: Option<String>) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = all.get(&subject) != trouble.as_ref();
        match trouble {
            Some(trouble) => all.insert(subject, trouble),
            None => all.remove(&subject),
        };
        is_news
    }

    /// All of them, in words.
    pub(crate) fn told(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_until_it_is_over_and_is_news_once() {
        let troubles = Troubles::default();
        assert!(!troubles.set(Subject::Snapshot, None));
        assert!(troubles.set(Subject::Snapshot, Some("full".to_owned())));
        assert!(!troubles.set(Subject::Snapshot, Some("full".to_owned())));
        assert_eq!(troubles.told(), ["full"]);
        assert!(troubles.set(Subject::Snapshot, None));
        assert!(troubles.told().is_empty());
    }
}
