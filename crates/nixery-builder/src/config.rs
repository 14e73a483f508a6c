//! What a builder is told at start, and what it is asked for.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nixery_core::{Codec, ImageName, PackageSource, Tag};
use nixery_core::{DEFAULT_BUDGET, LayerStrategy, Size};
use nixery_state::gc;

/// Builds that may run or wait at once, unless configured: each holds some kilobytes and waits for
/// Nix, so that the last of so many would be served hours later anyway.
pub const DEFAULT_MAX_WAITING: usize = 1000;

/// How long a failed build answers again without being tried again, unless configured.
pub const DEFAULT_FAILURE_TTL: Duration = Duration::from_secs(10);

/// How long a blob that was seen in the store counts as there, unless configured.
pub const DEFAULT_RECHECK_AFTER: Duration = Duration::from_secs(10);

/// How long what a moving source gave answers before the source is evaluated anew, unless
/// configured: for a channel or a branch. Nix itself looks at those once an hour (`tarball-ttl`).
pub const DEFAULT_EVAL_INTERVAL: Duration = Duration::from_secs(60);

/// Intervals for which an image of a moving source answers at most, while the source cannot be
/// evaluated or nobody asked.
pub const STALE_INTERVALS: u32 = 10;

/// How long another server on the same store is waited for after its last sign of life, unless
/// configured. It gives one every third of this time.
pub const DEFAULT_LEASE_TTL: Duration = Duration::from_secs(15);

/// Settings of a [`Builder`](crate::Builder).
#[derive(Debug, Clone)]
pub struct BuilderConfig {
    /// Where packages come from.
    pub source: PackageSource,
    /// Most layers an image may have, the root layer included. 1 counts as 2: there is always a
    /// layer of packages and the root layer.
    pub budget: NonZeroUsize,
    /// How store paths are grouped into layers, until [`Builder::set_strategy`](crate::Builder::set_strategy).
    pub strategy: Arc<dyn LayerStrategy>,
    /// How layers are compressed.
    pub compression: Codec,
    /// Directory for spool files and temporary GC roots. May be shared by several processes.
    pub spool_dir: PathBuf,
    /// Threads that pack, over all builds: as many layers at once, or one layer with all. 0 counts
    /// as 1.
    pub pack_threads: usize,
    /// Evaluations at once, over all builds. Each may take a gigabyte with nixpkgs.
    pub max_evaluations: usize,
    /// Nix realisations at once.
    pub max_builds: usize,
    /// Builds that may run or wait at once; further images are refused until one ends. 0 counts
    /// as 1.
    pub max_waiting: usize,
    /// How long a failed build answers again without being tried again.
    pub failure_ttl: Duration,
    /// How long a blob that was seen in the store counts as there, before a cached image that
    /// needs it is looked at again, and then answered. Where [`Builder::open_blob`](crate::Builder::open_blob)
    /// finds a blob missing or damaged, this time ends early.
    ///
    /// Blobs are remembered, and images that all blobs were there for: each for half of this time, as
    /// the one is judged by the other.
    pub recheck_after: Duration,
    /// How long an image of a source that moves answers before the source is evaluated anew, in the
    /// background: until that is done the old image answers, but never one that is older than
    /// [`STALE_INTERVALS`] intervals. Zero: the source is evaluated for each request.
    pub eval_interval: Duration,
    /// How long another server on the same store that builds an image is waited for after its last
    /// sign of life. Zero: it is not waited for, and nobody waits for this one.
    pub lease_ttl: Duration,
    /// How many builds are remembered with their logs.
    pub history: usize,
    /// The grace of whoever collects garbage in the store, see [`gc`]: use marks are
    /// written often enough for it. One that is too short costs writes, one that is too long safety.
    pub gc_grace: Duration,
}

impl BuilderConfig {
    /// Defaults: gzip, the layer strategy that needs no data, one packing
    /// thread per core.
    pub fn new(source: PackageSource, spool_dir: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            eval_interval: default_eval_interval(&source),
            source,
            budget: DEFAULT_BUDGET,
            strategy: Arc::new(Size),
            compression: Codec::Gzip,
            spool_dir: spool_dir.into(),
            pack_threads: cores,
            max_evaluations: cores.min(4),
            max_builds: cores.clamp(2, 8),
            max_waiting: DEFAULT_MAX_WAITING,
            failure_ttl: DEFAULT_FAILURE_TTL,
            recheck_after: DEFAULT_RECHECK_AFTER,
            lease_ttl: DEFAULT_LEASE_TTL,
            history: 100,
            gc_grace: gc::DEFAULT_GRACE,
        }
    }

    /// How long a blob that was seen counts as there, and again an image whose blobs were.
    pub(crate) fn seen_counts(&self) -> Duration {
        // What was seen must not count as there when a collector may have taken it since.
        self.recheck_after.min(self.gc_grace / 4) / 2
    }
}

/// The layers that an image with at most so many has for store paths: the root layer takes one, and paths need
/// one in any case.
pub fn budget_of_paths(layers: NonZeroUsize) -> NonZeroUsize {
    NonZeroUsize::new(layers.get() - 1).unwrap_or(NonZeroUsize::MIN)
}

/// [`DEFAULT_EVAL_INTERVAL`], or zero for a local path: who edits a package set and asks for an
/// image wants to see the edit, or its mistake.
pub fn default_eval_interval(source: &PackageSource) -> Duration {
    match source {
        PackageSource::Path(_) => Duration::ZERO,
        PackageSource::Channel(_) | PackageSource::Git { .. } => DEFAULT_EVAL_INTERVAL,
    }
}

/// One image that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageRequest {
    /// What is in it.
    pub name: ImageName,
    /// Which version of the package source.
    pub tag: Tag,
}
