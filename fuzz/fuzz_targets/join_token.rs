//! See `weft_fuzz`'s `join_token.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::check("join_token", bytes));
