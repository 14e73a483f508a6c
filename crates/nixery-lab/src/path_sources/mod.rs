//! Reading about many store paths: from files that describe them, or from a binary cache over HTTP.
//!
//! What is made of it is a [`ReferenceSink`]'s: a [`PopularityCounter`] counts, a [`PathCollection`]
//! gathers what a cluster plan is built from. Here is where their input comes from, and how what takes
//! an hour is interrupted and goes on.

mod cache;
mod files;
mod state;

use std::io;
use std::path::PathBuf;

use crate::reference_sink::ReferenceError;
use nixery_core::GraphError;

pub use cache::{BinaryCache, CacheOptions, CacheProgress, WantedPath};
pub use files::{FoundFiles, add_path};
pub use state::StateFile;

#[cfg(doc)]
use crate::{
    cluster_plan::PathCollection, popularity::PopularityCounter, reference_sink::ReferenceSink,
};

/// Why what was to be read cannot be.
#[derive(Debug, thiserror::Error)]
pub enum PathSourceError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The state cannot be written.
    #[error("cannot write the state to {}", path.display())]
    WriteState {
        /// Where to.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The state file is something else.
    #[error("{} is not a state that an earlier run left: delete it to start anew", path.display())]
    State {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ReferenceError,
    },
    /// A file is of no kind that can be read.
    #[error(
        "{} is neither a .narinfo file, nor what nix path-info --json prints, nor a reference graph",
        path.display()
    )]
    UnknownFile {
        /// Which file.
        path: PathBuf,
    },
    /// A directory without such a file.
    #[error("{} holds no .narinfo or .json file", path.display())]
    NothingFound {
        /// Which directory.
        path: PathBuf,
    },
    /// A file or answer looks like path information and is none.
    #[error("{location} cannot be used")]
    Malformed {
        /// File or URL.
        location: String,
        /// What is wrong with it.
        #[source]
        source: ReferenceError,
    },
    /// A file looks like a reference graph and is none.
    #[error("{} cannot be used", path.display())]
    Graph {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: GraphError,
    },
    /// A line of a list of wanted paths is none.
    #[error("line {line} names no store path: {text:?}, expected a path or its 32-character hash")]
    WantedLine {
        /// Counted from 1.
        line: usize,
        /// The line, shortened.
        text: String,
    },
    /// The address of the binary cache is none.
    #[error("{url:?} is not the address of a binary cache: it must begin with http:// or https://")]
    BadUrl {
        /// As given.
        url: String,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// A request failed each time it was tried.
    #[error("cannot fetch {url} ({attempts} attempts)")]
    Fetch {
        /// What was fetched.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// The last failure.
        #[source]
        source: reqwest::Error,
    },
    /// The cache answered with an error each time.
    #[error("cannot fetch {url}: the cache answers {status} ({attempts} attempts)")]
    Status {
        /// What was fetched.
        url: String,
        /// The last status.
        status: u16,
        /// How often it was tried.
        attempts: u32,
    },
    /// An answer that is too long for a narinfo file.
    #[error("{url} is over 1 MiB: that is no .narinfo file")]
    TooLarge {
        /// What was fetched.
        url: String,
    },
}
