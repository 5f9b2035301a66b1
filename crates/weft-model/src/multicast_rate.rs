//! How much an endpoint may send to many at once.

use std::{fmt, num::NonZeroU32, str::FromStr};

/// The most broadcast and multicast frames a second that one endpoint may send towards other hosts. Each goes to many hosts, from
/// each of which it would be copied again to many containers. 0 in writing: as many as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MulticastRate(Option<NonZeroU32>);

impl MulticastRate {
    /// The driver option that asks for another than the default.
    pub const OPTION: &str = "weft.multicast-rate";
    /// Above this a limit is none: no endpoint sends so much.
    pub const MAX: u32 = 10_000_000;

    /// Frames a second; `None`: no limit.
    pub fn limit(self) -> Option<u32> {
        self.0.map(NonZeroU32::get)
    }
}

impl Default for MulticastRate {
    /// 10,000: more than protocols that find or agree on something send, and less than what harms a host.
    fn default() -> Self {
        Self(NonZeroU32::new(10_000))
    }
}

impl fmt::Display for MulticastRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(0, NonZeroU32::get).fmt(f)
    }
}

/// Why a string is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a number of frames a second from 0 (no limit) to {most}", most = MulticastRate::MAX)]
pub struct MulticastRateError(String);

impl FromStr for MulticastRate {
    type Err = MulticastRateError;
    fn from_str(text: &str) -> Result<Self, MulticastRateError> {
        let rate = text.parse().ok().filter(|rate| *rate <= Self::MAX);
        rate.map(|rate| Self(NonZeroU32::new(rate))).ok_or_else(|| MulticastRateError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_and_written_alike() {
        for (text, limit) in [("0", None), ("1", Some(1)), ("10000000", Some(10_000_000))] {
            let rate: MulticastRate = text.parse().unwrap();
            assert_eq!((rate.limit(), rate.to_string().as_str()), (limit, text));
        }
        for bad in ["", "-1", "10000001", "many", "1.5"] {
            assert!(bad.parse::<MulticastRate>().is_err(), "{bad}");
        }
        assert_eq!(MulticastRate::default().limit(), Some(10_000));
    }
}
