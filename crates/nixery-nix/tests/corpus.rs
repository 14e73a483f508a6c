//! Replays the corpora of the fuzz targets. Each file in `fuzz/corpus` is a test case.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

mod properties {
    pub(crate) mod credentials;
}

#[test]
fn credentials() {
    replay("credentials", properties::credentials::check);
}
