//! Images as arguments: their names, and what would be in them.

use std::fmt;

use anyhow::{Context, Result};
use nixery_builder::{BuildError, ImageRequest, Phase};
use nixery_config::{Arguments, ConfigErrors, NixSettings, setup};
use nixery_core::{ImageName, PackageSource, ReferenceGraph, Tag};
use nixery_nix::{BuildLog, ClosureStep, EvaluationRequest, reference_graph};

use crate::errors::{Usage, build_failure};
use crate::progress::{Reporter, Unit};
use crate::signals::or_interrupted;

/// Reads `NAME[:TAG]`.
///
/// # Errors
/// It is no name of an image, or a digest.
pub(crate) fn parse(image: &str) -> Result<ImageRequest> {
    let usage = |error: &dyn fmt::Display| Usage(error.to_string());
    if image.contains('@') {
        let message = "an image is built by name and tag: a digest is known only afterwards";
        return Err(Usage(message.into()).into());
    }
    let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    let request = ImageRequest {
        name: ImageName::parse(name).map_err(|error| usage(&error))?,
        tag: Tag::parse(tag).map_err(|error| usage(&error))?,
    };
    Ok(request)
}

/// Where packages come from, and how Nix is run.
///
/// # Errors
/// Wrong settings, all of them.
pub(crate) fn settings(
    source: &Arguments<PackageSource>,
    nix: &Arguments<NixSettings>,
) -> Result<(PackageSource, NixSettings)> {
    let mut errors = ConfigErrors::default();
    let source = errors.part(source.settings());
    let nix = errors.part(nix.settings());
    match (source, nix) {
        (Some(source), Some(nix)) => Ok((source, nix)),
        _ => Err(errors.into()),
    }
}

/// The reference graph of the packages that `wanted` makes of the package source: they are evaluated and built,
/// nothing is packed or stored.
///
/// # Errors
/// Wrong settings, or what keeps the packages from being built.
pub(crate) async fn graph(
    source: &Arguments<PackageSource>,
    nix: &Arguments<NixSettings>,
    wanted: impl FnOnce(PackageSource) -> EvaluationRequest,
    reporter: &mut Reporter,
) -> Result<ReferenceGraph> {
    let (source, settings) = settings(source, nix)?;
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let nix = setup::nix(&settings, folder.path())?;
    let (request, log) = (wanted(source), BuildLog::default());
    let packages = format!("{} packages", request.packages.len());
    let graph = {
        let mut entered = |step: ClosureStep| {
            reporter.at(Unit::Spinner, doing(step.into()), 0, 0, &packages);
        };
        let graph = reference_graph(&nix, &request, folder.path(), &log, &mut entered);
        or_interrupted(async { Ok(graph.await) }).await?
    };
    match graph {
        Ok(graph) => Ok(graph),
        Err(error) => {
            reporter.finish();
            let error = BuildError::from(error);
            Err(build_failure(&nix, error.into()).await)
        }
    }
}

/// What a phase does, for people.
pub(crate) fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued | Phase::Done | Phase::Failed => "",
        Phase::Waiting => "waiting for another server to make the image",
        Phase::Evaluate => "evaluating the packages",
        Phase::Realise => "building or fetching them",
        Phase::Graph => "reading the reference graph",
        Phase::Plan => "planning layers",
        Phase::Pack => "packing layers",
        Phase::Assemble => "writing the manifests",
        Phase::Store => "storing the last of it",
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
    #[case("")]
    #[case("git:")]
    #[case("Git")]
    #[case("localhost:8080/git")]
    #[case("git@sha256:0000000000000000000000000000000000000000000000000000000000000000")]
    fn what_is_none_is_a_usage_error(#[case] image: &str) {
        let error = parse(image).expect_err("no image");
        assert!(error.is::<Usage>(), "{error:?}");
    }
}
