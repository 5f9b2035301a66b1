//! VXLAN network identifiers (RFC 7348, section 5).

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A VXLAN Network Identifier: 24 bits, and zero is left alone (devices use it to mean "any").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

/// Why a number or a range is not a VNI or a range of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VniError {
    /// Not within 1..=2^24-1.
    #[error("VNI {0} is out of range: a VNI is a number from 1 to 16777215")]
    OutOfRange(u64),
    /// Not a number, or not two numbers.
    #[error("{0:?} is not a VNI range: expected FIRST-LAST, as in 4096-16777215")]
    BadRange(String),
}

impl Vni {
    /// The greatest VNI, 2^24 - 1.
    pub const MAX: u32 = 0x00ff_ffff;

    /// A VNI, if `value` is one.
    pub const fn new(value: u32) -> Result<Self, VniError> {
        if value == 0 || value > Self::MAX {
            Err(VniError::OutOfRange(value as u64))
        } else {
            Ok(Self(value))
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = VniError;
    fn try_from(value: u32) -> Result<Self, VniError> {
        Self::new(value)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.0
    }
}

impl FromStr for Vni {
    type Err = VniError;
    fn from_str(s: &str) -> Result<Self, VniError> {
        let n: u64 = s.parse().map_err(|_| VniError::BadRange(s.to_owned()))?;
        u32::try_from(n).map_err(|_| VniError::OutOfRange(n)).and_then(Self::new)
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The VNIs a cluster may choose from, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VniRange {
    first: Vni,
    last: Vni,
}

impl VniRange {
    /// The range `first..=last`; refused when it is empty.
    pub fn new(first: Vni, last: Vni) -> Result<Self, VniError> {
        if first > last {
            Err(VniError::BadRange(format!("{first}-{last}")))
        } else {
            Ok(Self { first, last })
        }
    }

    /// How many VNIs it holds.
    pub fn len(&self) -> u32 {
        self.last.0 - self.first.0 + 1
    }

    /// Never: a range that would be empty cannot be made.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether `vni` is one of them.
    pub fn contains(&self, vni: Vni) -> bool {
        self.first <= vni && vni <= self.last
    }

    /// All of them, beginning with the one at `offset` (taken modulo the length) and wrapping round.
    pub fn from_offset(&self, offset: u32) -> impl Iterator<Item = Vni> + use<> {
        let (first, len) = (self.first.0, self.len());
        (0..len).map(move |i| Vni(first + (offset % len + i) % len))
    }
}

impl Default for VniRange {
    /// 4096 to 2^24 - 1: below 4096 a VNI is easily taken for a VLAN id.
    fn default() -> Self {
        Self { first: Vni(4096), last: Vni(Vni::MAX) }
    }
}

impl FromStr for VniRange {
    type Err = VniError;
    fn from_str(s: &str) -> Result<Self, VniError> {
        let (first, last) = s.split_once('-').ok_or_else(|| VniError::BadRange(s.to_owned()))?;
        Self::new(first.trim().parse()?, last.trim().parse()?)
    }
}

impl fmt::Display for VniRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_24_bits_and_no_zero() {
        assert!(Vni::new(0).is_err());
        assert!(Vni::new(Vni::MAX).is_ok());
        assert!(Vni::new(Vni::MAX + 1).is_err());
        assert!("99999999999".parse::<Vni>().unwrap_err().to_string().contains("16777215"));
    }

    #[test]
    fn walks_a_range_from_any_offset_exactly_once() {
        let range: VniRange = "10-14".parse().unwrap();
        let seen: Vec<u32> = range.from_offset(8).map(Vni::get).collect();
        assert_eq!(seen, [13, 14, 10, 11, 12]);
        assert!("14-10".parse::<VniRange>().is_err());
        assert_eq!(VniRange::default().to_string(), "4096-16777215");
    }
}
