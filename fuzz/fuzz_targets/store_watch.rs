//! See `weft_fuzz`'s `store_watch.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::check("store_watch", bytes));
