//! See `weft_fuzz`'s `docker_api.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::check("docker_api", bytes));
