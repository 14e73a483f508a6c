//! The builds a builder remembers, and which of them answers a request.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use nixery_core::{ImageName, ResolvedSource};
use nixery_manifest::Digest;

use crate::handle::BuildHandle;

/// Builds that run and builds that ended, bounded.
#[derive(Debug)]
pub(crate) struct History {
    /// Newest first.
    builds: VecDeque<BuildHandle>,
    /// The latest build of each image, while it is remembered.
    latest: HashMap<Target, BuildHandle>,
    max: usize,
    failure_ttl: Duration,
    recheck_after: Duration,
}

/// What is built once at a time. Not the tag: only a git source looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// Equal where the same packages are asked for, in whatever order.
    pub(crate) name: ImageName,
    pub(crate) source: ResolvedSource,
}

impl History {
    pub(crate) fn new(max: usize, failure_ttl: Duration, recheck_after: Duration) -> Self {
        let (builds, latest) = (VecDeque::new(), HashMap::new());
        Self {
            builds,
            latest,
            max,
            failure_ttl,
            recheck_after,
        }
    }

    /// All of them, newest first.
    pub(crate) fn handles(&self) -> impl Iterator<Item = &BuildHandle> {
        self.builds.iter()
    }

    /// The build that answers a request without a new one.
    pub(crate) fn current(&self, target: &Target) -> Option<BuildHandle> {
        let handle = self.latest.get(target)?;
        let answers = match handle.outcome() {
            None => true,
            Some(outcome) => {
                let keep = match outcome.result {
                    Err(_) => self.failure_ttl,
                    Ok(image) if image.stats.immutable => self.recheck_after,
                    // A source that moves is asked each time.
                    Ok(_) => Duration::ZERO,
                };
                outcome.at.elapsed() < keep
            }
        };
        answers.then(|| handle.clone())
    }

    pub(crate) fn started(&mut self, handle: &BuildHandle) {
        self.builds.push_front(handle.clone());
        self.latest.insert(handle.target().clone(), handle.clone());
        self.trim();
    }

    /// Of look-ups that found the whole image cached only the last is kept, or they would push out
    /// the builds people look for.
    pub(crate) fn ended(&mut self, handle: &BuildHandle) {
        if from_cache(handle) {
            self.builds.retain(|other| {
                other.id() == handle.id() || !from_cache(other) || other.target() != handle.target()
            });
        }
        self.trim();
    }

    /// Lets no image that needs a blob answer without being checked.
    pub(crate) fn forget_blob(&mut self, digest: &Digest) {
        self.latest.retain(
            |_, handle| match handle.outcome().map(|outcome| outcome.result) {
                Some(Ok(image)) => {
                    let documents = [Some(&image.oci), image.docker.as_ref()];
                    !(image.config.digest == *digest
                        || documents
                            .into_iter()
                            .flatten()
                            .any(|blob| blob.digest == *digest)
                        || image.layers.iter().any(|layer| layer.digest == *digest))
                }
                _ => true,
            },
        );
    }

    /// Forgets the oldest that have ended.
    fn trim(&mut self) {
        let mut excess = self.builds.len().saturating_sub(self.max.max(1));
        let mut at = self.builds.len();
        while excess > 0 && at > 0 {
            at -= 1;
            if self.builds[at].outcome().is_none() {
                continue;
            }
            excess -= 1;
            if let Some(old) = self.builds.remove(at) {
                let latest = self.latest.get(old.target());
                if latest.is_some_and(|latest| latest.id() == old.id()) {
                    self.latest.remove(old.target());
                }
            }
        }
    }
}

fn from_cache(handle: &BuildHandle) -> bool {
    handle
        .outcome()
        .is_some_and(|outcome| outcome.result.is_ok_and(|image| image.stats.from_cache))
}
