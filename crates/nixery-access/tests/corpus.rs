//! Replays the corpora of the fuzz targets. Each file in `fuzz/corpus` is a test case.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

mod properties {
    pub(crate) mod jwt;
    pub(crate) mod password_file;
    pub(crate) mod policy;
    pub(crate) mod token_file;
}

#[test]
fn password_file() {
    replay("password_file", properties::password_file::check);
}

#[test]
fn policy() {
    replay("policy", properties::policy::check);
}

#[test]
fn token_file() {
    replay("token_file", properties::token_file::check);
}

#[test]
fn jwt() {
    replay("jwt", properties::jwt::check);
}
