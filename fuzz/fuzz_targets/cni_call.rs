//! See `weft_fuzz`'s `cni_call.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::check("cni_call", bytes));
