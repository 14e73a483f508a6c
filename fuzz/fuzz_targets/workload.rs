#![no_main]

#[path = "../../crates/nixery-lab/tests/properties/workload.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
