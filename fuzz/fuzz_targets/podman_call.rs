//! See `weft_fuzz`'s `podman_call.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::check("podman_call", bytes));
