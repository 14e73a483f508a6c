//! What can be wrong with a plan.

/// Why a cluster plan was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterPlanError {
    /// The bytes are not zstd, or damaged.
    #[error("this is not a cluster plan, or it is damaged: make one with 'nixery lab plan build'")]
    Damaged(#[source] std::io::Error),
    /// What is compressed is something else.
    #[error("this is not a cluster plan: its first line must be 'nixery cluster plan 1'")]
    NotAPlan,
    /// A later program wrote it.
    #[error(
        "this is a cluster plan of format {found:?}, and this program reads format 1: make one with its own 'nixery lab plan build'"
    )]
    Version {
        /// The format's number as written.
        found: String,
    },
    /// It is longer than any package set needs.
    #[error("the cluster plan is too large: at most 16 MiB, and 64 MiB uncompressed, are allowed")]
    TooLarge,
    /// Something stands behind the end.
    #[error("the cluster plan has {bytes} bytes behind its end")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A line is not as the format says.
    #[error("line {line} of the cluster plan is wrong: {rule}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What it should be.
        rule: LineRule,
    },
    /// It was made from nothing.
    #[error("a cluster plan needs at least one sample")]
    NoSamples,
    /// The revision does not fit in a line.
    #[error("a cluster plan's revision must be one line of at most 1000 bytes")]
    Revision,
    /// A name is none.
    #[error(
        "{name:?} cannot be a package's name: at most 211 letters, digits and any of +-._?= are allowed"
    )]
    Name {
        /// The name, cut to 300 characters.
        name: String,
    },
    /// A name comes twice.
    #[error("the package {name} is in the cluster plan twice")]
    Repeated {
        /// The name.
        name: String,
    },
    /// A cluster is not named for its least name.
    #[error(
        "the cluster {cluster:?} of the package {name} is not named for its least name, or lacks it"
    )]
    Cluster {
        /// A package of it.
        name: String,
        /// The cluster as given, cut to 300 characters.
        cluster: String,
    },
    /// A name is in more samples than there are.
    #[error("the package {name} is in {samples} samples, but the plan was made from {all}")]
    Samples {
        /// The name.
        name: String,
        /// Its samples.
        samples: u32,
        /// All samples.
        all: u32,
    },
}

/// What a line of a plan must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineRule {
    /// The second line.
    #[error("it must be 'revision ' and a text")]
    Revision,
    /// The third line.
    #[error("it must be 'samples ' and a whole number")]
    Samples,
    /// The others: a cluster each.
    #[error(
        "it must be the cluster's names, sorted, each with its samples, all divided by one space"
    )]
    Cluster,
    /// Clusters are in order.
    #[error("clusters must be sorted by their first name")]
    Order,
    /// Every line ends.
    #[error("it must end with a line feed")]
    End,
}
