#![no_main]

// The module alone, under the name its property knows: the rest of the server takes minutes to
// compile and has no part in this.
extern crate self as nixery_server;

#[path = "../../crates/nixery-server/src/route.rs"]
pub mod route;

#[path = "../../crates/nixery-server/tests/properties/route.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
