//! Access to Nix: the trait [`Nix`], and [`NixCli`], which implements it with the Nix command-line
//! tools.
//!
//! The Nix code that the tools evaluate is in `nix/` and is built into this crate. What Nix prints
//! is collected in a [`BuildLog`], and its failures become [`NixError`]s that clients can be shown.
//! [`package_closure`] evaluates and builds packages and returns their closure, and
//! [`every_package`] builds a whole package set and reports its closures.

mod answer;
mod build_log;
mod cli;
mod client_text;
mod closure;
mod code;
mod command;
mod environment;
mod error;
mod evaluation;
mod failure;
mod fetched;
mod fetching;
mod git;
mod log_format;
mod messages;
mod operations;
mod package_set;
mod preflight;
mod secrets;
mod spool;
mod store;

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use nixery_core::manifest::Digest;
use nixery_core::{
    Architecture, ImageName, ReferenceGraph, ResolvedSource, StorePath, StoreRoot, Tag,
};

pub use build_log::BuildLog;
pub use cli::{
    DEFAULT_EVALUATE_MEMORY, DEFAULT_EVALUATE_TIMEOUT, DEFAULT_REALISE_TIMEOUT, NixCli,
    NixCliConfig, NixCliError,
};
pub use closure::{ClosureError, ClosureStep, package_closure};
pub use environment::{ChildEnvironment, hide_process_memory};
pub use error::{NixError, PackageError};
pub use git::{RefPatternError, RefPatterns};
pub use package_set::{PackageSetEvent, batches, every_package};
pub use secrets::{add_secret, add_secrets_of_environment, hide_secrets};
pub use spool::{InstanceDir, SpoolError};
pub use store::{NixStore, NixStoreError};

pub use nixery_core::hide_credentials;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

/// Evaluates packages, builds them, and returns their closure.
///
/// [`NixCli`] does so with Nix. Another implementation can take the packages from anywhere, if it
/// keeps the contracts of the methods. For an image the builder calls, in this order:
///
/// 1. [`resolve`](Self::resolve), and [`configuration`](Self::configuration) for the key of the
///    image;
/// 2. [`evaluate`](Self::evaluate), where the image is not known for the revision of its source;
/// 3. [`realise`](Self::realise), where no image is stored for the derivations;
/// 4. [`reference_graph`](Self::reference_graph) with the store paths of the packages, while it
///    reads the files of these paths below [`store_root`](Self::store_root) to make the root layer.
///
/// It then reads all paths of the graph below the store root and packs them into layers, as the
/// contents of their NARs. The GC roots last until the layers are stored.
///
/// Methods are called for several images at once; the builder limits how many evaluations and
/// realisations run. The future of a call may be dropped at any time, for example when its client
/// has gone. The implementation then stops what the call has started.
///
/// # The log
/// Lines that are pushed to `log` are shown to clients while the build runs and after it. The log
/// hides the secrets that are known ([`add_secret`]), but the builder removes no others, and no
/// paths of the server.
///
/// # Errors
/// The variant decides how the registry answers. Their texts reach clients, so they must not
/// contain secrets or paths of the server other than store paths. What only the operator may read
/// belongs into [`NixError::Unavailable::detail`](NixError::Unavailable).
///
/// | error | answer of the registry |
/// |---|---|
/// | [`NotFound`](PackageError::NotFound) | 404 `MANIFEST_UNKNOWN` with the missing names |
/// | [`UnknownRevision`](PackageError::UnknownRevision) | 404 `MANIFEST_UNKNOWN` with some branches and tags that exist, unless the tag is a version |
/// | [`NotDerivation`](PackageError::NotDerivation), [`Evaluation`](PackageError::Evaluation), [`Failed`](PackageError::Failed) | 422: the package is at fault; the last URL names it and the reason |
/// | [`Source`](PackageError::Source) | 422: the package source cannot be fetched |
/// | [`TimedOut`](NixError::TimedOut) | 422 with the phase |
/// | [`EvaluationMemory`](NixError::EvaluationMemory) | 422: the packages need more than an evaluation may use |
/// | every other error | 503 with `Retry-After`: the server cannot build now |
///
/// The builder does not store failures: a request that comes later starts again.
#[async_trait]
pub trait Nix: Send + Sync + std::fmt::Debug {
    /// Finds the revision that a source is at now, and checks that images can be built from it.
    ///
    /// A source with a [`revision`](ResolvedSource::revision) never changes, and its images are
    /// cached under its [`src_args`](ResolvedSource::src_args). [`evaluate`](Self::evaluate) is
    /// called with the returned source. By default it is the same: every revision is allowed, and
    /// a source without one is evaluated for each image.
    ///
    /// # Errors
    /// [`PackageError::UnknownRevision`], [`PackageError::Source`], or an error for Nix itself.
    async fn resolve(
        &self,
        source: &ResolvedSource,
        log: &BuildLog,
    ) -> Result<ResolvedSource, NixError> {
        let _ = log;
        Ok(source.clone())
    }

    /// Returns the branches and tags of a source that images can be built from, as far as they are
    /// known without the network: at most `limit`, the newest first.
    ///
    /// By default none are known.
    ///
    /// # Errors
    /// An error for Nix itself.
    async fn known_refs(
        &self,
        source: &ResolvedSource,
        limit: usize,
    ) -> Result<Vec<Tag>, NixError> {
        let _ = (source, limit);
        Ok(Vec::new())
    }

    /// Returns a digest of everything that the evaluation of a source depends on besides the
    /// source, such as variables of this server. It is part of the key of images that are found by
    /// their revision.
    ///
    /// By default an evaluation depends on the source alone.
    fn configuration(&self, source: &ResolvedSource) -> Option<Digest> {
        let _ = source;
        None
    }

    /// Finds the packages in the package set and determines their store paths, without building
    /// them.
    ///
    /// The answer has exactly one package for each requested name, in the same order.
    /// [`derivation`](EvaluatedPackage::derivation) and [`output`](EvaluatedPackage::output)
    /// identify the contents of a package: images are cached under them, so they must change
    /// whenever the contents or the references of the package change.
    ///
    /// # Errors
    /// [`PackageError::NotFound`] with every missing name, also if other packages are invalid;
    /// [`PackageError::NotDerivation`], [`PackageError::Evaluation`], [`PackageError::Source`],
    /// [`NixError::TimedOut`], [`NixError::EvaluationMemory`], or an error for Nix itself.
    async fn evaluate(
        &self,
        request: &EvaluationRequest,
        log: &BuildLog,
    ) -> Result<Evaluation, NixError>;

    /// Builds or downloads the packages, and protects their closures from garbage collection.
    ///
    /// `gc_roots` is an empty directory, into which `NixCli` puts GC roots. Until the directory is
    /// deleted, no path of the closures may be removed from the store or changed.
    ///
    /// The [store paths](EvaluatedPackage::store_path) of the packages and all that they refer to
    /// are then readable below [`store_root`](Self::store_root).
    ///
    /// # Errors
    /// [`PackageError::Failed`] when a derivation failed, [`NixError::TimedOut`], or an error for
    /// Nix itself.
    async fn realise(
        &self,
        evaluation: &Evaluation,
        gc_roots: &Path,
        log: &BuildLog,
    ) -> Result<(), NixError>;

    /// Returns the runtime closure of store paths that are in the store.
    ///
    /// The roots of the graph are `roots`. The graph is complete: it has the roots and, for each
    /// of its paths, every path that it refers to. A path that is missing would be missing in the
    /// image. References are those that Nix registers: store paths whose hash part occurs in the
    /// files.
    ///
    /// Each path needs the size of its NAR, by which layers are planned, and the SHA-256 hash of
    /// its NAR, which is part of the key under which its layer is cached. The builder rejects a
    /// path without hash. [`NarHash::of_path`](nixery_core::NarHash::of_path)
    /// computes the hash of files on disk. [`ReferenceGraph::from_list`] makes the graph from
    /// [`ListedPath`](nixery_core::ListedPath)s, and [`ReferenceGraph::from_path_info`] from the
    /// JSON of `nix path-info`.
    ///
    /// # Errors
    /// An error for Nix itself: a root is not in the store, or [`NixError::Graph`] where the
    /// references make no valid graph.
    async fn reference_graph(
        &self,
        roots: &[StorePath],
        log: &BuildLog,
    ) -> Result<ReferenceGraph, NixError>;

    /// Checks whether builds can succeed on this machine, and returns what is wrong. The list is
    /// empty when all is well.
    ///
    /// The server calls it at start, and does not start with a [fatal](Finding::fatal) finding;
    /// then for each request of `/readyz`, with a time limit. The command line calls it after a
    /// build has failed. It should take a second at most and must not use the network.
    async fn preflight(&self) -> Vec<Finding>;

    /// Returns where the files of the store are on this machine: `/nix/store/x` is at
    /// [`StoreRoot::locate`]. It never changes.
    fn store_root(&self) -> &StoreRoot;
}

/// Packages to find in one package source.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EvaluationRequest {
    /// The package source, at one revision where the source has revisions.
    pub source: ResolvedSource,
    /// The packages, as attributes of the package set. `a.b` is `b` in the set `a`.
    ///
    /// Names from clients are in lower case. An implementation looks for the exact name first,
    /// then for one that differs in case, and puts a `_` before a digit at the start.
    pub packages: Vec<String>,
    /// The platform that the packages run on.
    pub architecture: Architecture,
}

impl EvaluationRequest {
    /// Returns a request for named packages.
    pub fn new(source: ResolvedSource, packages: Vec<String>, architecture: Architecture) -> Self {
        Self {
            source,
            packages,
            architecture,
        }
    }

    /// Returns the request for the packages of an image.
    pub fn for_image(name: &ImageName, source: ResolvedSource) -> Self {
        Self::new(source, name.packages().to_vec(), name.architecture())
    }
}

/// Instantiated packages, in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// One per requested package.
    pub packages: Vec<EvaluatedPackage>,
}

impl Evaluation {
    /// Returns the store paths of the packages, which are the roots of their closure.
    pub fn store_paths(&self) -> Vec<StorePath> {
        let packages = self.packages.iter();
        packages.map(|package| package.store_path.clone()).collect()
    }

    /// Returns the versions of the packages that have one, by the names of the request.
    pub fn versions(&self) -> BTreeMap<String, String> {
        let versions = self.packages.iter().filter_map(|package| {
            let version = package.version.clone()?;
            Some((package.name.clone(), version))
        });
        versions.collect()
    }
}

/// A package that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EvaluatedPackage {
    /// The name in the request.
    pub name: String,
    /// The attribute that was found for the name, which may differ in case.
    pub attribute: String,
    /// Store path of its derivation, `/nix/store/….drv`.
    pub derivation: String,
    /// The output that is wanted: `out`, or another that the derivation chooses.
    pub output: String,
    /// Store path of that output.
    pub store_path: StorePath,
    /// The version, if the package has one.
    pub version: Option<String>,
}

impl EvaluatedPackage {
    /// Returns the output `out` of a derivation, for an attribute with the same name as in the
    /// request.
    pub fn new(
        name: impl Into<String>,
        derivation: impl Into<String>,
        store_path: StorePath,
    ) -> Self {
        let name = name.into();
        Self {
            attribute: name.clone(),
            name,
            derivation: derivation.into(),
            output: "out".to_owned(),
            store_path,
            version: None,
        }
    }

    /// Sets the version.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }
}

/// Something that is wrong with Nix on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What is wrong, in one line.
    pub problem: String,
    /// How to fix it, in one line.
    pub remedy: String,
    /// Whether no build can succeed until it is fixed.
    pub fatal: bool,
}

impl Finding {
    /// Returns a finding that is not fatal.
    pub fn warning(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            remedy: remedy.into(),
            fatal: false,
        }
    }

    /// Returns a finding with which no build can succeed.
    pub fn fatal(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            fatal: true,
            ..Self::warning(problem, remedy)
        }
    }
}
