//! The corpora of the fuzz targets against the targets' own properties. What fuzzing finds
//! becomes a file of `fuzz/corpus`, and so a test.

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
