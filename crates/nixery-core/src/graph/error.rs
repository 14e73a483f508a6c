//! Why a reference graph was refused.

use crate::json_error::JsonError;
use crate::nar_hash::NarHashError;
use crate::store_path::StorePathError;

/// Why a reference graph was refused. The variants name the path concerned, where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Not JSON, or not of the expected shape; the source says where. This includes sizes that are
    /// negative, fractional or over 2^64 − 1.
    #[error("the reference graph is not the JSON that Nix writes")]
    Malformed(#[source] JsonError),
    /// The JSON is neither of the two kinds that describe a closure.
    #[error("the JSON describes no closure. Fix: use `nix path-info --json --recursive`")]
    UnknownJson,
    /// Roots are given for a graph that names its own.
    #[error("roots cannot be given for a reference graph, which has its own. Fix: leave them out")]
    RootsNotAllowed,
    /// An entry or root is not a store path.
    #[error("the reference graph has a path that is not a store path")]
    Path(#[source] StorePathError),
    /// An entry's NAR hash cannot be read.
    #[error("the NAR hash of {path} cannot be read")]
    Hash {
        /// The entry's path.
        path: String,
        /// What is wrong with the hash.
        #[source]
        source: NarHashError,
    },
    /// An entry has no `narSize`.
    #[error("{path} has no `narSize` in the reference graph")]
    MissingSize {
        /// The entry's path.
        path: String,
    },
    /// Nix says that it does not have the path.
    #[error("{path} is not in the Nix store. Fix: build it first")]
    NotValid {
        /// The path.
        path: String,
    },
    /// Two entries describe one path differently. Entries that agree in everything count as one.
    #[error("{path} is in the reference graph twice, with different contents")]
    Conflict {
        /// The path.
        path: String,
    },
    /// A path refers to one that has no entry.
    #[error(
        "{path} refers to {reference}, which is not in the reference graph. Fix: give the whole closure, for example with `nix path-info --recursive`"
    )]
    MissingReference {
        /// The path that refers.
        path: String,
        /// The path without entry.
        reference: String,
    },
    /// A root has no entry.
    #[error("the root {root} is not in the reference graph")]
    MissingRoot {
        /// The root.
        root: String,
    },
    /// A list names one path at two places.
    #[error("{path} is in the list twice")]
    Twice {
        /// The path.
        path: String,
    },
    /// A reference or root is a number that is not a position in the list of paths.
    #[error("a reference or root names path {place}, but there are only {count}, counted from 0")]
    NoSuchPlace {
        /// The number.
        place: u32,
        /// How many there are.
        count: usize,
    },
    /// More paths than indices: 2^32 − 1 are supported.
    #[error("the reference graph has {count} paths, which is more than this program supports")]
    TooManyPaths {
        /// How many there are.
        count: usize,
    },
}
