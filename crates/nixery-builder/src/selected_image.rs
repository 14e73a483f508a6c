//! The image that a request asks for by its name and tag, before the source is read.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nixery_core::Tag;
use quick_cache::unsync::Cache;
use tokio::time::Instant;

use crate::assertion::VersionAssertion;
use crate::handle::BuildTarget;

/// Limit of tags that are remembered as versions.
const MAX_VERSION_TAGS: usize = 1000;

/// What a request asks for.
#[derive(Debug, Clone)]
pub(crate) struct SelectedImage {
    pub(crate) target: BuildTarget,
    /// What the tag asserts of a package, unless the target's source has it as a branch or tag.
    pub(crate) assertion: Option<VersionAssertion>,
}

impl SelectedImage {
    /// Returns what is asserted of an image that is known under the target.
    pub(crate) fn assertion_of_image(&self) -> Option<&VersionAssertion> {
        // Such an image was found by its branch or tag.
        let may_be_ref = self.target.default_branch.is_some();
        self.assertion.as_ref().filter(|_| !may_be_ref)
    }
}

/// Tags that a git source lately had as neither a branch nor a tag, so that they are versions.
#[derive(Debug)]
pub(crate) struct VersionTags {
    seen: Mutex<Cache<Tag, Instant>>,
    /// How long nobody looks for a new branch of the name.
    remembered_for: Duration,
}

impl VersionTags {
    pub(crate) fn new(remembered_for: Duration) -> Self {
        Self {
            seen: Mutex::new(Cache::new(MAX_VERSION_TAGS)),
            remembered_for,
        }
    }

    pub(crate) fn remember(&self, tag: &Tag) {
        let seen = self.seen.lock();
        let mut seen = seen.unwrap_or_else(PoisonError::into_inner);
        seen.insert(tag.clone(), Instant::now());
    }

    pub(crate) fn contains(&self, tag: &Tag) -> bool {
        let seen = self.seen.lock();
        let seen = seen.unwrap_or_else(PoisonError::into_inner);
        let found = seen.get(tag);
        found.is_some_and(|at| at.elapsed() < self.remembered_for)
    }
}
