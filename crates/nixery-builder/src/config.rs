//! Settings of a builder, and the requests that it takes.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nixery_core::{
    ByteSize, Channels, Codec, DEFAULT_BUDGET, ImageName, LayerStrategy, PackageSource, Size, Tag,
};
use nixery_state::gc;
use nixery_state::record::RecordSecret;

/// Default of [`BuilderConfig::max_waiting`]. A build takes some kilobytes and waits for Nix, so
/// the last one of more builds would end hours later.
pub const DEFAULT_MAX_WAITING: usize = 1000;

/// Default of [`BuilderConfig::max_waiting_per_client`]: more than a person or a cluster that
/// starts asks for at once.
pub const DEFAULT_MAX_WAITING_PER_CLIENT: usize = 50;

/// Default of [`BuilderConfig::failure_ttl`].
pub const DEFAULT_FAILURE_TTL: Duration = Duration::from_secs(10);

/// Default of [`BuilderConfig::recheck_after`].
pub const DEFAULT_RECHECK_AFTER: Duration = Duration::from_secs(10);

/// Default of [`BuilderConfig::eval_interval`] for a channel or a git branch. Nix itself looks for
/// a new version of those once an hour (`tarball-ttl`).
pub const DEFAULT_EVAL_INTERVAL: Duration = Duration::from_secs(60);

/// How many intervals an image of a moving source answers while the source cannot be evaluated or
/// nobody requests the image.
pub(crate) const STALE_INTERVALS: u32 = 10;

/// Default of [`BuilderConfig::lease_ttl`].
pub const DEFAULT_LEASE_TTL: Duration = Duration::from_secs(15);

/// Settings of a [`Builder`](crate::Builder).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BuilderConfig {
    /// Where packages come from.
    pub source: PackageSource,
    /// Channels that tags may select besides that of `source`, if it is a channel.
    pub channels: Channels,
    /// Whether a tag of a git source that is no branch, tag or commit may be a version, which is
    /// asserted of the default branch. Otherwise the source has no such tag.
    pub versions_of_git: bool,
    /// Most layers of an image, with the root layer. 1 counts as 2, as every image has a layer of
    /// packages and the root layer.
    pub budget: NonZeroUsize,
    /// How store paths are grouped into layers, until
    /// [`Builder::set_strategy`](crate::Builder::set_strategy) is called.
    pub strategy: Arc<dyn LayerStrategy>,
    /// How layers are compressed.
    pub compression: Codec,
    /// Directory for spool files and temporary GC roots. Several processes may share it.
    pub spool_dir: PathBuf,
    /// Threads that pack, over all builds: as many layers at once, or one layer with all threads. 0
    /// counts as 1.
    pub pack_threads: usize,
    /// Evaluations at once, over all builds that were requested. One more may run in the
    /// background. With nixpkgs, each may take a gigabyte of memory.
    pub max_evaluations: usize,
    /// Nix realisations at once, for images that were requested. One more may run in the
    /// background.
    pub max_builds: usize,
    /// Builds that may run or wait at once; further images are refused until one ends. 0 counts
    /// as 1. Builds in the background are neither counted nor refused.
    pub max_waiting: usize,
    /// Builds that one client may have started that run or wait; 0 counts as 1. Builds that the
    /// client joined, and clients without a name, do not count.
    pub max_waiting_per_client: usize,
    /// Most packages that the name of an image may list, see [`ImageName::named_packages`]. `None`:
    /// as many as fit into a name.
    pub max_packages: Option<NonZeroUsize>,
    /// Most bytes of all store paths of an image together, as NARs. It is checked when the packages
    /// are built, before anything is packed. Images that are stored already are not affected.
    /// `None`: no limit.
    pub max_closure_size: Option<ByteSize>,
    /// Most bytes of the compressed layers of an image together. It is checked when the size of
    /// each layer is known, and for stored images as well. `None`: no limit.
    pub max_image_size: Option<ByteSize>,
    /// How long a failed build answers requests before the image is tried again.
    pub failure_ttl: Duration,
    /// How long a cached image answers before the store is asked again whether it has all blobs.
    /// If [`Builder::open_blob`](crate::Builder::open_blob) finds a blob missing or damaged, this
    /// time ends early.
    ///
    /// Half of this time holds for a blob, and half for an image whose blobs were confirmed.
    pub recheck_after: Duration,
    /// How long an image of a moving source answers before the source is evaluated again in the
    /// background. Meanwhile the old image answers, but no longer than ten intervals and the time
    /// in which the evaluation waits for other builds. Zero: the source is evaluated for each
    /// request.
    pub eval_interval: Duration,
    /// How long a server waits for another server on the same store that builds an image, since
    /// the other server last renewed its lease. A server renews its leases every third of this
    /// time. Zero: servers do not wait for each other.
    pub lease_ttl: Duration,
    /// How many builds are remembered with their logs.
    pub history: usize,
    /// The grace period of garbage collection in the store, see [`gc`]. Use marks are written
    /// accordingly often. If this period is longer than that of the collection, images in use may
    /// be deleted; if it is shorter, more marks are written than necessary.
    pub gc_grace: Duration,
    /// Authenticates the records of images and layers in the store. With it, only records count
    /// that were written with the same secret.
    pub record_secret: Option<RecordSecret>,
}

impl BuilderConfig {
    /// Returns the default settings: gzip, the [`Size`] strategy, one packing thread per core.
    /// `eval_interval` is [`DEFAULT_EVAL_INTERVAL`], or zero for a local path, as its author wants
    /// to see the effect of an edit at once.
    pub fn new(source: PackageSource, spool_dir: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            eval_interval: match source {
                PackageSource::Path(_) => Duration::ZERO,
                PackageSource::Channel(_) | PackageSource::Git { .. } => DEFAULT_EVAL_INTERVAL,
            },
            source,
            channels: Channels::default(),
            versions_of_git: true,
            budget: DEFAULT_BUDGET,
            strategy: Arc::new(Size),
            compression: Codec::Gzip,
            spool_dir: spool_dir.into(),
            pack_threads: cores,
            max_evaluations: cores.min(4),
            max_builds: cores.clamp(2, 8),
            max_waiting: DEFAULT_MAX_WAITING,
            max_waiting_per_client: DEFAULT_MAX_WAITING_PER_CLIENT,
            max_packages: None,
            max_closure_size: None,
            max_image_size: None,
            failure_ttl: DEFAULT_FAILURE_TTL,
            recheck_after: DEFAULT_RECHECK_AFTER,
            lease_ttl: DEFAULT_LEASE_TTL,
            history: 100,
            gc_grace: gc::DEFAULT_GRACE,
            record_secret: None,
        }
    }

    /// How long a blob that the store had needs no look-up, and again an image whose blobs it had.
    pub(crate) fn confirmed_for(&self) -> Duration {
        // Far below the grace period: a collection may delete the blob after it.
        self.recheck_after.min(self.gc_grace / 4) / 2
    }
}

/// Returns how many layers an image of at most `layers` layers has for store paths: one less, as
/// the root layer takes one, but at least one.
pub fn budget_of_paths(layers: NonZeroUsize) -> NonZeroUsize {
    NonZeroUsize::new(layers.get() - 1).unwrap_or(NonZeroUsize::MIN)
}

/// A request for one image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageRequest {
    /// The packages and options of the image.
    pub name: ImageName,
    /// The revision of the package source, or a version of the first package.
    pub tag: Tag,
}
