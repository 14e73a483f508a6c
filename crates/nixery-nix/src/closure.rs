//! The reference graph of named packages: what would be in an image of them.

use std::fmt;
use std::io;
use std::path::Path;

use nixery_core::{ImageName, ReferenceGraph, ResolvedSource};

use crate::build_log::BuildLog;
use crate::{EvaluationRequest, Nix, NixError, RealisedPackage};

/// A step from the names of packages to their reference graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nix evaluates the packages to derivations.
    Evaluate,
    /// Nix builds or substitutes them.
    Realise,
    /// The reference graph is read.
    Graph,
}

impl Step {
    /// The error of a step that Nix failed in.
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

/// Why a reference graph could not be made.
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
    /// The directory for GC roots cannot be made.
    #[error("cannot make GC roots")]
    GcRoots(#[source] io::Error),
}

impl EvaluationRequest {
    /// The packages of an image, in its package source at its tag.
    pub fn for_image(name: &ImageName, source: ResolvedSource) -> Self {
        Self {
            source,
            packages: name.packages().to_vec(),
            architecture: name.architecture(),
        }
    }
}

/// The reference graph of packages, which Nix evaluates, and builds or fetches; nothing is packed or stored.
///
/// `entered` is called with each step that begins. While it runs, `work_dir` has GC roots in it.
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

/// The reference graph of packages that are built.
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
