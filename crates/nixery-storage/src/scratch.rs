//! Keys for trials on a store in use.

use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use nixery_manifest::Digest;

use crate::Key;

/// A key that nobody else uses, among the leases, which are collected when they are forgotten.
pub(crate) fn key(purpose: &str) -> Key {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // The standard library's hash keys are random: all that is needed here.
    let random = RandomState::new().hash_one(purpose);
    let name = format!("{purpose} {} {random} {now:?}", std::process::id());
    Key::Lease(Digest::of(name.as_bytes()))
}
