//! See `weft_fuzz`'s `import.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::check("import", bytes));
