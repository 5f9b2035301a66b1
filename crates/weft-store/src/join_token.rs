//! The join token: who knows it may use a daemon's embedded store, and knows that daemon from all others.

use crate::{Pin, backup::hexadecimal, replace_file};
use std::{fmt, io, path::Path, str::FromStr};

const BYTES: usize = 32;
/// How long it is in writing.
const LENGTH: usize = 4 * BYTES + 1;

/// What the daemons of a cluster on an embedded store have in common: a secret, 32 random bytes, and the pin of the CA that
/// the serving daemon's certificate is made by. In writing 64 hexadecimal digits each, with a dash between. The secret
/// goes to no server but one with such a certificate, and does not show itself in logs.
#[derive(Clone)]
pub struct JoinToken {
    secret: [u8; BYTES],
    pin: Pin,
}

/// Why there is no join token.
#[derive(Debug, thiserror::Error)]
pub enum JoinTokenError {
    /// Not of the right form. The text is not repeated: it may be a secret with a slip.
    #[error(
        "not a join token: expected two times 64 hexadecimal digits with a dash between, as in the file {} of the daemon \
         that holds the store",
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
    #[error(
        "the join token file {path} does not hold a join token (two times 64 hexadecimal digits); remove it to get a new one"
    )]
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

    /// A new one for the store of the daemon with this CA.
    pub fn random(pin: Pin) -> Result<Self, JoinTokenError> {
        let mut secret = [0; BYTES];
        getrandom::fill(&mut secret).map_err(|e| JoinTokenError::NoRandomness(e.to_string()))?;
        Ok(Self { secret, pin })
    }

    /// The token in the file, or a new one written to it (mode 0600) if there is no file. One whose CA is another has its
    /// secret kept and its pin replaced: the CA's key is gone, and the other hosts have to be given the new token.
    pub fn load_or_create(path: &Path, pin: Pin) -> Result<Self, JoinTokenError> {
        let token = match Self::load(path)? {
            Some(token) if token.pin == pin => return Ok(token),
            Some(token) => {
                tracing::warn!(path = %path.display(), "the store's CA is a new one: give the other hosts the new join token");
                Self { pin, ..token }
            }
            None => Self::random(pin)?,
        };
        replace_file(path, 0o600, format!("{}\n", token.reveal()).as_bytes())
            .map_err(|source| JoinTokenError::File { path: path.display().to_string(), source })?;
        Ok(token)
    }

    /// The token in the file, if there is a file.
    pub fn load(path: &Path) -> Result<Option<Self>, JoinTokenError> {
        let name = || path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => text.trim().parse().map(Some).map_err(|_| JoinTokenError::BadFile { path: name() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(JoinTokenError::File { path: name(), source }),
        }
    }

    /// The token in writing, for another daemon's configuration.
    pub fn reveal(&self) -> String {
        format!("{}-{}", self.secret(), self.pin)
    }

    /// The secret in writing.
    pub(crate) fn secret(&self) -> String {
        hexadecimal(&self.secret)
    }

    /// The CA of the daemon that serves the store.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// Whether this is the secret in writing, in a time that does not tell how much of it is.
    pub(crate) fn admits(&self, shown: &str) -> bool {
        let Some(shown) = bytes(shown) else { return false };
        let difference =
            self.secret.iter().zip(shown).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        difference == 0
    }
}

/// Bytes from 64 hexadecimal digits.
fn bytes(text: &str) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    if text.len() != 2 * BYTES || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;
    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        if text.len() != LENGTH {
            return Err(JoinTokenError::Malformed);
        }
        let (secret, pin) = text.split_once('-').ok_or(JoinTokenError::Malformed)?;
        match (bytes(secret), bytes(pin)) {
            (Some(secret), Some(pin)) => Ok(Self { secret, pin: Pin(pin) }),
            _ => Err(JoinTokenError::Malformed),
        }
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

    const PIN: Pin = Pin([7; BYTES]);

    #[test]
    fn a_token_survives_being_written_and_read() {
        let token = JoinToken::random(PIN).unwrap();
        let again: JoinToken = token.reveal().parse().unwrap();
        assert_eq!(again.pin(), PIN);
        assert!(token.admits(&again.secret()));
        assert!(!token.admits(&JoinToken::random(PIN).unwrap().secret()));
        assert!(!token.admits("") && !token.admits(&token.reveal()));
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_repeated() {
        let half = "a".repeat(64);
        for text in [
            "",
            "secret",
            &half,
            &format!("{half}-{}", "g".repeat(64)),
            &half.repeat(2),
            &"é".repeat(64),
            &"-".repeat(129),
        ] {
            let message = text.parse::<JoinToken>().unwrap_err().to_string();
            assert!(message.contains("64 hexadecimal digits"), "{message}");
            assert!(text.is_empty() || !message.contains(text), "{message}");
        }
    }

    #[test]
    fn it_does_not_show_itself() {
        let token = JoinToken::random(PIN).unwrap();
        assert!(!format!("{token:?}").contains(&token.reveal()[..8]));
    }

    #[test]
    fn the_file_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(JoinToken::FILE);
        assert!(JoinToken::load(&path).unwrap().is_none());
        let first = JoinToken::load_or_create(&path, PIN).unwrap();
        let second = JoinToken::load_or_create(&path, PIN).unwrap();
        assert_eq!(first.reveal(), second.reveal());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        // Another CA: the secret stays, the file tells the new pin.
        let other = Pin([9; BYTES]);
        let third = JoinToken::load_or_create(&path, other).unwrap();
        assert!(third.pin() == other && third.admits(&first.secret()));
        assert_eq!(JoinToken::load(&path).unwrap().unwrap().reveal(), third.reveal());
    }

    #[test]
    fn a_file_with_something_else_in_it_is_named_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(JoinToken::FILE);
        std::fs::write(&path, "hello\n").unwrap();
        let message = JoinToken::load_or_create(&path, PIN).unwrap_err().to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello\n");
    }
}
