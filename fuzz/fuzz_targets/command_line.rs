//! See `weft_fuzz`'s `command_line.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::check("command_line", bytes));
