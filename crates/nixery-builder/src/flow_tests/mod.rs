//! The builder as its callers see it, over the doubles of [`crate::testing`].

mod caching;
mod collecting;
mod images;
mod leases;
mod recording;
mod running;
mod storing;
mod strategies;
mod warm;

use std::sync::Arc;

use bytes::Bytes;
use nixery_manifest::Digest;
use nixery_storage::{Key, Storage};

use crate::error::BuildError;
use crate::image::Image;
use crate::testing::{Bench, request};

async fn build(bench: &Bench, name: &str) -> Arc<Image> {
    let handle = bench.builder.start(request(name));
    handle.wait().await.expect("builds")
}

async fn fail(bench: &Bench, name: &str) -> Arc<BuildError> {
    let handle = bench.builder.start(request(name));
    handle.wait().await.expect_err("fails")
}

async fn bytes(bench: &Bench, digest: &Digest) -> Option<Bytes> {
    let key = Key::blob(*digest);
    let blob = bench.storage.get_bytes(&key, u64::MAX).await;
    blob.expect("reads")
}
