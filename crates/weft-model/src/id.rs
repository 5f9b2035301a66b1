//! Identities: opaque, random, never reused.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// Why a string is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: expected {MIN} to {MAX} lower-case hexadecimal digits", MIN = MIN_LEN, MAX = MAX_LEN)]
pub struct IdError(String);

const MIN_LEN: usize = 12;
const MAX_DIGITS: u8 = 64;
const MAX_LEN: usize = MAX_DIGITS as usize;

/// 12 to 64 hexadecimal digits, two to a byte and zeros behind them. They are ordered as their text is.
///
/// They lie where the id is: most of what a daemon does for a change is to find ids in trees, where each that lies elsewhere
/// would be a miss of the cache.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Digits {
    packed: [u8; MAX_LEN / 2],
    count: u8,
}

impl Digits {
    fn parse(text: &str) -> Option<Self> {
        if !(MIN_LEN..=MAX_LEN).contains(&text.len()) {
            return None;
        }
        let (count, mut packed) = (u8::try_from(text.len()).ok()?, [0; MAX_LEN / 2]);
        for (at, digit) in text.bytes().enumerate() {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            packed[at / 2] |= if at % 2 == 0 { value << 4 } else { value };
        }
        Some(Self { packed, count })
    }

    /// As text, which stands in `room`.
    fn text<'a>(&self, room: &'a mut [u8; MAX_LEN]) -> &'a str {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for (two, byte) in room.chunks_exact_mut(2).zip(self.packed) {
            two.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        // All of it is ASCII.
        #[allow(clippy::expect_used)]
        std::str::from_utf8(&room[..usize::from(self.count)]).expect("hexadecimal digits are text")
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Digits);

        impl $name {
            /// An identity made of 256 random bits, written as 64 hexadecimal digits (Docker's shape).
            pub fn random() -> Self {
                // The kernel's generator fails only before it is seeded, early in boot; an identity that is
                // not random would break uniqueness, so there is nothing to go on with.
                #[allow(clippy::expect_used)]
                let packed = crate::random_bytes().expect("the kernel's random generator is available");
                Self(Digits { packed, count: MAX_DIGITS })
            }

            /// The first 12 digits, as people type and read them.
            pub fn short(&self) -> String {
                self.first(MIN_LEN)
            }

            /// The first `count` digits, or all of them if there are fewer.
            pub fn first(&self, count: usize) -> String {
                let mut room = [0; MAX_LEN];
                let text = self.0.text(&mut room);
                text[..count.min(text.len())].to_owned()
            }

            /// Whether `beginning` is how it begins.
            pub fn starts_with(&self, beginning: &str) -> bool {
                self.0.text(&mut [0; MAX_LEN]).starts_with(beginning)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                Digits::parse(s).map(Self).ok_or_else(|| IdError(s.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.0.text(&mut [0; MAX_LEN]))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.0.text(&mut [0; MAX_LEN]))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an id")
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
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
        assert_eq!(a.to_string().parse::<NodeId>().unwrap(), a);
        assert_eq!(a.short().len(), 12);
    }

    proptest::proptest! {
        #[test]
        fn an_id_is_its_text(one in "[0-9a-f]{12,64}", other in "[0-9a-f]{12,14}", common in 0..12usize) {
            let other = format!("{}{}", &one[..common], &other[common..]);
            let [a, b] = [&one, &other].map(|text| text.parse::<NetworkId>().unwrap());
            assert_eq!((a.to_string(), b.to_string()), (one.clone(), other.clone()));
            assert_eq!(a.cmp(&b), one.cmp(&other));
            assert_eq!((a.short().as_str(), a.first(64)), (&one[..12], one.clone()));
            assert!(a.starts_with(&one[..common]) && !a.starts_with(&format!("{one}0")));
            let json = serde_json::to_string(&a).unwrap();
            assert_eq!(json, format!("{one:?}"));
            assert_eq!(serde_json::from_str::<NetworkId>(&json).unwrap(), a);
            assert_eq!(format!("{a:>70}").len(), 70);
        }
    }

    #[test]
    fn rejects_what_is_not_hex_or_too_short() {
        for bad in ["", "abc", "0123456789AB", "0123456789ag", "../../etc/passwd"] {
            let error = bad.parse::<NetworkId>().unwrap_err().to_string();
            assert!(error.contains("hexadecimal"), "{error}");
        }
    }
}
