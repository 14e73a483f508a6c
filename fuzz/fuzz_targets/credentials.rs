#![no_main]

#[path = "../../crates/nixery-nix/tests/properties/credentials.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
