//! The store's version number.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A store's revision: grows by at least one with every committed transaction, never goes back within the
/// life of one store. etcd's `mod_revision`; the embedded store counts the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision before anything was written. A key that does not exist has this as its modification
    /// revision, as in etcd.
    pub const ZERO: Self = Self(0);

    /// The revision after this one: where a watch goes on after having seen this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
