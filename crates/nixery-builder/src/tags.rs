//! What the tags of images mean, and which ones there are.

use std::collections::BTreeSet;

use nixery_core::{AssertedVersion, ImageName, PackageSource, Tag, TagSelection};

use crate::assertion::{VersionAssertion, version_tag};
use crate::builder::Builder;
use crate::config::ImageRequest;
use crate::error::BuildError;
use crate::handle::{BuildHandle, BuildTarget};
use crate::selected_image::SelectedImage;

/// Limit of branches and tags of a git source in a list of tags.
const MAX_LISTED_REFS: usize = 1000;

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
                assertion = about(version).filter(|_| self.config().versions_of_git);
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

    /// Whether a request asks for the image of a build: for the same packages at a tag that means
    /// the same source.
    pub fn is_build_of(&self, build: &BuildHandle, request: &ImageRequest) -> bool {
        let selected = self.select(request);
        selected.is_ok_and(|selected| selected.target == *build.target())
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
