//! Replays the corpora of the fuzz targets. Each file in `fuzz/corpus` is a test case.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

mod properties {
    pub(crate) mod path_sources;
    pub(crate) mod workload;
}

#[test]
fn path_sources() {
    replay("path_sources", properties::path_sources::check);
}

#[test]
fn workload() {
    replay("workload", properties::workload::check);
}
