#![no_main]

#[path = "../../crates/nixery-lab/tests/properties/path_sources.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
