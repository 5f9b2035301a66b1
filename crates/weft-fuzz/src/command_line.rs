//! A command line, an argument a line: a network that it asks for is one that the daemon can be asked for.

use weft_agent::api::NetworkSpec;

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let arguments: Vec<&str> = text.lines().collect();
    if let Ok(Some(spec)) = weft::fuzzing::command_line(&arguments) {
        let sent = serde_json::to_vec(&spec).expect("a request can be written");
        let read: NetworkSpec = serde_json::from_slice(&sent).expect("the daemon can read it");
        assert_eq!(read, spec);
    }
}
