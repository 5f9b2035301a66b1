//! The daemon's TOML file: it is read, or the error says where and what.

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match weft::fuzzing::config_file(text) {
        Ok(settings) => assert!(!settings.is_empty()),
        Err(error) => assert!(!error.is_empty()),
    }
}
