//! A join token: read as it is written, never shown by accident, and like no other.

use weft_store::JoinToken;

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<JoinToken>() {
        Ok(token) => {
            assert_eq!(token.reveal(), text.to_ascii_lowercase());
            assert!(token.matches(&token.reveal().parse().expect("what was revealed is a token")));
            let other = token.reveal().chars().map(|c| if c == '0' { '1' } else { '0' }).collect::<String>();
            assert!(!token.matches(&other.parse().expect("64 digits")));
            assert!(!format!("{token:?}").contains(&token.reveal()[..8]));
        }
        Err(error) => assert!(text.len() < 16 || !error.to_string().contains(text), "a slip is not repeated"),
    }
}
