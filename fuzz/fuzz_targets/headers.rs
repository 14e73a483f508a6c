#![no_main]

// The modules alone: the rest of the server takes minutes to compile and has no part in this.
#[path = "../../crates/nixery-server/src/negotiate.rs"]
pub mod negotiate;

#[path = "../../crates/nixery-server/src/range.rs"]
pub mod range;

#[path = "../../crates/nixery-server/tests/properties/headers.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
