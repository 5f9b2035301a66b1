//! A join token: read as it is written, and never shown by accident.

use weft_store::{JoinToken, JoinTokenError};

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<JoinToken>() {
        Ok(token) => {
            assert_eq!(token.reveal(), text.to_ascii_lowercase());
            let again: JoinToken = token.reveal().parse().expect("what was revealed is a token");
            assert_eq!((again.reveal(), again.pin()), (token.reveal(), token.pin()));
            assert!(!format!("{token:?}").contains(&token.reveal()[..8]));
        }
        // Always the same words: a slip is not repeated.
        Err(error) => assert_eq!(error.to_string(), JoinTokenError::Malformed.to_string()),
    }
}
