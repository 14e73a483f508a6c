//! The builder: takes requests, runs one build per image, remembers what came of it.

use std::sync::Arc;

use bytes::Bytes;
use nixery_manifest::Digest;
use nixery_storage::Storage;

use crate::config::{BuilderConfig, ImageRequest};
use crate::error::{BuildError, BuilderError};
use crate::handle::{BuildHandle, BuildSummary};
use crate::image::ManifestBlob;
use crate::nix::Nix;
use crate::progress::BuildId;

/// Builds images. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct Builder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    storage: Arc<dyn Storage>,
}

#[allow(
    clippy::unimplemented,
    unused_variables,
    missing_docs,
    clippy::unused_async
)]
impl Builder {
    pub async fn new(
        config: BuilderConfig,
        nix: Arc<dyn Nix>,
        storage: Arc<dyn Storage>,
    ) -> Result<Self, BuilderError> {
        unimplemented!()
    }
    pub fn request(&self, request: ImageRequest) -> BuildHandle {
        unimplemented!()
    }
    pub fn recent(&self) -> Vec<BuildSummary> {
        unimplemented!()
    }
    pub fn build(&self, id: &BuildId) -> Option<BuildSummary> {
        unimplemented!()
    }
    pub fn log(&self, id: &BuildId) -> Option<String> {
        unimplemented!()
    }
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.0.storage
    }
    pub async fn drain(&self) {
        unimplemented!()
    }
    pub async fn manifest_by_digest(
        &self,
        digest: &Digest,
    ) -> Result<Option<ManifestBlob>, BuildError> {
        unimplemented!()
    }
    pub fn expected_size(&self, digest: &Digest) -> Option<u64> {
        unimplemented!()
    }
}
