//! See `weft_fuzz`'s `kept_snapshot.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::check("kept_snapshot", bytes));
