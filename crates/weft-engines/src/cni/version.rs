//! The versions of CNI's specification that are spoken.

use super::error::{CniError, INCOMPATIBLE_VERSION};

/// What [`Version`] can be, oldest first.
pub const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(usize);

impl Version {
    /// The newest.
    pub const NEWEST: Self = Self(SUPPORTED.len() - 1);

    /// The one of that name.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        SUPPORTED.iter().position(|known| *known == text).map(Self).ok_or_else(|| CniError {
            details: format!("this plugin speaks {}", SUPPORTED.join(", ")),
            ..CniError::new(INCOMPATIBLE_VERSION, format!("CNI version {text:?} is not supported"))
        })
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        SUPPORTED[self.0]
    }

    /// Whether an address in a result tells its IP version: until 1.0.
    pub fn has_ip_versions(self) -> bool {
        self.name() < "1.0.0"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_known_or_refused_with_those_that_are() {
        assert!(Version::parse("0.4.0").unwrap().has_ip_versions());
        assert!(!Version::parse("1.0.0").unwrap().has_ip_versions());
        for unknown in ["", "0.2.0", "1.2.0", "1"] {
            let error = Version::parse(unknown).unwrap_err();
            assert_eq!((error.code, error.details.contains("1.1.0")), (INCOMPATIBLE_VERSION, true));
        }
    }
}
