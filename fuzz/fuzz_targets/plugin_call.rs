//! See `weft_fuzz`'s `plugin_call.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::check("plugin_call", bytes));
