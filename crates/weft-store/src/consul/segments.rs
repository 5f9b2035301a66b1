//! The change log's segments: which there are, and which of them holds a revision.

use super::layout::Epoch;
use serde::{Deserialize, Serialize, de::Error as _};
use std::fmt;

/// Closed segments that are kept. With [`super::journal::ENTRIES`] in each on average, a watch can go back about
/// two thousand transactions.
pub const KEPT: usize = 64;

/// A segment of the change log. Its name is never used again, not even after Consul was wiped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The store's life.
    pub epoch: Epoch,
    /// From 0, without gaps.
    pub number: u64,
}

impl Segment {
    /// The one after it.
    pub fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

/// The segments that there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segments {
    /// The store's life.
    pub epoch: Epoch,
    /// The oldest segment's number.
    pub first: u64,
    /// After which index each segment starts. As stored without the last one: that index is the one at which the
    /// record of segments was itself modified, which its writer cannot know.
    starts: Vec<u64>,
}

impl Segments {
    /// What a new store is born with.
    pub fn born(epoch: Epoch) -> Self {
        Self { epoch, first: 0, starts: Vec::new() }
    }

    /// As stored, modified at `index`.
    pub fn read(value: &[u8], index: u64) -> Result<Self, serde_json::Error> {
        let stored: Self = serde_json::from_slice(value)?;
        // No store has had so many segments, and counting on from such a number would end beyond the last one.
        if stored.first > u64::MAX / 2 {
            return Err(serde_json::Error::custom(format!("{} is no segment's number", stored.first)));
        }
        Ok(stored.modified(index))
    }

    /// The same, once it was stored at `index`.
    pub fn modified(mut self, index: u64) -> Self {
        self.starts.push(index);
        self
    }

    /// As it is stored.
    pub fn to_value(&self) -> Vec<u8> {
        let starts: Vec<String> = self.starts.iter().map(u64::to_string).collect();
        format!(r#"{{"epoch":{},"first":{},"starts":[{}]}}"#, self.epoch, self.first, starts.join(","))
            .into_bytes()
    }

    /// What is to be stored when the current segment is closed, and the segment to forget then.
    pub fn closed(&self) -> (Self, Option<Segment>) {
        let mut next = self.clone();
        let dropped = (next.starts.len() > KEPT).then(|| {
            next.starts.remove(0);
            next.first += 1;
            Segment { epoch: self.epoch, number: self.first }
        });
        (next, dropped)
    }

    /// The one that takes entries.
    pub fn current(&self) -> Segment {
        self.numbered(self.starts.len().saturating_sub(1))
    }

    /// The oldest one.
    pub fn oldest(&self) -> Segment {
        self.numbered(0)
    }

    /// Whether it is still, or already, there.
    pub fn holds(&self, segment: Segment) -> bool {
        segment.epoch == self.epoch && (self.first..=self.current().number).contains(&segment.number)
    }

    /// Entries up to this index are forgotten.
    pub fn forgotten(&self) -> Option<u64> {
        if self.first > 0 { self.starts.first().copied() } else { None }
    }

    /// The one that holds the entry of this index, if any does.
    pub fn holding(&self, index: u64) -> Option<Segment> {
        self.starts.iter().rposition(|start| *start < index).map(|at| self.numbered(at))
    }

    fn numbered(&self, at: usize) -> Segment {
        Segment { epoch: self.epoch, number: self.first + u64::try_from(at).unwrap_or(u64::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(segments: &Segments, indexes: &[u64]) -> Vec<Option<u64>> {
        indexes.iter().map(|index| segments.holding(*index).map(|s| s.number)).collect()
    }

    #[test]
    fn an_index_is_found_in_the_segment_that_was_open_then() {
        let mut segments = Segments::born(Epoch::from_random(1)).modified(10);
        assert_eq!(numbers(&segments, &[9, 10, 11, 99]), [None, None, Some(0), Some(0)]);
        segments = segments.closed().0.modified(20);
        // The transaction that closes a segment is that segment's last entry.
        assert_eq!(numbers(&segments, &[11, 20, 21]), [Some(0), Some(0), Some(1)]);
        assert_eq!(segments.current().number, 1);
        assert_eq!(segments.forgotten(), None);
    }

    #[test]
    fn numbers_that_no_store_has_come_to_are_refused() {
        for value in [
            r#"{"epoch":7,"first":18446744073709551615,"starts":[]}"#,
            r#"{"epoch":0,"first":0,"starts":[]}"#,
        ] {
            assert!(Segments::read(value.as_bytes(), 1).is_err(), "{value}");
        }
    }

    #[test]
    fn old_segments_are_forgotten_one_by_one() {
        let mut segments = Segments::born(Epoch::from_random(1)).modified(1);
        let mut dropped = Vec::new();
        let kept = u64::try_from(KEPT).unwrap();
        for index in 2..=kept + 8 {
            let (next, gone) = segments.closed();
            segments = next.modified(index);
            dropped.extend(gone.map(|s| s.number));
        }
        assert_eq!(segments.current().number, kept + 7);
        assert_eq!(dropped, (0..=6).collect::<Vec<_>>());
        assert_eq!(segments.oldest().number, 7);
        // Segment 6 ended with the entry at 8.
        assert_eq!(segments.forgotten(), Some(8));
        assert_eq!(numbers(&segments, &[8, 9]), [None, Some(7)]);
        assert!(!segments.holds(Segment { epoch: segments.epoch, number: 6 }));
        assert!(segments.holds(segments.oldest()) && segments.holds(segments.current()));
    }

    #[test]
    fn what_is_stored_reads_back() {
        let segments = Segments::born(Epoch::from_random(5)).modified(3).closed().0;
        assert_eq!(Segments::read(&segments.to_value(), 9).unwrap(), segments.modified(9));
    }
}
