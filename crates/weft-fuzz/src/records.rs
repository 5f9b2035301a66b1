//! Records of the store as text, a change a line: `KEY JSON` sets one, `KEY` alone removes it. What they come to depends
//! on what the store holds in the end, not on how it came to that, and can be planned.

use crate::promises;
use std::collections::BTreeMap;
use weft_model::Change;

/// Lines that are looked at: more would only be slow.
const LINES: usize = 64;

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut store = BTreeMap::new();
    let changes = text.lines().take(LINES).map(|line| match line.split_once(' ') {
        Some((key, json)) => Change { key: key.to_owned(), value: Some(json.as_bytes().to_vec()) },
        None => Change { key: line.to_owned(), value: None },
    });
    let changes: Vec<Change> = changes
        .inspect(|change| match &change.value {
            Some(value) => drop(store.insert(change.key.clone(), value.clone())),
            None => drop(store.remove(&change.key)),
        })
        .collect();
    promises::hold_after(&changes, store);
}
