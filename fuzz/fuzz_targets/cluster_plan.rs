#![no_main]

#[path = "../../crates/nixery-core/tests/properties/cluster_plan.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
