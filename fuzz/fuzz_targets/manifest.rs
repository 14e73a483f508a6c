#![no_main]

#[path = "../../crates/nixery-manifest/tests/properties/manifest.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
