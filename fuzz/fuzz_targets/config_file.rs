//! See `weft_fuzz`'s `config_file.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::check("config_file", bytes));
