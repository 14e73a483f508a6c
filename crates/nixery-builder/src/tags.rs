//! What the tags of images mean, and which ones there are.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nixery_core::{AssertedVersion, ImageName, PackageSource, Tag, TagSelection};
use quick_cache::unsync::Cache;
use tokio::time::Instant;

use crate::assertion::{VersionAssertion, version_tag};
use crate::builder::Builder;
use crate::config::ImageRequest;
use crate::error::BuildError;
use crate::handle::BuildTarget;

/// Limit of branches and tags of a git source in a list of tags.
const MAX_LISTED_REFS: usize = 1000;
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

    fn contains(&self, tag: &Tag) -> bool {
        let seen = self.seen.lock();
        let seen = seen.unwrap_or_else(PoisonError::into_inner);
        let found = seen.get(tag);
        found.is_some_and(|at| at.elapsed() < self.remembered_for)
    }
}

impl Builder {
    /// Returns what a request asks for.
    ///
    /// # Errors
    /// [`BuildError::UnknownTag`].
    pub(crate) fn select(&self, request: &ImageRequest) -> Result<SelectedImage, BuildError> {
        let (name, tag) = (&request.name, &request.tag);
        let (source, latest) = (&self.config().source, Tag::latest());
        let about = |version: AssertedVersion| VersionAssertion::about(name, version);
        let of =
            |source: &PackageSource, tag: &Tag| BuildTarget::new(name.clone(), source.resolve(tag));
        let mut assertion = None;
        let target = match source.select(tag, &self.config().channels) {
            TagSelection::Source(selected) => of(&selected, tag),
            TagSelection::Version(version) => {
                assertion = about(version);
                if assertion.is_none() {
                    return Err(self.unknown_tag(request));
                }
                of(source, &latest)
            }
            TagSelection::RefOrVersion(version) => {
                assertion = about(version);
                if assertion.is_some() && self.version_tags().contains(tag) {
                    of(source, &latest)
                } else {
                    BuildTarget {
                        default_branch: assertion.is_some().then(|| source.resolve(&latest)),
                        ..of(source, tag)
                    }
                }
            }
            TagSelection::Nothing => return Err(self.unknown_tag(request)),
        };
        Ok(SelectedImage { target, assertion })
    }

    /// Returns the tags that an image can be requested by, sorted: `latest`, channels or the
    /// branches and tags that are known without the network, and the version of the first package
    /// if the image is in memory.
    pub async fn tags(&self, name: &ImageName) -> BTreeSet<Tag> {
        let source = &self.config().source;
        let mut tags = BTreeSet::from_iter(source.fixed_tags(&self.config().channels));
        if let PackageSource::Git { .. } = source {
            let source = source.resolve(&Tag::latest());
            match self.nix().known_refs(&source, MAX_LISTED_REFS).await {
                Ok(refs) => tags.extend(refs),
                Err(error) => tracing::warn!(%error, "cannot list branches and tags"),
            }
        }
        tags.extend(self.version_in_memory(name));
        tags
    }

    /// Returns the version of the first package of a name as a tag, if its image is in memory.
    fn version_in_memory(&self, name: &ImageName) -> Option<Tag> {
        let source = self.config().source.resolve(&Tag::latest());
        let target = BuildTarget::new(name.clone(), source);
        let image = self.warm_images().get(&target)?.image;
        let version = image.versions.as_ref()?.get(name.first_package()?)?;
        version_tag(version)
    }

    fn unknown_tag(&self, request: &ImageRequest) -> BuildError {
        let mut tags = self.config().source.fixed_tags(&self.config().channels);
        tags.extend(self.version_in_memory(&request.name));
        BuildError::UnknownTag {
            tag: request.tag.clone(),
            tags,
        }
    }
}
