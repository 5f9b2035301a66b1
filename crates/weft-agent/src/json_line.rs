//! Files of JSON lines, of which a crash may cut off the last.

use serde::Serialize;

/// A value as a line, with its end.
pub(crate) fn json_line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = weft_model::encode(value);
    bytes.push(b'\n');
    bytes
}
