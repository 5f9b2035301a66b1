//! See `weft_fuzz`'s `api.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::check("api", bytes));
