//! Why Nix failed, as texts for clients.

use std::time::Duration;

use nixery_core::{ByteSize, GraphError};

use crate::messages::{describe_packages, describe_reason};

/// Why Nix failed. [`Nix`](crate::Nix) has a table of what each error means for a client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NixError {
    /// Nix works, but these packages or their source do not.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Nix was stopped because it took too long.
    #[error("Nix was stopped after {} s", after.as_secs())]
    TimedOut {
        /// How long it ran.
        after: Duration,
        /// The last lines of output.
        log_tail: Vec<String>,
    },
    /// An evaluation needed more memory than it is allowed.
    #[error("the evaluation needed more than {limit} of memory")]
    EvaluationMemory {
        /// What an evaluation is allowed.
        limit: ByteSize,
    },
    /// Nix does not work on this machine, for example because the disk is full.
    #[error("{problem}")]
    Unavailable {
        /// What is wrong, in one line that clients are shown.
        problem: String,
        /// Nix's own message, which only the server's log shows.
        detail: String,
    },
    /// A command of Nix was killed, or ran out of memory without a limit of its own.
    #[error(
        "`{command}` {cause}. Fix: try again later; the operator can give Nix more memory, or let it evaluate less at once"
    )]
    Killed {
        /// The command.
        command: &'static str,
        /// What ended it, as the end of a sentence: "was killed by SIGKILL, …".
        cause: String,
    },
    /// A program could not be started or waited for, or a file could not be written for it.
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
    /// The references of the paths make no valid graph.
    #[error("the reference graph from Nix is invalid")]
    Graph(#[source] GraphError),
}

/// What is wrong with the packages of a request, or with their source.
///
/// The enum is exhaustive on purpose: code that maps errors to statuses must decide about a new
/// one.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The package set has no such attributes.
    #[error("the package set has no {}", describe_packages(packages))]
    NotFound {
        /// Every missing package as requested, sorted.
        packages: Vec<String>,
    },
    /// An attribute exists but cannot be built.
    #[error(
        "`{package}` is {found}, not a package. Fix: name one of its attributes, or another package"
    )]
    NotDerivation {
        /// The package as requested.
        package: String,
        /// What it is instead, with its article: "a function", "a set".
        found: String,
    },
    /// Nix refused to evaluate a package, or the package set.
    #[error("the Nix code of {} does not evaluate: {message}", match package { Some(p) => format!("package `{p}`"), None => "the package set".to_owned() })]
    Evaluation {
        /// The package with the error, where it is known. Otherwise the package set has the error.
        package: Option<String>,
        /// Nix's message without its trace, colours and paths of the server.
        message: String,
    },
    /// A derivation was built and failed.
    #[error(
        "package `{package}` failed to build: {} ({derivation})",
        describe_reason(reason)
    )]
    Failed {
        /// The requested package that needs the derivation, where it is known, else the name of
        /// the derivation.
        package: String,
        /// Store path of the derivation that failed.
        derivation: String,
        /// What happened, as a word for URLs: `builder-exited-1`, `hash-mismatch`.
        reason: String,
        /// The last lines of that builder's output.
        log_tail: Vec<String>,
    },
    /// The repository of the package set has no such revision, or images cannot be built from it.
    #[error(
        "the package source has no {revision} that images can be built from. Fix: use {}a commit that a branch or tag contains",
        quoted_names(examples)
    )]
    UnknownRevision {
        /// The name of a branch, tag or commit in quotes, or "default branch".
        revision: String,
        /// A few branches and tags that exist.
        examples: Vec<String>,
    },
    /// The package set itself cannot be fetched.
    #[error("the package source cannot be fetched: {message}")]
    Source {
        /// Nix's or git's own message.
        message: String,
    },
}

impl PackageError {
    /// Returns a stable word for the kind of failure, for logs, metrics and URLs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not-found",
            Self::NotDerivation { .. } => "not-a-package",
            Self::Evaluation { .. } => "evaluation-failed",
            Self::Failed { .. } => "build-failed",
            Self::UnknownRevision { .. } => "unknown-revision",
            Self::Source { .. } => "source-unavailable",
        }
    }

    /// Returns the package that is at fault, if it is a single one.
    pub fn package(&self) -> Option<&str> {
        match self {
            Self::NotDerivation { package, .. } | Self::Failed { package, .. } => Some(package),
            Self::Evaluation { package, .. } => package.as_deref(),
            Self::NotFound { .. } | Self::UnknownRevision { .. } | Self::Source { .. } => None,
        }
    }
}

/// Returns the names as the beginning of a list: "`a`, `b` or ".
fn quoted_names(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => String::new(),
        _ => format!("{} or ", names.join(", ")),
    }
}
