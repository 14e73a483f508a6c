//! Errors of cluster plans.

/// Why a cluster plan was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterPlanError {
    /// The bytes are not zstd, or damaged.
    #[error(
        "this is not a cluster plan, or it is damaged. Fix: make one with `nixery lab plan build`"
    )]
    Damaged(#[source] std::io::Error),
    /// The compressed text is not a plan.
    #[error("this is not a cluster plan: its first line must be `nixery cluster plan 1`")]
    NotAPlan,
    /// A later version of the program wrote it.
    #[error(
        "the cluster plan has format {found:?}, but this program reads format 1. Fix: make one with this program's `nixery lab plan build`"
    )]
    Version {
        /// The format's number as written.
        found: String,
    },
    /// It is longer than any package set needs.
    #[error("the cluster plan is too large: at most 16 MiB, and 64 MiB uncompressed, are allowed")]
    TooLarge,
    /// Further bytes follow the end.
    #[error("the cluster plan has {bytes} bytes after its end")]
    Trailing {
        /// The number of further bytes.
        bytes: usize,
    },
    /// A line breaks a rule of the format.
    #[error("line {line} of the cluster plan is invalid: {rule}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// It was made from no images.
    #[error("a cluster plan needs at least one sample")]
    NoSamples,
    /// The revision does not fit in a line.
    #[error("a cluster plan's revision must be one line of at most 1000 bytes")]
    Revision,
    /// A name is invalid.
    #[error(
        "{name:?} cannot be a package's name: at most 211 letters, digits and any of +-._?= are allowed"
    )]
    Name {
        /// The name, cut to 300 characters.
        name: String,
    },
    /// A name comes twice.
    #[error("the package `{name}` is in the cluster plan twice")]
    Repeated {
        /// The name.
        name: String,
    },
    /// A cluster is not named after its first package in order.
    #[error(
        "the cluster {cluster:?} of the package `{name}` must contain the package {cluster:?}, and no package whose name sorts before it"
    )]
    Cluster {
        /// A package of it.
        name: String,
        /// The cluster as given, cut to 300 characters.
        cluster: String,
    },
    /// A name is in more samples than there are.
    #[error("the package `{name}` is in {samples} samples, but the plan was made from {all}")]
    Samples {
        /// The name.
        name: String,
        /// Its samples.
        samples: u32,
        /// All samples.
        all: u32,
    },
}
