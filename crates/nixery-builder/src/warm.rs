//! Images that answer at once: the last one of each name and source.
//!
//! What cannot change answers for as long as its blobs are there. What a moving source gave answers
//! for [`STALE_INTERVALS`] intervals; after one of them the source is evaluated anew in the
//! background (*stale while revalidate*, as RFC 5861 has it for HTTP caches), whether or not that
//! works. So nobody waits for Nix as long as somebody asks now and then, a set that is broken for a
//! moment breaks no pull, and nobody gets what is older than those intervals.

use std::sync::Arc;
use std::time::Duration;

use nixery_manifest::Digest;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use tokio::time::Instant;

use crate::config::{BuilderConfig, STALE_INTERVALS};
use crate::handle::BuildHandle;
use crate::image::Image;
use crate::target::Target;

/// Bytes of images in memory. An image has 30 to 150 kB.
const MEMORY: u64 = 64 * 1024 * 1024;
/// An image's bytes, to guess how many there are.
const USUAL_WEIGHT: u64 = 64 * 1024;
/// Time between two tries to have a source evaluated, so that requests in their thousands do not
/// ask for it in their thousands.
const RETRY: Duration = Duration::from_secs(1);

/// The last image of each target, bounded in memory.
#[derive(Debug)]
pub(crate) struct Warm {
    images: Cache<Target, Entry, ByWeight>,
    interval: Duration,
    /// How long an image whose blobs were seen answers.
    seen_counts: Duration,
}

#[derive(Debug)]
struct Entry {
    image: Arc<Image>,
    /// The manifest cache's.
    key: Digest,
    /// About the bytes that the entry takes.
    weight: u64,
    /// When the source was looked at; `None` for one that cannot change.
    evaluated: Option<Instant>,
    /// When all blobs were seen; `None` if one is said to be missing.
    checked: Option<Instant>,
    /// When one was last said to be missing.
    doubted: Option<Instant>,
    /// When it was last tried to evaluate the source in the background.
    tried: Option<Instant>,
}

/// Bounds the entries by their weight.
#[derive(Debug, Clone)]
struct ByWeight;

impl Weighter<Target, Entry> for ByWeight {
    fn weight(&self, _: &Target, entry: &Entry) -> u64 {
        entry.weight
    }
}

/// An image that is young enough to answer.
#[derive(Debug)]
pub(crate) struct WarmImage {
    pub(crate) image: Arc<Image>,
    pub(crate) key: Digest,
    /// Whether all blobs were seen lately.
    pub(crate) checked: bool,
    /// Whether the source has to be looked at.
    pub(crate) stale: bool,
}

impl Warm {
    pub(crate) fn new(config: &BuilderConfig) -> Self {
        Self {
            images: Cache::with_weighter((MEMORY / USUAL_WEIGHT) as usize, MEMORY, ByWeight),
            interval: config.eval_interval,
            seen_counts: config.seen_counts(),
        }
    }

    /// The image of a target, unless it is too old to answer.
    pub(crate) fn get(&self, target: &Target) -> Option<WarmImage> {
        let (interval, seen_counts) = (self.interval, self.seen_counts);
        let too_old = interval.saturating_mul(STALE_INTERVALS);
        let entry = self.images.get(target)?;
        let age = entry.evaluated.map(|evaluated| evaluated.elapsed());
        if age.is_some_and(|age| age >= too_old) {
            return None;
        }
        let checked = entry.checked.map(|checked| checked.elapsed());
        Some(WarmImage {
            image: Arc::clone(&entry.image),
            key: entry.key,
            checked: checked.is_some_and(|age| age < seen_counts),
            stale: age.is_some_and(|age| age >= interval),
        })
    }

    /// Whether it is time to try and evaluate the target's source; if so, it counts as tried.
    pub(crate) fn try_again(&mut self, target: &Target) -> bool {
        let Some(mut entry) = self.images.get_mut(target) else {
            return false;
        };
        let due = entry.tried.is_none_or(|tried| tried.elapsed() >= RETRY);
        if due {
            entry.tried = Some(Instant::now());
        }
        due
    }

    /// Keeps what a build ended with.
    pub(crate) fn built(&mut self, build: &BuildHandle, image: &Arc<Image>) {
        let Some(key) = build.key() else { return };
        let now = Instant::now();
        // An image that took long to build answers for an interval all the same: whoever was told to
        // come back for it would else wait for another build, again and again.
        let answering = self.interval.saturating_mul(STALE_INTERVALS - 1);
        let earliest = now.checked_sub(answering).unwrap_or(now);
        let evaluated = (!image.stats.immutable).then(|| build.evaluated_at().max(earliest));
        if evaluated.is_some() && self.interval.is_zero() {
            return;
        }
        let target = build.target();
        let entry = Entry {
            image: Arc::clone(image),
            key,
            weight: weight(target, image) as u64,
            evaluated,
            checked: Some(now),
            doubted: None,
            tried: None,
        };
        self.images.insert(target.clone(), entry);
    }

    /// Keeps what the cache has under the key, whose blobs were all looked up, or seen lately enough,
    /// after `at`.
    pub(crate) fn checked(
        &mut self,
        target: &Target,
        key: &Digest,
        image: &Arc<Image>,
        at: Instant,
    ) {
        // Without it a build has put another one in its place.
        if let Some(mut entry) = self.images.get_mut(target)
            && entry.key == *key
        {
            entry.image = Arc::clone(image);
            // The look-up may have been before what is doubted happened.
            if entry.doubted.is_none_or(|doubted| doubted < at) {
                entry.checked = Some(at);
            }
        }
    }

    /// The cache no longer has the image under the key.
    pub(crate) fn forget(&mut self, target: &Target, key: &Digest) {
        // A build may have put another one in its place meanwhile.
        let _ = self.images.remove_if(target, |entry| entry.key == *key);
    }

    /// Forgets all of them: images are grouped in another way from now on.
    pub(crate) fn clear(&mut self) {
        self.images.clear();
    }

    /// Lets no image that needs the blob answer without being checked.
    pub(crate) fn doubt(&mut self, blob: &Digest) {
        let needing = self
            .images
            .iter()
            .filter(|(_, entry)| entry.image.needs(blob));
        let needing: Vec<Target> = needing.map(|(target, _)| target.clone()).collect();
        for target in needing {
            if let Some(mut entry) = self.images.peek_mut(&target) {
                (entry.checked, entry.doubted) = (None, Some(Instant::now()));
            }
        }
    }
}

/// About the bytes that an image and its target take.
fn weight(target: &Target, image: &Image) -> usize {
    let manifests: usize = image.manifests().map(|manifest| manifest.bytes.len()).sum();
    let layers = image.layers.iter().map(|layer| {
        let paths = layer.paths.iter().map(|path| path.as_str().len() + 40);
        let paths: usize = paths.sum();
        size_of_val(layer) + layer.reason.len() + paths
    });
    let layers: usize = layers.sum();
    // In the image, in the target, and in the name as it was asked for.
    let names: usize = target
        .name
        .packages()
        .iter()
        .map(|name| name.len() + 40)
        .sum();
    size_of::<Image>() + size_of::<Entry>() + manifests + layers + 3 * names
}
