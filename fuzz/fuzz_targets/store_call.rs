//! See `weft_fuzz`'s `store_call.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::check("store_call", bytes));
