//! The builder as its callers see it, over the fixtures of [`crate::testing`].

mod caching;
mod collecting;
mod fairness;
mod images;
mod leases;
mod limits;
mod recording;
mod running;
mod serving;
mod storing;
mod strategies;
mod tags;
mod trust;
mod warm;

use std::sync::Arc;

use bytes::Bytes;
use nixery_manifest::Digest;
use nixery_storage::{Key, Storage};

use crate::error::BuildError;
use crate::image::Image;
use crate::testing::{Fixture, request};

async fn build(fixture: &Fixture, name: &str) -> Arc<Image> {
    let handle = fixture.builder.start(request(name));
    handle.wait().await.expect("builds")
}

async fn fail(fixture: &Fixture, name: &str) -> Arc<BuildError> {
    let handle = fixture.builder.start(request(name));
    handle.wait().await.expect_err("fails")
}

async fn bytes(fixture: &Fixture, digest: &Digest) -> Option<Bytes> {
    let key = Key::blob(*digest);
    let blob = fixture.storage.get_bytes(&key, u64::MAX).await;
    blob.expect("reads")
}
