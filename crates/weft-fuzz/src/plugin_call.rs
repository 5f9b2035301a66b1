//! A call of dockerd's to the plugin, as its HTTP server reads it: the call's name on the first line, then the body.

use crate::first_line;

pub fn check(bytes: &[u8]) {
    let Some((call, body)) = first_line(bytes) else { return };
    let (status, answer) = weft_engines::docker::fuzzing::plugin_call(call, body);
    assert!(status == 200 || answer["Err"].as_str().is_some_and(|error| error.contains("no call")));
    // dockerd repeats a call whose answer it did not get.
    assert_eq!(weft_engines::docker::fuzzing::plugin_call(call, body), (status, answer));
}
