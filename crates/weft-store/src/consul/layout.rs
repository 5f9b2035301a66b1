//! Where things stand in Consul's key-value store, and what its indexes are as revisions.
//!
//! All below the URL's prefix. Records stand at their own keys; what the store needs besides stands below
//! `.weft/`:
//!
//! | key | value |
//! |---|---|
//! | `.weft/head` | the epoch and the last transaction's number; modified by every transaction |
//! | `.weft/segments` | [`super::segments::Segments`]: which segments of the change log there are |
//! | `.weft/open/EPOCH-NUMBER` | stands as long as that segment takes entries |
//! | `.weft/entries/EPOCH-NUMBER/RANDOM` | one transaction's changes |
//! | `.weft/lease/LEASE` | bound to the lease's session: Consul removes it with the session |
//! | `.weft/bound/LEASE/KEY` | the record at KEY was bound to the lease; its flags tell if it still is |

use super::{api::Op, segments::Segment};
use crate::LeaseId;
use weft_model::Revision;

/// Keys that begin so are not records.
pub const OWN: &str = ".weft/";
/// Bits of a revision that hold Consul's index: a thousand transactions a second for 34 years.
const INDEX_BITS: u32 = 40;
/// The largest epoch: a revision then stays below 2^52, which every JSON reader takes.
const LAST_EPOCH: u16 = 0xfff;

/// Which life of the store it is: chosen at random when the first record is written. Consul's indexes start
/// again when it is wiped; with the epoch above them, no revision of one life is taken for one of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u16")]
pub struct Epoch(u16);

impl TryFrom<u16> for Epoch {
    type Error = String;
    fn try_from(number: u16) -> Result<Self, String> {
        let range = 1..=LAST_EPOCH;
        if range.contains(&number) { Ok(Self(number)) } else { Err(format!("{number} is no epoch")) }
    }
}

impl Epoch {
    /// An epoch from a random number.
    pub fn from_random(random: u64) -> Self {
        Self(u16::try_from(random % u64::from(LAST_EPOCH)).unwrap_or(0) + 1)
    }

    /// What stands in [`Layout::head`], first. `None` if that is no epoch.
    pub fn from_head(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        text.split(' ').next()?.parse::<u16>().ok()?.try_into().ok()
    }

    /// The revision that Consul's index is.
    pub fn revision(self, index: u64) -> Revision {
        Revision(u64::from(self.0) << INDEX_BITS | (index & ((1 << INDEX_BITS) - 1)))
    }

    /// Consul's index of a revision of this epoch.
    pub fn index(self, revision: Revision) -> Option<u64> {
        (revision.0 >> INDEX_BITS == u64::from(self.0)).then_some(revision.0 & ((1 << INDEX_BITS) - 1))
    }
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The keys of one store.
pub struct Layout {
    /// The prefix and a slash.
    base: String,
}

impl Layout {
    pub fn new(prefix: &str) -> Self {
        Self { base: format!("{prefix}/") }
    }

    pub fn record(&self, key: &str) -> String {
        format!("{}{key}", self.base)
    }

    /// A record's key from a whole key; `None` for keys that are no record's.
    pub fn key_of_record<'a>(&self, whole: &'a str) -> Option<&'a str> {
        whole.strip_prefix(&self.base).filter(|key| !key.starts_with(OWN))
    }

    pub fn head(&self) -> String {
        format!("{}{OWN}head", self.base)
    }

    /// Modifies the head. `number` must differ from the last one, or Consul would leave it as it is.
    pub fn set_head(&self, epoch: Epoch, number: u64) -> Op {
        Op::Set(self.head(), format!("{epoch} {number:016x}").into_bytes(), 0)
    }

    pub fn segments(&self) -> String {
        format!("{}{OWN}segments", self.base)
    }

    pub fn open(&self, segment: Segment) -> String {
        format!("{}{OWN}open/{segment}", self.base)
    }

    pub fn entries(&self, segment: Segment) -> String {
        format!("{}{OWN}entries/{segment}/", self.base)
    }

    pub fn entry(&self, segment: Segment, number: u64) -> String {
        format!("{}{OWN}entries/{segment}/{number:016x}", self.base)
    }

    pub fn leases(&self) -> String {
        format!("{}{OWN}lease/", self.base)
    }

    pub fn lease(&self, lease: LeaseId) -> String {
        format!("{}{OWN}lease/{:08x}", self.base, lease.0)
    }

    /// The lease of a key that [`Layout::lease`] made.
    pub fn lease_of(&self, whole: &str) -> Option<LeaseId> {
        lease_named(whole.strip_prefix(&self.leases())?)
    }

    pub fn all_bound(&self) -> String {
        format!("{}{OWN}bound/", self.base)
    }

    pub fn bound_to(&self, lease: LeaseId) -> String {
        format!("{}{OWN}bound/{:08x}/", self.base, lease.0)
    }

    pub fn bound(&self, lease: LeaseId, key: &str) -> String {
        format!("{}{key}", self.bound_to(lease))
    }

    /// The lease and the record's key of a key that [`Layout::bound`] made.
    pub fn bound_of<'a>(&self, whole: &'a str) -> Option<(LeaseId, &'a str)> {
        let (lease, key) = whole.strip_prefix(&self.all_bound())?.split_once('/')?;
        Some((lease_named(lease)?, key))
    }
}

/// The lease of this name, if [`Layout`] would write it so.
fn lease_named(name: &str) -> Option<LeaseId> {
    let number = i64::from_str_radix(name, 16).ok().filter(|number| *number >= 0)?;
    (format!("{number:08x}") == name).then_some(LeaseId(number))
}

/// A record's flags: the lease that it is bound to, and a random part, so that a record that is written again as
/// it was is modified nevertheless.
pub fn flags(lease: Option<LeaseId>, number: u64) -> u64 {
    let lease = lease.map_or(0, |lease| u64::try_from(lease.0).unwrap_or(0));
    lease << 32 | (number & u64::from(u32::MAX))
}

/// The lease in a record's flags.
pub fn lease_in(flags: u64) -> Option<LeaseId> {
    let lease = i64::try_from(flags >> 32).ok()?;
    (lease != 0).then_some(LeaseId(lease))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_of_another_life_is_not_taken_for_one_of_this() {
        let (this, other) = (Epoch::from_random(7), Epoch::from_random(8));
        assert_eq!(this.index(this.revision(12)), Some(12));
        assert_eq!(this.index(other.revision(12)), None);
        assert_eq!(this.index(Revision::ZERO), None);
        assert!(this.revision(13) > this.revision(12));
        assert!(Epoch::from_random(u64::MAX).revision(1 << 39).0 < 1 << 52);
    }

    #[test]
    fn the_head_names_the_epoch() {
        let epoch = Epoch::from_random(7);
        let Op::Set(_, value, _) = Layout::new("weft").set_head(epoch, 9) else {
            panic!("another operation")
        };
        assert_eq!(Epoch::from_head(&value), Some(epoch));
        assert_eq!(Epoch::from_head(b"0 1"), None);
        assert_eq!(Epoch::from_head(b""), None);
    }

    #[test]
    fn records_are_told_from_what_the_store_needs_besides() {
        let layout = Layout::new("a/b");
        assert_eq!(layout.key_of_record("a/b/v1/meta"), Some("v1/meta"));
        assert_eq!(layout.key_of_record(&layout.head()), None);
        assert_eq!(layout.key_of_record("a/c"), None);
        let lease = LeaseId(0xab);
        assert_eq!(layout.lease_of(&layout.lease(lease)), Some(lease));
        assert_eq!(layout.bound_of(&layout.bound(lease, "v1/alive/n")), Some((lease, "v1/alive/n")));
        for other in ["-1", "+1", "1", "0000000AB"] {
            assert_eq!(layout.bound_of(&format!("a/b/.weft/bound/{other}/k")), None, "{other}");
        }
    }

    #[test]
    fn flags_tell_the_lease_and_change_with_every_write() {
        assert_eq!(lease_in(flags(Some(LeaseId(0x7fff_ffff)), u64::MAX)), Some(LeaseId(0x7fff_ffff)));
        assert_eq!(lease_in(flags(None, u64::MAX)), None);
        assert_ne!(flags(None, 1), flags(None, 2));
    }
}
