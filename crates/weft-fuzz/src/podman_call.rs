//! A call of netavark's: its words on the first line, then standard input. What a network is answered with is asked for again
//! as the same.

use crate::first_line;
use weft_engines::fuzzing::podman_call;

pub fn check(bytes: &[u8]) {
    let Some((words, input)) = first_line(bytes) else { return };
    let Ok(input) = std::str::from_utf8(input) else { return };
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let Some((command, arguments)) = words.split_first() else { return };
    if let Ok(answer) = podman_call(command, arguments, input)
        && command == "create"
    {
        assert_eq!(podman_call(command, arguments, &answer.to_string()).as_ref(), Ok(&answer));
    }
}
