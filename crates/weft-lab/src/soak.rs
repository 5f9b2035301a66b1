//! The short and the long form of a fault test, and the figures that it measured.
//!
//! Continuous integration runs the short form. `cargo xtask soak` sets `WEFT_LONG` and collects the figures in the
//! file that `WEFT_FIGURES` names: a line for each fault, its name and its figures with a tab between.

use std::{env, fs::OpenOptions, io::Write};

/// `long` when the long form is asked for (`WEFT_LONG` is set and not empty), else `short`.
pub fn short_or_long<T>(short: T, long: T) -> T {
    if env::var_os("WEFT_LONG").is_some_and(|value| !value.is_empty()) { long } else { short }
}

/// Reports what a fault test measured, as a person wants to read it: "20 kills, 0 of 41,000 datagrams lost".
///
/// # Panics
/// When the file of `WEFT_FIGURES` cannot be written: a figure that is lost would look like a test that did not run.
#[allow(clippy::panic)]
pub fn figures(fault: &str, measured: &str) {
    println!("FIGURES {fault}: {measured}");
    let Some(path) = env::var_os("WEFT_FIGURES") else { return };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    // One write for the whole line: tests that run at once do not mix theirs.
    let written = file.and_then(|mut file| file.write_all(format!("{fault}\t{measured}\n").as_bytes()));
    written.unwrap_or_else(|e| panic!("WEFT_FIGURES={}: {e}", path.display()));
}
