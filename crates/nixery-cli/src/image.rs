//! Images as arguments: their names, and what they would contain.

use std::sync::Arc;

use anyhow::{Context, Result};
use nixery_builder::{BuildError, ImageRequest, Phase};
use nixery_config::{NixSettings, setup};
use nixery_core::{
    Channels, ImageName, PackageSource, ReferenceGraph, ResolvedSource, Tag, TagSelection,
};
use nixery_nix::{BuildLog, ClosureStep, EvaluationRequest, package_closure};

use crate::errors::{build_failure, usage};
use crate::progress::{Reporter, Unit};
use crate::signals::or_interrupted;

/// Parses `NAME[:TAG]`.
///
/// # Errors
/// The name or tag is invalid, or `image` has a digest.
pub(crate) fn parse(image: &str) -> Result<ImageRequest> {
    if image.contains('@') {
        return Err(usage(
            "an image is built by name and tag, and its digest is known only after the build. Fix: remove the @ and what follows it",
        ));
    }
    let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    Ok(ImageRequest {
        name: ImageName::parse(name).map_err(usage)?,
        tag: Tag::parse(tag).map_err(usage)?,
    })
}

/// Returns the package source at a tag, for a command that evaluates but makes no image.
///
/// # Errors
/// The tag selects nothing, or can only be a version.
pub(crate) fn source_at(
    source: &PackageSource,
    channels: &Channels,
    tag: &Tag,
) -> Result<ResolvedSource> {
    match source.select(tag, channels) {
        TagSelection::Source(selected) => Ok(selected.resolve(tag)),
        TagSelection::RefOrVersion(_) => Ok(source.resolve(tag)),
        TagSelection::Version(_) | TagSelection::Nothing => Err(usage(format!(
            "the tag `{tag}` selects nothing of the package source, and a version is checked only when an image is built. Fix: leave out the tag"
        ))),
    }
}

/// Returns the reference graph of packages. Nix builds them; nothing is packed or stored.
///
/// # Errors
/// Nix cannot be prepared, or the packages cannot be built.
pub(crate) async fn graph(
    settings: &NixSettings,
    request: &EvaluationRequest,
    reporter: &Reporter,
) -> Result<ReferenceGraph> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let nix = setup::nix(settings, folder.path(), setup::user_mirrors())?;
    let log = BuildLog::default();
    let packages = format!("{} packages", request.packages.len());
    let mut entered = |step: ClosureStep| {
        reporter.at(Unit::Spinner, describe(step.into()), 0, 0, &packages);
    };
    let graph = package_closure(&nix, request, folder.path(), &log, &mut entered);
    match or_interrupted(graph).await? {
        Ok(graph) => Ok(graph),
        Err(error) => {
            reporter.finish();
            Err(build_failure(&nix, Arc::new(BuildError::from(error))).await)
        }
    }
}

/// Describes a phase of a build for people.
pub(crate) fn describe(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued | Phase::Done | Phase::Failed => "",
        Phase::Waiting => "waiting for another server that builds the image",
        Phase::Fetch => "fetching the package source",
        Phase::Evaluate => "evaluating the Nix code of the packages",
        Phase::Realise => "building or fetching the packages",
        Phase::Graph => "reading the reference graph",
        Phase::Plan => "planning layers",
        Phase::Pack => "packing layers",
        Phase::Assemble => "writing the manifests",
        Phase::Store => "storing the remaining blobs",
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("shell/git", "shell/git", "latest")]
    #[case("git:nixos-26.05", "git", "nixos-26.05")]
    fn an_image_is_a_name_and_a_tag(#[case] image: &str, #[case] name: &str, #[case] tag: &str) {
        let request = parse(image).expect("an image");
        assert_eq!((request.name.as_str(), request.tag.as_str()), (name, tag));
    }

    #[rstest]
    #[case("latest", Some("nixos-26.05"))]
    #[case("25.11", Some("nixos-25.11"))]
    #[case("2.39", None)]
    #[case("nonsense", None)]
    fn a_tag_selects_a_channel(#[case] tag: &str, #[case] channel: Option<&str>) {
        let source = PackageSource::channel("nixos-26.05").expect("a channel");
        let channels = "nixos-25.11".parse().expect("channels");
        let found = source_at(&source, &channels, &Tag::parse(tag).expect("a tag"));
        let found = found.ok().map(|source| source.src_args);
        assert_eq!(found.as_deref(), channel);
    }

    #[rstest]
    #[case("")]
    #[case("git:")]
    #[case("Git")]
    #[case("localhost:8080/git")]
    #[case("git@sha256:0000000000000000000000000000000000000000000000000000000000000000")]
    fn an_invalid_image_is_an_error(#[case] image: &str) {
        parse(image).expect_err("not an image");
    }
}
