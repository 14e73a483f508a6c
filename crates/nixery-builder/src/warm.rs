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
use tokio::time::Instant;

use crate::config::{BuilderConfig, STALE_INTERVALS};
use crate::handle::BuildHandle;
use crate::image::Image;
use crate::target::Target;
use nixery_state::generations::Generations;

/// Bytes of images in memory, in two generations. An image has 30 to 150 kB.
const MEMORY: usize = 64 * 1024 * 1024;
/// Time between two tries to have a source evaluated, so that requests in their thousands do not
/// ask for it in their thousands.
const RETRY: Duration = Duration::from_secs(1);

/// The last image of each target, bounded in memory.
#[derive(Debug)]
pub(crate) struct Warm {
    images: Generations<Target, Entry>,
    interval: Duration,
    /// How long an image whose blobs were seen answers.
    seen_counts: Duration,
}

#[derive(Debug)]
struct Entry {
    image: Arc<Image>,
    /// The manifest cache's.
    key: Digest,
    /// When the source was looked at; `None` for one that cannot change.
    evaluated: Option<Instant>,
    /// When all blobs were seen; `None` if one is said to be missing.
    checked: Option<Instant>,
    /// When one was last said to be missing.
    doubted: Option<Instant>,
    /// When it was last tried to evaluate the source in the background.
    tried: Option<Instant>,
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
            images: Generations::new(MEMORY / 2),
            interval: config.eval_interval,
            seen_counts: config.seen_counts(),
        }
    }

    /// The image of a target, unless it is too old to answer.
    pub(crate) fn get(&mut self, target: &Target) -> Option<WarmImage> {
        let (interval, seen_counts) = (self.interval, self.seen_counts);
        let too_old = interval.saturating_mul(STALE_INTERVALS);
        let look = |entry: &mut Entry| {
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
        };
        self.images.with(target, look).flatten()
    }

    /// Whether it is time to try and evaluate the target's source; if so, it counts as tried.
    pub(crate) fn try_again(&mut self, target: &Target) -> bool {
        let look = |entry: &mut Entry| {
            let due = entry.tried.is_none_or(|tried| tried.elapsed() >= RETRY);
            if due {
                entry.tried = Some(Instant::now());
            }
            due
        };
        self.images.with(target, look).unwrap_or(false)
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
        let entry = Entry {
            image: Arc::clone(image),
            key,
            evaluated,
            checked: Some(now),
            doubted: None,
            tried: None,
        };
        let target = build.target();
        self.images
            .insert_weighing(target.clone(), entry, weight(target, image));
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
        let _ = self.images.with(target, |entry| {
            if entry.key == *key {
                entry.image = Arc::clone(image);
                // The look-up may have been before what is doubted happened.
                if entry.doubted.is_none_or(|doubted| doubted < at) {
                    entry.checked = Some(at);
                }
            }
        });
    }

    /// The cache no longer has the image under the key.
    pub(crate) fn forget(&mut self, target: &Target, key: &Digest) {
        let has_it = self.images.with(target, |entry| entry.key == *key);
        // A build may have put another one in its place meanwhile.
        if has_it == Some(true) {
            self.images.remove(target);
        }
    }

    /// Forgets all of them: images are grouped in another way from now on.
    pub(crate) fn clear(&mut self) {
        self.images = Generations::new(MEMORY / 2);
    }

    /// Lets no image that needs the blob answer without being checked.
    pub(crate) fn doubt(&mut self, blob: &Digest) {
        for entry in self.images.values_mut() {
            if entry.image.needs(blob) {
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
