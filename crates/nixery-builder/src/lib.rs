//! Builds container images from Nix packages: evaluate, realise, plan layers, pack, store, cache.

mod blobs;
mod build_log;
mod builder;
mod config;
mod engine;
mod error;
pub mod export;
mod flow;
mod handle;
mod history;
mod image;
mod keyed_lock;
mod layers;
mod nix;
pub mod popcount;
mod popularity;
mod progress;
mod recipe;
mod record;
mod spool;

pub use build_log::BuildLog;
pub use builder::Builder;
pub use config::{
    BuilderConfig, DEFAULT_FAILURE_TTL, DEFAULT_LAYER_BUDGET, DEFAULT_RECHECK_AFTER, ImageRequest,
};
pub use error::{BuildError, BuilderError};
pub use handle::{BuildHandle, BuildResult, BuildState, BuildSummary};
pub use image::{BuildStats, Image, LayerSummary, ManifestBlob};
pub use nix::{
    EvaluatedPackage, Evaluation, EvaluationRequest, Finding, Nix, NixCli, NixCliConfig, NixError,
    RealisedPackage,
};
pub use popularity::{LoadPopularityError, load_popularity};
pub use progress::{BuildId, BuildIdError, Phase, Progress};
