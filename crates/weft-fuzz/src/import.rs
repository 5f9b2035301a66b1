//! A definition of somebody else's networks: `swarm`, `flannel` or `classic` on the first line, then its bytes. What is proposed
//! is what its command line says.

use crate::first_line;

pub fn check(bytes: &[u8]) {
    let Some((kind, definition)) = first_line(bytes) else { return };
    for (line, spec) in weft::fuzzing::import(kind, definition) {
        let words = weft_words(&line);
        let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        assert_eq!(weft::fuzzing::command_line(&words), Ok(Some(spec)), "{line}");
    }
}

/// The words of a line as a POSIX shell reads them, which knows single quotes and backslashes here.
fn weft_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => quoted = !quoted,
            '\\' if !quoted => word.extend(letters.next()),
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(letter),
        }
    }
    words.push(word);
    words
}
