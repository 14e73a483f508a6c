//! Replays the corpora of the fuzz targets. Each file in `fuzz/corpus` is a test case.

#[path = "../../../fuzz/replay.rs"]
mod replay;

// These modules are not public.
#[path = "../src/negotiate.rs"]
pub mod negotiate;
#[path = "../src/range.rs"]
pub mod range;

use replay::replay;

mod properties {
    pub(crate) mod headers;
    pub(crate) mod route;
}

#[test]
fn headers() {
    replay("headers", properties::headers::check);
}

#[test]
fn route() {
    replay("route", properties::route::check);
}
