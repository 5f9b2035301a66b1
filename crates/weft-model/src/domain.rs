//! The domain below which endpoints have names.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A name's longest label, in bytes (RFC 1035, 2.3.4).
const LABEL: usize = 63;
/// The longest domain, in bytes: of the 253 that a name can have, most are left to the names in it.
const LONGEST: usize = 100;

/// A domain of DNS, in small letters and without the dot at its end: `weft`, `containers.example.com`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

/// Why a string is no [`Domain`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a domain: labels of letters, digits, - and _ with dots between them, as in weft or \
     containers.example.com, {LONGEST} characters at most"
)]
pub struct DomainError(String);

impl Domain {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Domain {
    /// `weft`.
    fn default() -> Self {
        Self("weft".to_owned())
    }
}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let domain = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let good = |label: &str| {
            let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            (1..=LABEL).contains(&label.len())
                && label.bytes().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if domain.len() <= LONGEST && domain.split('.').all(good) {
            Ok(Self(domain))
        } else {
            Err(DomainError(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Domain {
    type Error = DomainError;

    fn try_from(text: String) -> Result<Self, DomainError> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_labels_with_dots_between_them() {
        for (text, domain) in
            [("weft", "weft"), ("Containers.Example.com.", "containers.example.com"), ("a_b", "a_b")]
        {
            assert_eq!(text.parse::<Domain>().unwrap().as_str(), domain);
        }
        let long = "a".repeat(64);
        for bad in ["", ".", "a..b", ".a", "-a", "a-", "a b", "ü", &long, &format!("{}b", "a.".repeat(60))] {
            let error = bad.parse::<Domain>().unwrap_err().to_string();
            assert!(error.contains("as in weft"), "{error}");
        }
    }
}
