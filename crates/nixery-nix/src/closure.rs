//! The closure of named packages: the paths that an image of them would have.

use std::fmt;
use std::io;
use std::path::Path;

use nixery_core::ReferenceGraph;

use crate::build_log::BuildLog;
use crate::{EvaluationRequest, Nix, NixError, RealisedPackage};

/// A step from the names of packages to their closure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nix evaluates the packages to derivations.
    Evaluate,
    /// Nix builds or downloads them.
    Realise,
    /// Nix returns their reference graph.
    Graph,
}

impl Step {
    /// Returns the error of a step that Nix failed in.
    pub(crate) fn failed(self, source: NixError) -> StepError {
        StepError::Nix { step: self, source }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Evaluate => "evaluate the packages",
            Self::Realise => "build the packages",
            Self::Graph => "read the reference graph of the packages",
        })
    }
}

/// Why the closure of packages could not be determined.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Nix failed.
    #[error("cannot {step}")]
    Nix {
        /// The step that failed.
        step: Step,
        /// Nix's error.
        #[source]
        source: NixError,
    },
    /// The directory for GC roots cannot be created.
    #[error("cannot create a directory for GC roots")]
    GcRoots(#[source] io::Error),
}

/// Evaluates packages, builds or downloads them, and returns their closure. Packs and stores
/// nothing.
///
/// `entered` is called with each step that begins. While the future runs, `work_dir` has GC roots
/// in it.
///
/// # Errors
/// A step failed.
pub async fn reference_graph(
    nix: &dyn Nix,
    request: &EvaluationRequest,
    work_dir: &Path,
    log: &BuildLog,
    entered: &mut (dyn FnMut(Step) + Send),
) -> Result<ReferenceGraph, StepError> {
    entered(Step::Evaluate);
    let evaluation = nix.evaluate(request, log).await;
    let evaluation = evaluation.map_err(|error| Step::Evaluate.failed(error))?;
    let gc_roots = tempfile::tempdir_in(work_dir).map_err(StepError::GcRoots)?;
    entered(Step::Realise);
    let packages = nix.realise(&evaluation, gc_roots.path(), log).await;
    let packages = packages.map_err(|error| Step::Realise.failed(error))?;
    entered(Step::Graph);
    graph(nix, &packages, log).await
}

/// Returns the closure of packages that are built.
pub(crate) async fn graph(
    nix: &dyn Nix,
    packages: &[RealisedPackage],
    log: &BuildLog,
) -> Result<ReferenceGraph, StepError> {
    let roots: Vec<_> = packages
        .iter()
        .map(|package| package.path.clone())
        .collect();
    let graph = nix.reference_graph(&roots, log).await;
    graph.map_err(|error| Step::Graph.failed(error))
}
