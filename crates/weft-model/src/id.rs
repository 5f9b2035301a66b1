//! Identities: opaque, random, never reused.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};

/// Why a string is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: expected {MIN} to {MAX} lower-case hexadecimal digits", MIN = MIN_LEN, MAX = MAX_LEN)]
pub struct IdError(String);

const MIN_LEN: usize = 12;
const MAX_LEN: usize = 64;

fn check(text: &str) -> Result<(), IdError> {
    let fits = (MIN_LEN..=MAX_LEN).contains(&text.len());
    let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if fits && hex { Ok(()) } else { Err(IdError(text.to_owned())) }
}

// An id stands in many places at once: of 100,000 endpoints each id is in the snapshot and in the plan several times. A copy
// shares the text.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// An identity made of 256 random bits, written as 64 hexadecimal digits (Docker's shape).
            pub fn random() -> Self {
                // The kernel's generator fails only before it is seeded, early in boot; an identity that is
                // not random would break uniqueness, so there is nothing to go on with.
                #[allow(clippy::expect_used)]
                let bytes: [u8; 32] = crate::random_bytes().expect("the kernel's random generator is available");
                Self(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>().into())
            }

            /// The first 12 digits, as people type and read them.
            pub fn short(&self) -> &str {
                &self.0[..MIN_LEN]
            }

            /// All digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                check(s).map(|()| Self(s.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                check(&s).map(|()| Self(s.into()))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }
    };
}

id!(
    /// A node's identity: made once, kept in the daemon's state directory.
    NodeId
);
id!(
    /// A network's identity, the same on every host (engines have their own ids for their copies of it).
    NetworkId
);
id!(
    /// An endpoint's identity. For Docker it is Docker's own endpoint id.
    EndpointId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_valid_and_differ() {
        let (a, b) = (NodeId::random(), NodeId::random());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<NodeId>().unwrap(), a);
        assert_eq!(a.short().len(), 12);
    }

    #[test]
    fn rejects_what_is_not_hex_or_too_short() {
        for bad in ["", "abc", "0123456789AB", "0123456789ag", "../../etc/passwd"] {
            let error = bad.parse::<NetworkId>().unwrap_err().to_string();
            assert!(error.contains("hexadecimal"), "{error}");
        }
    }
}
