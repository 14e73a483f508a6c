//! Builds container images from Nix packages: evaluate, realise, plan layers, pack, store, cache.
//!
//! A [`Builder`] takes the name of an image and gives a [`BuildHandle`]: many may wait for one
//! build, and it goes on whoever stops waiting. The main flow is in `flow.rs` and reads in one
//! piece. What it needs of Nix is the trait [`Nix`]; [`NixCli`] runs the command-line tools.
//!
//! - An image of a source that is pinned to a commit is found in the manifest cache without Nix;
//!   any other is evaluated, and found by what it evaluates to.
//! - A cache entry counts only while every blob it names is in the store with the right size.
//!   What is missing or truncated is made again, and nothing else is.
//! - Of several builders on one store, in whatever processes, one builds an image while the others
//!   wait for it. What one fails to build, or dies over, the next one tries.
//! - Layers are packed in parallel, each once, into a spool file, and stored under their digests;
//!   what refers to a blob is stored after it. A process that dies at any moment leaves a store
//!   that is whole.
//!
//! ```
//! use std::sync::Arc;
//!
//! use nixery_builder::{Builder, BuilderConfig, ImageRequest, NixCli, NixCliConfig};
//! use nixery_core::{ImageName, PackageSource, Tag};
//! use nixery_storage::MemoryStorage;
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let spool = tempfile::tempdir()?;
//! let nix = NixCli::new(NixCliConfig::new(spool.path()))?;
//! for finding in nixery_builder::Nix::preflight(&nix).await {
//!     println!("{}: {}", finding.problem, finding.remedy);
//! }
//!
//! let source = PackageSource::path("/srv/packages")?;
//! let config = BuilderConfig::new(source, spool.path());
//! let builder = Builder::new(config, Arc::new(nix), Arc::new(MemoryStorage::new())).await?;
//!
//! let request = ImageRequest { name: ImageName::parse("shell/git")?, tag: Tag::latest() };
//! match builder.request(request).wait().await {
//!     Ok(image) => println!("{} in {} layers", image.oci.digest, image.layers.len()),
//!     // "the package set does not evaluate: the package set (path …/packages) does not exist"
//!     Err(error) => println!("{error}"),
//! }
//! # Ok(()) }
//! ```

mod blobs;
mod build_log;
mod builder;
mod closure;
mod config;
mod engine;
mod error;
pub mod export;
mod flow;
pub mod gc;
mod generations;
pub mod graphs;
mod handle;
mod heal;
mod history;
mod image;
mod keyed_lock;
mod layers;
pub mod learned;
mod lease;
mod load;
mod nix;
mod package_set;
pub mod path_sources;
mod progress;
mod recipe;
mod record;
mod spool;
pub mod traffic;
mod turn;
mod uses;
mod warm;

pub use build_log::BuildLog;
pub use builder::{Builder, Ready};
pub use closure::reference_graph;
pub use config::{
    BuilderConfig, DEFAULT_EVAL_INTERVAL, DEFAULT_FAILURE_TTL, DEFAULT_GC_GRACE,
    DEFAULT_LAYER_BUDGET, DEFAULT_LEASE_TTL, DEFAULT_MAX_WAITING, DEFAULT_RECHECK_AFTER,
    ImageRequest, STALE_INTERVALS, budget_of_paths, default_eval_interval,
};
pub use error::{BuildError, BuilderError};
pub use handle::{BuildHandle, BuildResult, BuildState, BuildSummary};
pub use heal::Recheck;
pub use image::{BuildStats, Image, LayerSummary, ManifestBlob};
pub use lease::LEASES;
pub use load::{LoadError, load_cluster_plan, load_popularity};
pub use nix::{
    EvaluatedPackage, Evaluation, EvaluationRequest, Finding, Nix, NixCli, NixCliConfig, NixError,
    NixStore, NixStoreError, RealisedPackage,
};
pub use package_set::{PackageSetEvent, batches, every_package};
pub use progress::{BuildId, BuildIdError, Phase, Progress};
pub use record::{BUILDS, MANIFESTS};
pub use uses::USES;

#[cfg(test)]
mod flow_tests;
#[cfg(test)]
mod testing;
