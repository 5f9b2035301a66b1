//! The join token: who knows it may use a daemon's embedded store.

use crate::replace_file;
use std::{fmt, io, path::Path, str::FromStr};

const BYTES: usize = 32;

/// A cluster's secret: 32 random bytes, written as 64 hexadecimal digits. Every daemon of a cluster on the
/// embedded store has the same. It does not show itself in logs.
#[derive(Clone)]
pub struct JoinToken([u8; BYTES]);

/// Why there is no join token.
#[derive(Debug, thiserror::Error)]
pub enum JoinTokenError {
    /// Not of the right form. The text is not repeated: it may be a secret with a slip.
    #[error(
        "not a join token: expected 64 hexadecimal digits, as in the file {} of the daemon that holds the store",
        JoinToken::FILE
    )]
    Malformed,
    /// The file cannot be read or written.
    #[error("the join token file {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not hold a token.
    #[error("the join token file {path} does not hold a join token (64 hexadecimal digits)")]
    BadFile {
        /// The file.
        path: String,
    },
    /// The system has no randomness to give.
    #[error("no randomness for a join token: {0}")]
    NoRandomness(String),
}

impl JoinToken {
    /// The name of its file in the state directory.
    pub const FILE: &'static str = "join-token";

    /// A new one.
    pub fn random() -> Result<Self, JoinTokenError> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(|e| JoinTokenError::NoRandomness(e.to_string()))?;
        Ok(Self(bytes))
    }

    /// The token in the file, or a new one written to it (mode 0600) if there is no file.
    pub fn load_or_create(path: &Path) -> Result<Self, JoinTokenError> {
        let name = || path.display().to_string();
        let file = |source| JoinTokenError::File { path: name(), source };
        match std::fs::read_to_string(path) {
            Ok(text) => text.trim().parse().map_err(|_| JoinTokenError::BadFile { path: name() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let token = Self::random()?;
                replace_file(path, 0o600, format!("{}\n", token.reveal()).as_bytes()).map_err(file)?;
                Ok(token)
            }
            Err(e) => Err(file(e)),
        }
    }

    /// The token in writing, for another daemon's configuration.
    pub fn reveal(&self) -> String {
        self.0.iter().fold(String::with_capacity(2 * BYTES), |mut text, byte| {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
            }
            text
        })
    }

    /// Whether it is the same, in a time that does not tell how much of it is.
    pub fn matches(&self, other: &Self) -> bool {
        let difference =
            self.0.iter().zip(other.0).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        difference == 0
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;
    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let mut bytes = [0; BYTES];
        if text.len() != 2 * BYTES || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(JoinTokenError::Malformed);
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| JoinTokenError::Malformed)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| JoinTokenError::Malformed)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_token_survives_being_written_and_read() {
        let token = JoinToken::random().unwrap();
        let again: JoinToken = token.reveal().parse().unwrap();
        assert!(token.matches(&again));
        assert!(!token.matches(&JoinToken::random().unwrap()));
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_repeated() {
        for text in ["", "secret", &"g".repeat(64), &"a".repeat(63), &"é".repeat(32)] {
            let message = text.parse::<JoinToken>().unwrap_err().to_string();
            assert!(message.contains("64 hexadecimal digits"), "{message}");
            assert!(text.is_empty() || !message.contains(text), "{message}");
        }
    }

    #[test]
    fn it_does_not_show_itself() {
        let token = JoinToken::random().unwrap();
        assert!(!format!("{token:?}").contains(&token.reveal()[..8]));
    }

    #[test]
    fn the_file_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(JoinToken::FILE);
        let first = JoinToken::load_or_create(&path).unwrap();
        let second = JoinToken::load_or_create(&path).unwrap();
        assert!(first.matches(&second));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_with_something_else_in_it_is_named_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(JoinToken::FILE);
        std::fs::write(&path, "hello\n").unwrap();
        let message = JoinToken::load_or_create(&path).unwrap_err().to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello\n");
    }
}
