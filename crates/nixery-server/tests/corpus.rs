//! The corpora of the fuzz targets against the targets' own properties. What fuzzing finds
//! becomes a file of `fuzz/corpus`, and so a test.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

mod properties {
    pub(crate) mod route;
}

#[test]
fn route() {
    replay("route", properties::route::check);
}
