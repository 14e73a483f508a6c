//! Warm images: the last image of each name and source, which answers requests from memory.
//!
//! An image of a source that cannot change answers as long as its blobs are in the store. An image
//! of a moving source answers for [`STALE_INTERVALS`] evaluation intervals. After the first one,
//! the source is evaluated in the background (*stale-while-revalidate*, as in RFC 5861 for HTTP
//! caches). So no request waits for Nix if requests come now and then, a package set that is broken
//! for a short time breaks no pull, and no client gets an image that is older than those intervals.
//! The time in which the evaluation waits for other builds does not count: a server that is busy
//! with new images still serves the old ones.

use std::sync::Arc;
use std::time::Duration;

use nixery_manifest::Digest;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use tokio::time::Instant;

use crate::config::{BuilderConfig, STALE_INTERVALS};
use crate::handle::{BuildHandle, BuildTarget, QueueClock};
use crate::image::Image;

/// Bytes of images in memory. An image has 30 to 150 kB.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of a usual image, to estimate how many fit.
const USUAL_BYTES: u64 = 64 * 1024;
/// Time between two attempts to evaluate a source in the background, so that thousands of requests
/// do not cause thousands of attempts.
const REFRESH_DELAY: Duration = Duration::from_secs(1);

/// The last image of each target, bounded in memory.
#[derive(Debug)]
pub(crate) struct WarmImages {
    images: Cache<BuildTarget, WarmEntry, ByBytes>,
    interval: Duration,
    /// How long an image answers before its blobs are looked up again.
    confirmed_for: Duration,
}

#[derive(Debug)]
struct WarmEntry {
    image: Arc<Image>,
    /// About the bytes that the entry takes.
    bytes: u64,
    /// When the source was evaluated; `None` if it cannot change.
    evaluated: Option<Instant>,
    /// When the store had all blobs; `None` if one was reported missing since.
    confirmed: Option<Instant>,
    /// When a blob was last reported missing.
    missing: Option<Instant>,
    /// When the last evaluation in the background was started.
    refreshed: Option<Instant>,
    /// How long the last evaluation in the background waits for other builds.
    queue_clock: Option<Arc<QueueClock>>,
    /// How long those before it waited.
    queued_before: Duration,
}

impl WarmEntry {
    /// Returns how old the evaluation of the image is, without the time in which newer ones waited
    /// for other builds; `None` if its source cannot change.
    fn age_without_queue(&self) -> Option<Duration> {
        let queued = self.queue_clock.as_ref().map(|clock| clock.elapsed());
        let queued = self.queued_before + queued.unwrap_or_default();
        Some(self.evaluated?.elapsed().saturating_sub(queued))
    }
}

/// Bounds the entries by their bytes.
#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<BuildTarget, WarmEntry> for ByBytes {
    fn weight(&self, _: &BuildTarget, entry: &WarmEntry) -> u64 {
        entry.bytes
    }
}

/// An image that is young enough to answer.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) image: Arc<Image>,
    /// Whether the store had all blobs recently.
    pub(crate) confirmed: bool,
    /// Whether the source has to be evaluated again.
    pub(crate) stale: bool,
}

impl WarmImages {
    pub(crate) fn new(config: &BuilderConfig) -> Self {
        Self {
            images: Cache::with_weighter((MAX_BYTES / USUAL_BYTES) as usize, MAX_BYTES, ByBytes),
            interval: config.eval_interval,
            confirmed_for: config.confirmed_for(),
        }
    }

    /// Returns the image of a target, unless it is too old to answer.
    pub(crate) fn get(&self, target: &BuildTarget) -> Option<Candidate> {
        let entry = self.images.get(target)?;
        let age = entry.evaluated.map(|evaluated| evaluated.elapsed());
        let max_age = self.interval.saturating_mul(STALE_INTERVALS);
        let limited = entry.age_without_queue();
        if limited.is_some_and(|age| age >= max_age) {
            return None;
        }
        Some(Candidate {
            image: Arc::clone(&entry.image),
            confirmed: entry
                .confirmed
                .is_some_and(|confirmed| confirmed.elapsed() < self.confirmed_for),
            stale: age.is_some_and(|age| age >= self.interval),
        })
    }

    /// Returns whether the target's source is to be evaluated now in the background. If so, this
    /// counts as an attempt.
    pub(crate) fn begin_refresh(&mut self, target: &BuildTarget) -> bool {
        let Some(mut entry) = self.images.get_mut(target) else {
            return false;
        };
        let due = entry
            .refreshed
            .is_none_or(|refreshed| refreshed.elapsed() >= REFRESH_DELAY);
        if due {
            entry.refreshed = Some(Instant::now());
        }
        due
    }

    /// Notes the evaluation in the background that the last attempt started or joined.
    pub(crate) fn refreshes(&mut self, target: &BuildTarget, refresh: &BuildHandle) {
        let Some(mut entry) = self.images.get_mut(target) else {
            return;
        };
        let clock = refresh.queue_clock();
        match entry.queue_clock.replace(Arc::clone(clock)) {
            Some(before) if !Arc::ptr_eq(&before, clock) => entry.queued_before += before.elapsed(),
            _ => {}
        }
    }

    /// Keeps the image of a build.
    pub(crate) fn insert(&mut self, build: &BuildHandle, image: &Arc<Image>) {
        let target = build.image_target();
        let now = Instant::now();
        let evaluated = if target.source.revision.is_some() {
            None
        } else if self.interval.is_zero() {
            return;
        } else {
            // An image that took long to build still answers for one interval. Otherwise a client
            // that was asked to come back for it would wait for another build, again and again.
            let max_age = self.interval.saturating_mul(STALE_INTERVALS - 1);
            let earliest = now.checked_sub(max_age).unwrap_or(now);
            Some(build.source_read_at().max(earliest))
        };
        let entry = WarmEntry {
            image: Arc::clone(image),
            bytes: bytes_in_memory(&target, image) as u64,
            evaluated,
            confirmed: Some(now),
            missing: None,
            refreshed: None,
            queue_clock: None,
            queued_before: Duration::ZERO,
        };
        self.images.insert(target, entry);
    }

    /// Keeps an image that a look-up, which began at `begun`, found with all its blobs.
    pub(crate) fn confirm(&mut self, target: &BuildTarget, image: &Arc<Image>, begun: Instant) {
        // A build may have replaced the image meanwhile.
        if let Some(mut entry) = self.images.get_mut(target)
            && entry.image.key == image.key
        {
            entry.image = Arc::clone(image);
            // A blob may have been reported missing after the look-up.
            if entry.missing.is_none_or(|missing| missing < begun) {
                entry.confirmed = Some(begun);
            }
        }
    }

    /// Drops the image with a key that is no longer in the store.
    pub(crate) fn remove(&mut self, target: &BuildTarget, key: &Digest) {
        // A build may have replaced the image meanwhile.
        let _ = self
            .images
            .remove_if(target, |entry| entry.image.key == *key);
    }

    /// Drops all images, as the layer strategy has changed.
    pub(crate) fn clear(&mut self) {
        self.images.clear();
    }

    /// Makes sure that the images that need the blob are looked up before they answer.
    pub(crate) fn invalidate(&mut self, blob: &Digest) {
        let affected = self.images.iter();
        let affected = affected.filter(|(_, entry)| entry.image.needs(blob));
        let affected: Vec<_> = affected.map(|(target, _)| target.clone()).collect();
        for target in affected {
            if let Some(mut entry) = self.images.peek_mut(&target) {
                (entry.confirmed, entry.missing) = (None, Some(Instant::now()));
            }
        }
    }
}

/// Estimates the bytes that an image and its target take in memory.
fn bytes_in_memory(target: &BuildTarget, image: &Image) -> usize {
    let text = |text: &str| text.len() + 40;
    let manifests: usize = image.manifests().map(|manifest| manifest.bytes.len()).sum();
    let layers = image.layers.iter().map(|layer| {
        let paths: usize = layer.paths.iter().map(|path| text(path.as_str())).sum();
        size_of_val(layer) + layer.reason.len() + paths
    });
    let layers: usize = layers.sum();
    let names: usize = target.name.packages().iter().map(|name| text(name)).sum();
    let versions = image.versions.iter().flat_map(|versions| versions.iter());
    let versions: usize = versions
        .map(|(name, version)| text(name) + text(version))
        .sum();
    // The names are in the image, in the target, and in the name as it was requested.
    size_of::<Image>() + size_of::<WarmEntry>() + manifests + layers + versions + 3 * names
}
