//! Builds container images from Nix packages: evaluate, realise, plan layers, pack, store, cache.
//!
//! A [`Builder`] takes a request for an image and returns a [`BuildHandle`]. Requests for one image
//! share one build, which continues if all of them are dropped. The main flow is in `flow.rs`. The
//! builder uses Nix through the trait [`Nix`](nixery_nix::Nix), which
//! [`NixCli`](nixery_nix::NixCli) implements with the command-line tools.
//!
//! - An image whose source is pinned to a commit is found in the store without Nix. Any other is
//!   evaluated, and found by what it evaluates to.
//! - A cached image counts only while the store has each of its blobs with the right size. Missing
//!   and truncated blobs are made again, and only those.
//! - Among several builders on one store, also in several processes, one builds an image and the
//!   others wait for it. If it fails or dies, the next one tries.
//! - Builds wait for Nix in a queue that serves clients in rotation, so a client that requests many
//!   images delays others by one build at most. A client's waiting builds are limited.
//! - Layers are packed in parallel into spool files and stored under their digests. A document is
//!   stored after the blobs that it names, so a process that dies leaves a consistent store.
//!
//! ```
//! use std::sync::Arc;
//!
//! use nixery_builder::{Builder, BuilderConfig, ImageRequest};
//! use nixery_core::{ImageName, PackageSource, Tag};
//! use nixery_nix::{NixCli, NixCliConfig};
//! use nixery_storage::MemoryStorage;
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let spool = tempfile::tempdir()?;
//! let nix = NixCli::new(NixCliConfig::new(spool.path()))?;
//!
//! let source = PackageSource::path("/srv/packages")?;
//! let config = BuilderConfig::new(source, spool.path());
//! let builder = Builder::new(config, Arc::new(nix), Arc::new(MemoryStorage::new())).await?;
//!
//! let request = ImageRequest { name: ImageName::parse("shell/git")?, tag: Tag::latest() };
//! match builder.start(request).wait().await {
//!     Ok(image) => println!("{} in {} layers", image.oci.digest, image.layers.len()),
//!     // "the Nix code of the package set does not evaluate: … (path …/packages) does not exist"
//!     Err(error) => println!("{error}"),
//! }
//! # Ok(()) }
//! ```

mod admission;
mod assertion;
mod blob_body;
mod blobs;
mod builder;
mod client_id;
mod config;
mod disk;
mod engine;
mod error;
pub mod export;
mod fair_limit;
mod fair_queue;
mod flow;
mod handle;
mod hashing;
mod history;
mod image;
mod image_lease;
mod image_limits;
mod image_store;
mod keyed_lock;
mod layers;
mod load;
mod progress;
mod recipe;
mod selected_image;
mod serve;
mod tags;
mod warm;

pub use blob_body::BlobBodyError;
pub use builder::{Builder, WarmImage};
pub use client_id::ClientId;
pub use config::{
    BuilderConfig, DEFAULT_EVAL_INTERVAL, DEFAULT_FAILURE_TTL, DEFAULT_LEASE_TTL,
    DEFAULT_MAX_WAITING, DEFAULT_MAX_WAITING_PER_CLIENT, DEFAULT_RECHECK_AFTER, ImageRequest,
    budget_of_paths,
};
pub use error::BuildError;
pub use handle::{BuildHandle, BuildResult, BuildState, BuildSummary};
pub use image::{BuildStats, Image, ManifestBlob};
pub use load::{LoadError, load_cluster_plan, load_document, load_popularity};
pub use progress::{BuildId, BuildIdError, Phase, Progress};
pub use serve::{BlobBody, OpenBlobError, StoredBlob};

#[cfg(test)]
mod flow_tests;
#[cfg(test)]
mod testing;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
