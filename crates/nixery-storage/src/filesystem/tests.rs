//! What only the filesystem can get wrong.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::conformance;

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let directory = tempfile::tempdir().unwrap();
    let storage = FilesystemStorage::open(directory.path()).unwrap();
    conformance::all(&storage).await;
}
