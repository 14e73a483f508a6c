//! The first steps of every image: which packages it holds, and what they need at run time.
//!
//! The main flow takes them one by one, with its limits and cache in between; [`reference_graph`] takes them all,
//! for those who want to know what would be in an image.

use std::io;
use std::path::Path;

use nixery_core::{ReferenceGraph, ResolvedSource};

use crate::build_log::BuildLog;
use crate::config::ImageRequest;
use crate::error::BuildError;
use crate::nix::{Evaluation, EvaluationRequest, Nix, RealisedPackage};
use crate::progress::Phase;

impl EvaluationRequest {
    /// The packages of an image, in its package source at its tag.
    pub fn for_image(request: &ImageRequest, source: ResolvedSource) -> Self {
        Self {
            source,
            packages: request.name.packages().to_vec(),
            architecture: request.name.architecture(),
        }
    }
}

/// The reference graph of packages, which Nix evaluates, and builds or fetches; nothing is packed or stored.
///
/// `entered` is told each phase that begins. While it runs, `work_dir` has GC roots in it.
///
/// # Errors
/// Those of an image's build, up to its reference graph.
pub async fn reference_graph(
    nix: &dyn Nix,
    request: &EvaluationRequest,
    work_dir: &Path,
    log: &BuildLog,
    entered: &mut (dyn FnMut(Phase) + Send),
) -> Result<ReferenceGraph, BuildError> {
    entered(Phase::Evaluate);
    let evaluation = evaluate(nix, request, log).await?;
    let gc_roots = tempfile::tempdir_in(work_dir).map_err(no_gc_roots)?;
    entered(Phase::Realise);
    let packages = realise(nix, &evaluation, gc_roots.path(), log).await?;
    entered(Phase::Graph);
    graph(nix, &packages, log).await
}

pub(crate) fn no_gc_roots(source: io::Error) -> BuildError {
    BuildError::Spool {
        action: "make GC roots",
        source,
    }
}

pub(crate) async fn evaluate(
    nix: &dyn Nix,
    request: &EvaluationRequest,
    log: &BuildLog,
) -> Result<Evaluation, BuildError> {
    let evaluation = nix.evaluate(request, log).await;
    evaluation.map_err(|error| BuildError::from_nix(error, Phase::Evaluate))
}

pub(crate) async fn realise(
    nix: &dyn Nix,
    evaluation: &Evaluation,
    gc_roots: &Path,
    log: &BuildLog,
) -> Result<Vec<RealisedPackage>, BuildError> {
    let packages = nix.realise(evaluation, gc_roots, log).await;
    packages.map_err(|error| BuildError::from_nix(error, Phase::Realise))
}

pub(crate) async fn graph(
    nix: &dyn Nix,
    packages: &[RealisedPackage],
    log: &BuildLog,
) -> Result<ReferenceGraph, BuildError> {
    let roots: Vec<_> = packages
        .iter()
        .map(|package| package.path.clone())
        .collect();
    let graph = nix.reference_graph(&roots, log).await;
    graph.map_err(|error| BuildError::from_nix(error, Phase::Graph))
}
