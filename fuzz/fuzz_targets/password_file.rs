#![no_main]

#[path = "../../crates/nixery-access/tests/properties/password_file.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
