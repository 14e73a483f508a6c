//! Replays the corpora of the fuzz targets. Each file in `fuzz/corpus` is a test case.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

mod properties {
    pub(crate) mod digest;
    pub(crate) mod manifest;
}

#[test]
fn digest() {
    replay("digest", properties::digest::check);
}

#[test]
fn manifest() {
    replay("manifest", properties::manifest::check);
}
