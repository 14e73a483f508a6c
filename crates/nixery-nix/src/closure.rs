//! The closure of named packages: the paths that an image of them would have.

use std::path::Path;
use std::{fmt, io};

use nixery_core::ReferenceGraph;

use crate::build_log::BuildLog;
use crate::{Evaluation, EvaluationRequest, Nix, NixError};

/// A step from the names of packages to their closure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosureStep {
    /// Nix evaluates the packages to derivations.
    Evaluate,
    /// Nix builds or downloads them.
    Realise,
    /// Nix returns their reference graph.
    Graph,
}

impl ClosureStep {
    /// Returns the error of a step that Nix failed in.
    pub(crate) fn failed(self, source: NixError) -> ClosureError {
        ClosureError::Nix { step: self, source }
    }
}

impl fmt::Display for ClosureStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Evaluate => "evaluate the Nix code of the packages",
            Self::Realise => "build the packages",
            Self::Graph => "read the reference graph of the packages",
        })
    }
}

/// Why the closure of packages could not be determined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClosureError {
    /// Nix failed.
    #[error("cannot {step}")]
    Nix {
        /// The step that failed.
        step: ClosureStep,
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
pub async fn package_closure(
    nix: &dyn Nix,
    request: &EvaluationRequest,
    work_dir: &Path,
    log: &BuildLog,
    entered: &mut (dyn FnMut(ClosureStep) + Send),
) -> Result<ReferenceGraph, ClosureError> {
    entered(ClosureStep::Evaluate);
    let evaluation = nix.evaluate(request, log).await;
    let evaluation = evaluation.map_err(|error| ClosureStep::Evaluate.failed(error))?;
    let gc_roots = tempfile::tempdir_in(work_dir).map_err(ClosureError::GcRoots)?;
    entered(ClosureStep::Realise);
    let realised = nix.realise(&evaluation, gc_roots.path(), log).await;
    realised.map_err(|error| ClosureStep::Realise.failed(error))?;
    entered(ClosureStep::Graph);
    graph(nix, &evaluation, log).await
}

/// Returns the closure of packages that are built.
pub(crate) async fn graph(
    nix: &dyn Nix,
    realised: &Evaluation,
    log: &BuildLog,
) -> Result<ReferenceGraph, ClosureError> {
    let graph = nix.reference_graph(&realised.store_paths(), log).await;
    graph.map_err(|error| ClosureStep::Graph.failed(error))
}
