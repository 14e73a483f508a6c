//! What Nixery asks of Nix, as the trait [`Nix`], and its implementation with the Nix command-line
//! tools, [`NixCli`].
//!
//! The Nix code that the tools evaluate is in `nix/` and is built into this crate. What Nix prints
//! is collected in a [`BuildLog`], and its failures become [`NixError`]s fit for clients.
//! [`reference_graph`] finds out what named packages need at run time, and [`every_package`] does
//! so for a whole package set.

mod answer;
mod build_log;
mod cli;
mod closure;
mod code;
mod command;
mod failure;
mod listing;
mod log_format;
mod messages;
mod operations;
mod package_set;
mod preflight;
mod spool;
mod store;
mod words;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use nixery_core::{Architecture, GraphError, ReferenceGraph, ResolvedSource, StorePath, StoreRoot};

pub use build_log::BuildLog;
pub use cli::{
    DEFAULT_EVALUATE_TIMEOUT, DEFAULT_REALISE_TIMEOUT, NixCli, NixCliConfig, NixCliError,
};
pub use closure::{Step, StepError, reference_graph};
pub use messages::describe_reason;
pub use package_set::{PackageSetEvent, batches, every_package};
pub use spool::InstanceDir;
pub use store::{NixStore, NixStoreError};
pub use words::hide_credentials;

/// Everything the builder asks of Nix.
///
/// Calls may be dropped at any time; what they started is then stopped.
#[async_trait]
pub trait Nix: Send + Sync + std::fmt::Debug {
    /// Finds the packages and instantiates their derivations.
    ///
    /// # Errors
    /// [`NixError::NotFound`] with every missing name, [`NixError::NotDerivation`],
    /// [`NixError::Evaluation`], [`NixError::TimedOut`], or Nix cannot run.
    async fn evaluate(
        &self,
        request: &EvaluationRequest,
        log: &BuildLog,
    ) -> Result<Evaluation, NixError>;

    /// Builds or substitutes the packages and roots them below the directory `gc_roots`, which
    /// exists. While those links exist nothing of the closure is garbage-collected.
    ///
    /// # Errors
    /// [`NixError::Failed`] when a derivation failed, [`NixError::TimedOut`], or Nix cannot run.
    async fn realise(
        &self,
        evaluation: &Evaluation,
        gc_roots: &Path,
        log: &BuildLog,
    ) -> Result<Vec<RealisedPackage>, NixError>;

    /// The runtime closure of `roots`.
    ///
    /// # Errors
    /// A root is not in the store, or Nix's answer does not parse.
    async fn reference_graph(
        &self,
        roots: &[StorePath],
        log: &BuildLog,
    ) -> Result<ReferenceGraph, NixError>;

    /// Tries Nix out and says what is wrong with it here. Empty when all is well.
    async fn preflight(&self) -> Vec<Finding>;

    /// Where the store's files are on this machine.
    fn store_root(&self) -> &StoreRoot;
}

/// Packages to find in one package source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluationRequest {
    /// Where to look.
    pub source: ResolvedSource,
    /// What to look for.
    pub packages: Vec<String>,
    /// What it shall run on.
    pub architecture: Architecture,
}

/// Instantiated packages, in the order they were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// One per requested package.
    pub packages: Vec<EvaluatedPackage>,
}

impl Evaluation {
    /// The packages, once they are built.
    fn into_realised(self) -> Vec<RealisedPackage> {
        let packages = self.packages.into_iter();
        packages
            .map(|package| RealisedPackage {
                name: package.name,
                path: package.store_path,
            })
            .collect()
    }
}

/// A package that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluatedPackage {
    /// The name it was asked for by.
    pub name: String,
    /// The attribute that was found for it, which may differ in case.
    pub attribute: String,
    /// Store path of its derivation, `/nix/store/….drv`.
    pub derivation: String,
    /// The output that is wanted: `out`, or another by the derivation's choice.
    pub output: String,
    /// Store path of that output.
    pub store_path: StorePath,
}

/// A package that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealisedPackage {
    /// The name it was asked for by.
    pub name: String,
    /// The output's store path.
    pub path: StorePath,
}

/// Something that will keep Nix from working here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong, in one line.
    pub problem: String,
    /// How to mend it, in one line.
    pub remedy: String,
    /// Whether no build can succeed before it is mended.
    pub fatal: bool,
}

/// Why Nix did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NixError {
    /// The package set has no such attributes.
    #[error("not in the package set: {}", packages.join(", "))]
    NotFound {
        /// Every missing package, sorted.
        packages: Vec<String>,
    },
    /// An attribute is not a derivation.
    #[error("`{package}` is {found}, not a derivation")]
    NotDerivation {
        /// The package as requested.
        package: String,
        /// What it is, with its article: "a function".
        found: String,
    },
    /// Evaluation failed.
    #[error("evaluation failed{}: {message}", package.as_ref().map(|p| format!(" at `{p}`")).unwrap_or_default())]
    Evaluation {
        /// The package being evaluated, where the trace names one.
        package: Option<String>,
        /// Nix's message without its trace, colours and paths of the server.
        message: String,
    },
    /// The package set could not be fetched.
    #[error("cannot fetch the package source: {message}")]
    Source {
        /// Nix's or git's message.
        message: String,
    },
    /// A derivation failed.
    #[error("{derivation}: {reason}")]
    Failed {
        /// The requested package, where known, else the derivation's name.
        package: String,
        /// Store path of the derivation that failed.
        derivation: String,
        /// What happened, as one word for URLs.
        reason: String,
        /// The last lines of that builder's output.
        log_tail: Vec<String>,
    },
    /// Nix was stopped because it took too long.
    #[error("stopped after {} s", after.as_secs())]
    TimedOut {
        /// How long it ran.
        after: Duration,
        /// The last lines of output.
        log_tail: Vec<String>,
    },
    /// Nix cannot work here: no daemon, no access, disk full.
    #[error("{problem}")]
    Unavailable {
        /// What is wrong, in one line fit for clients.
        problem: String,
        /// Nix's own message, for the server's log.
        detail: String,
    },
    /// A Nix command could not be started or watched.
    #[error("cannot {action}")]
    Process {
        /// What was tried: "run nix-store".
        action: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A Nix command printed something unexpected.
    #[error("unexpected output of {command}: {problem}")]
    Output {
        /// The command.
        command: &'static str,
        /// What is wrong with its output.
        problem: String,
    },
    /// The reference graph does not hold together.
    #[error("the reference graph Nix printed is not usable")]
    Graph(#[source] GraphError),
}
