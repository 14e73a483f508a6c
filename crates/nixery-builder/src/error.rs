//! Why a build failed, as texts for clients.

use std::num::NonZeroUsize;
use std::time::Duration;

use nixery_core::{ByteSize, LayerPlanError, PackError, Tag};
use nixery_manifest::Digest;
use nixery_nix::{ClosureError, NixError, PackageError};
use nixery_storage::{Operation, StorageError};

use crate::progress::Phase;

/// Why an image could not be built.
///
/// `Display` is a text for the client. It has no paths of the server other than store paths; such
/// details are in [`std::error::Error::source`], for the server's log. The enum is exhaustive on
/// purpose: code that maps errors to statuses must decide about a new one.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A package of the image, or their source, is at fault.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The package source has no such tag.
    #[error(
        "the package source has no tag `{tag}`. Fix: use {}, or the version of the first package",
        describe_tags(tags)
    )]
    UnknownTag {
        /// The tag.
        tag: Tag,
        /// The tags that are known to exist.
        tags: Vec<Tag>,
    },
    /// The tag asserts a version of a package that it does not have.
    #[error("the package `{package}` has {} not {asserted}. Fix: pull {}", describe_version(version.as_deref()), describe_image(image, tag.as_ref()))]
    OtherVersion {
        /// The package as requested.
        package: String,
        /// The version in the tag.
        asserted: String,
        /// The version that the package has, if it has one.
        version: Option<String>,
        /// The tag of that version, if it can be one.
        tag: Option<Tag>,
        /// The name of the image as requested.
        image: String,
    },
    /// A phase took longer than it may.
    #[error("the build did not finish in time: {} was stopped after {} s. Fix: pull the image again, or ask the operator to {}", phase.describe(), after.as_secs_f32().ceil(), raise_time_limit(*phase))]
    TimedOut {
        /// The phase that was stopped.
        phase: Phase,
        /// How long it ran.
        after: Duration,
        /// The last lines of output.
        log_tail: Vec<String>,
    },
    /// The name lists more packages than the server allows.
    #[error(
        "the image name lists {listed} packages, and the server allows {limit}. Fix: name fewer packages, or ask the operator to raise `NIXERY_MAX_PACKAGES`"
    )]
    TooManyPackages {
        /// How many packages the name lists.
        listed: usize,
        /// How many it may list.
        limit: NonZeroUsize,
    },
    /// The evaluation of the packages needs more memory than the server allows.
    #[error(
        "the evaluation of the packages needed more than {limit} of memory. Fix: name fewer packages, or ask the operator to raise `NIXERY_EVAL_MEMORY`"
    )]
    EvaluationMemory {
        /// What an evaluation is allowed.
        limit: ByteSize,
    },
    /// The store paths of the image are larger than the server allows.
    #[error(
        "the packages and all that they depend on take {size} unpacked, more than the {limit} that the server allows for an image. The largest parts are {}. Fix: leave out the packages that need them, or ask the operator to raise `NIXERY_MAX_CLOSURE_SIZE`",
        describe_parts(largest)
    )]
    ClosureTooLarge {
        /// The size of all store paths.
        size: ByteSize,
        /// How large they may be.
        limit: ByteSize,
        /// The names of the largest store paths with their sizes, the largest first.
        largest: Vec<(String, ByteSize)>,
    },
    /// The compressed layers of the image are larger than the server allows.
    #[error(
        "the layers of the image take at least {size} compressed, more than the {limit} that the server allows. Fix: name fewer packages, or ask the operator to raise `NIXERY_MAX_IMAGE_SIZE`"
    )]
    ImageTooLarge {
        /// The size of the layers that were known when the image was refused.
        size: ByteSize,
        /// How large all layers may be.
        limit: ByteSize,
    },
    /// Nix cannot work on this server.
    #[error("the server cannot run Nix now: {}", nix_problem(.0))]
    Unavailable(#[source] NixError),
    /// Too many builds run or wait.
    #[error("the server has {waiting} other images to build. Fix: pull this image again later")]
    Busy {
        /// Builds that run or wait.
        waiting: usize,
    },
    /// The client has started too many builds that run or wait.
    #[error(
        "the server already has {waiting} other images to build for you. Fix: pull this image again when some of them are built"
    )]
    QuotaExceeded {
        /// Builds of the client that run or wait.
        waiting: usize,
    },
    /// The layer strategy broke its contract.
    #[error(
        "the layer strategy `{strategy}` returned an invalid plan: {violation}. Fix: configure another strategy, or correct this one"
    )]
    InvalidPlan {
        /// The strategy's id.
        strategy: String,
        /// What is wrong with its plan.
        violation: LayerPlanError,
    },
    /// A store path cannot be packed into a layer.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The blob store failed.
    #[error("the server's blob store failed while the image was being {doing}")]
    Storage {
        /// What was being done: "stored", "looked up".
        doing: &'static str,
        /// The backend's error, for the server's log.
        #[source]
        source: StorageError,
    },
    /// A stored manifest does not match its digest. It is deleted in the background.
    #[error("the stored copy of {digest} is damaged: it does not match its digest")]
    Damaged {
        /// The manifest.
        digest: Digest,
    },
    /// The server's own disk failed.
    #[error("the server could not {action}")]
    Spool {
        /// What it tried: "create a spool file".
        action: &'static str,
        /// The system's error, for the server's log.
        #[source]
        source: std::io::Error,
    },
    /// A disk of the server is almost full.
    #[error(
        "the server builds no more images, because its {place} is short of {missing}. Fix: pull an image that is built already, or ask the operator to free some space"
    )]
    DiskFull {
        /// What is on the disk: "blob store".
        place: &'static str,
        /// What is almost used up: "disk space", "inodes".
        missing: &'static str,
    },
    /// A defect of Nixery itself.
    #[error("the build stopped because of a defect of the server: {what}")]
    Internal {
        /// What did not hold.
        what: String,
    },
}

impl BuildError {
    /// Returns a stable word for the kind of failure, for logs, metrics and URLs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Package(error) => error.kind(),
            Self::UnknownTag { .. } => "unknown-tag",
            Self::OtherVersion { .. } => "other-version",
            Self::TimedOut { .. } => "timed-out",
            Self::TooManyPackages { .. } => "too-many-packages",
            Self::EvaluationMemory { .. } => "evaluation-out-of-memory",
            Self::ClosureTooLarge { .. } => "closure-too-large",
            Self::ImageTooLarge { .. } => "image-too-large",
            Self::Unavailable(_) => "nix-unavailable",
            Self::Busy { .. } => "busy",
            Self::QuotaExceeded { .. } => "quota-exceeded",
            Self::InvalidPlan { .. } => "invalid-layer-plan",
            Self::Pack(_) => "packing-failed",
            Self::Storage { .. } => "storage-failed",
            Self::Damaged { .. } => "damaged-blob",
            Self::Spool { .. } => "disk-failed",
            Self::DiskFull { .. } => "disk-almost-full",
            Self::Internal { .. } => "internal-error",
        }
    }

    /// Returns the failure as words that need no escaping in a URL, such as `git:builder-exited-1`:
    /// at most 120 bytes of `[A-Za-z0-9._+:-]`.
    ///
    /// containerd prints only the status and the URL of a failed request, so the URL has the
    /// reason.
    pub fn slug(&self) -> String {
        let slug = match self {
            Self::Package(PackageError::NotFound { packages }) => {
                format!("{}:not-found", packages.join("+"))
            }
            Self::Package(PackageError::Failed {
                package, reason, ..
            }) => format!("{package}:{reason}"),
            Self::TimedOut { phase, after, .. } => {
                format!("{phase}:timed-out-after-{}s", after.as_secs_f32().ceil())
            }
            error => match error.package() {
                Some(package) => format!("{package}:{}", error.kind()),
                None => error.kind().to_owned(),
            },
        };
        url_words(&slug)
    }

    /// Returns the last lines of the package builder's output, if there are any.
    pub fn log_tail(&self) -> &[String] {
        match self {
            Self::Package(PackageError::Failed { log_tail, .. })
            | Self::TimedOut { log_tail, .. } => log_tail,
            _ => &[],
        }
    }

    /// Returns the package that is at fault, if it is a single one.
    pub fn package(&self) -> Option<&str> {
        match self {
            Self::Package(error) => error.package(),
            Self::OtherVersion { package, .. } => Some(package),
            _ => None,
        }
    }

    /// Converts an error of Nix in one phase.
    pub(crate) fn from_nix(error: NixError, phase: Phase) -> Self {
        match error {
            NixError::Package(error) => Self::Package(error),
            NixError::TimedOut { after, log_tail } => Self::TimedOut {
                phase,
                after,
                log_tail,
            },
            NixError::EvaluationMemory { limit } => Self::EvaluationMemory { limit },
            error => Self::Unavailable(error),
        }
    }

    pub(crate) fn no_gc_roots(source: std::io::Error) -> Self {
        Self::Spool {
            action: "protect the packages from the garbage collection of Nix",
            source,
        }
    }

    pub(crate) fn looked_up(source: StorageError) -> Self {
        Self::Storage {
            doing: "looked up",
            source,
        }
    }

    pub(crate) fn stored(source: StorageError) -> Self {
        Self::Storage {
            doing: "stored",
            source,
        }
    }

    /// The store refuses to be written to, so that no image can be built.
    pub(crate) fn read_only(backend: &'static str) -> Self {
        Self::stored(StorageError::Denied {
            backend,
            operation: Operation::Write,
            target: "an image".to_owned(),
            source: "it was read-only when it was last checked".into(),
        })
    }

    pub(crate) fn internal(what: impl std::fmt::Display) -> Self {
        Self::Internal {
            what: what.to_string(),
        }
    }
}

impl From<ClosureError> for BuildError {
    fn from(error: ClosureError) -> Self {
        match error {
            ClosureError::Nix { step, source } => Self::from_nix(source, step.into()),
            ClosureError::GcRoots(source) => Self::no_gc_roots(source),
            error => Self::internal(error),
        }
    }
}

/// Returns what the operator can do about a phase that takes too long, as the end of a sentence.
fn raise_time_limit(phase: Phase) -> String {
    match phase.time_limit() {
        Some(setting) => format!("raise `{setting}`"),
        None => "look for the cause in the log".to_owned(),
    }
}

/// Returns tags as the beginning of a list: "`latest`, `2.39.5`".
fn describe_tags(tags: &[Tag]) -> String {
    let tags: Vec<_> = tags.iter().map(|tag| format!("`{tag}`")).collect();
    tags.join(", ")
}

/// Returns which version a package has, before "not …".
fn describe_version(version: Option<&str>) -> String {
    match version {
        Some(version) => format!("the version {version} here,"),
        None => "no version here, so".to_owned(),
    }
}

/// Returns how to pull an image at the version of its package.
fn describe_image(image: &str, tag: Option<&Tag>) -> String {
    match tag {
        Some(tag) => format!("`{image}:{tag}`, or without a tag"),
        None => format!("`{image}` without a tag"),
    }
}

/// Returns store paths with their sizes as a list for a message: "`a` (2 GB), `b` (1 GB)".
fn describe_parts(parts: &[(String, ByteSize)]) -> String {
    let parts = parts
        .iter()
        .map(|(name, size)| format!("`{name}` ({size})"));
    parts.collect::<Vec<_>>().join(", ")
}

/// Returns the text for clients about an error of Nix itself.
fn nix_problem(error: &NixError) -> String {
    match error {
        NixError::Unavailable { .. } | NixError::Killed { .. } => error.to_string(),
        NixError::Process { .. } => "its programs cannot be started".to_owned(),
        _ => "its output is invalid".to_owned(),
    }
}

/// Most bytes of a slug, as terminals show a URL on one line.
const SLUG_MAX: usize = 120;

fn url_words(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || "._+:-".contains(c) {
            words.push(c);
        } else if !words.ends_with('-') {
            words.push('-');
        }
        if words.len() == SLUG_MAX {
            break;
        }
    }
    words.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[rstest]
    #[case(PackageError::NotFound { packages: names(&["nope"]) }, "the package set has no package `nope`", "nope:not-found")]
    #[case(
        PackageError::NotFound { packages: names(&["a", "b", "c"]) },
        "the package set has no packages `a`, `b` and `c`",
        "a+b+c:not-found"
    )]
    #[case(
        PackageError::Failed {
            package: "git".into(),
            derivation: "/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-pcre-1.drv".into(),
            reason: "builder-exited-1".into(),
            log_tail: vec![]
        },
        "package `git` failed to build: its builder exited with code 1 (/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-pcre-1.drv)",
        "git:builder-exited-1"
    )]
    #[case(
        BuildError::TimedOut { phase: Phase::Realise, after: Duration::from_millis(59_200), log_tail: vec![] },
        "the build did not finish in time: building the packages was stopped after 60 s. Fix: pull the image again, or ask the operator to raise `NIX_TIMEOUT`",
        "realise:timed-out-after-60s"
    )]
    #[case(
        BuildError::TimedOut { phase: Phase::Evaluate, after: Duration::from_secs(300), log_tail: vec![] },
        "the build did not finish in time: evaluating the Nix code of the packages was stopped after 300 s. Fix: pull the image again, or ask the operator to raise `NIXERY_EVAL_TIMEOUT`",
        "evaluate:timed-out-after-300s"
    )]
    #[case(
        BuildError::UnknownTag {
            tag: Tag::parse("nonsense").expect("a tag"),
            tags: vec![Tag::latest(), Tag::parse("nixos-26.05").expect("a tag")],
        },
        "the package source has no tag `nonsense`. Fix: use `latest`, `nixos-26.05`, or the version of the first package",
        "unknown-tag"
    )]
    #[case(
        BuildError::TooManyPackages { listed: 12, limit: NonZeroUsize::MIN },
        "the image name lists 12 packages, and the server allows 1. Fix: name fewer packages, or ask the operator to raise `NIXERY_MAX_PACKAGES`",
        "too-many-packages"
    )]
    #[case(
        BuildError::from_nix(NixError::EvaluationMemory { limit: ByteSize(4_000_000_000) }, Phase::Evaluate),
        "the evaluation of the packages needed more than 4.0 GB of memory. Fix: name fewer packages, or ask the operator to raise `NIXERY_EVAL_MEMORY`",
        "evaluation-out-of-memory"
    )]
    #[case(
        BuildError::ClosureTooLarge {
            size: ByteSize(5_000_000_000),
            limit: ByteSize(1_000_000_000),
            largest: vec![("ghc-9.4".into(), ByteSize(3_000_000_000)), ("gcc-12".into(), ByteSize(500_000_000))],
        },
        "the packages and all that they depend on take 5.0 GB unpacked, more than the 1.0 GB that the server allows for an image. The largest parts are `ghc-9.4` (3.0 GB), `gcc-12` (500.0 MB). Fix: leave out the packages that need them, or ask the operator to raise `NIXERY_MAX_CLOSURE_SIZE`",
        "closure-too-large"
    )]
    #[case(
        BuildError::ImageTooLarge { size: ByteSize(2_000_000), limit: ByteSize(1_000_000) },
        "the layers of the image take at least 2.0 MB compressed, more than the 1.0 MB that the server allows. Fix: name fewer packages, or ask the operator to raise `NIXERY_MAX_IMAGE_SIZE`",
        "image-too-large"
    )]
    #[case(
        PackageError::NotDerivation { package: "lib?&#/ \u{e9}x".into(), found: "a set".into() },
        "`lib?&#/ \u{e9}x` is a set, not a package. Fix: name one of its attributes, or another package",
        "lib-x:not-a-package"
    )]
    fn messages_and_slugs(
        #[case] error: impl Into<BuildError>,
        #[case] message: &str,
        #[case] slug: &str,
    ) {
        let error = error.into();
        assert_eq!(error.to_string(), message);
        assert_eq!(error.slug(), slug);
    }

    /// The server logs a message with its sources, so no text may occur twice.
    #[test]
    fn the_text_of_a_packing_error_occurs_once() {
        let path = "/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-x".into();
        let source = std::io::Error::other("the system's reason");
        let error = BuildError::from(PackError::Unreadable {
            action: "read the file",
            path,
            source,
        });
        assert!(error.to_string().starts_with("cannot read the file"));
        let source = std::error::Error::source(&error).expect("is kept");
        assert_eq!(source.to_string(), "the system's reason");
    }

    #[test]
    fn a_slug_is_bounded() {
        let packages = (0..200).map(|n| format!("package{n}")).collect();
        let error = BuildError::from(PackageError::NotFound { packages });
        assert!(error.slug().len() <= SLUG_MAX);
    }
}
