//! A call of a CNI runtime's: `NAME=VALUE` a line up to an empty one, then the configuration.

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some((head, input)) = text.split_once("\n\n") else { return };
    let variables: Vec<(&str, &str)> = head.lines().filter_map(|line| line.split_once('=')).collect();
    weft_engines::fuzzing::cni_call(&variables, input);
}
