//! Reading about many store paths: from files that describe them, or from a binary cache over HTTP.
//!
//! A [`ReferenceSink`] determines the result: a [`PopularityCounter`] counts references, a
//! [`PathCollection`] gathers the input of a cluster plan. This module reads the sources. A
//! [`StateFile`] lets a long run be interrupted and continued.

mod cache;
mod files;
mod state;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

pub use cache::{BinaryCache, CacheOptions, CacheProgress, parse_wanted_paths};
pub use files::add_path;
pub use state::StateFile;

use crate::reference_sink::ReferenceError;
#[cfg(doc)]
use crate::{
    cluster_plan::PathCollection, popularity::PopularityCounter, reference_sink::ReferenceSink,
};

/// Why a source cannot be read.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum PathSourceError {
    /// A file or directory cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// The operation: "read", "write the state to".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file is of an unknown kind, or a directory has no `.narinfo` or `.json` file.
    #[error(
        "{} is neither a .narinfo file, nor the output of nix path-info --json, nor a reference graph, nor a directory with .narinfo or .json files",
        path.display()
    )]
    NoPathInfo {
        /// The file or directory.
        path: PathBuf,
    },
    /// A file or answer that should be path information or a state is invalid.
    #[error("{location} cannot be used")]
    Malformed {
        /// File or URL.
        location: String,
        /// The reason.
        #[source]
        source: ReferenceError,
    },
    /// A line of a list of wanted paths is invalid.
    #[error("line {line} names no store path: {text:?}, expected a path or its 32-character hash")]
    WantedLine {
        /// Counted from 1.
        line: usize,
        /// The line, shortened.
        text: String,
    },
    /// The address of the binary cache is invalid.
    #[error("{url:?} is not the address of a binary cache: it must begin with http:// or https://")]
    BadUrl {
        /// As given.
        url: String,
    },
    /// This program cannot read binary caches.
    #[error(
        "{url} cannot be read, because this program is built without the feature `http`. Fix: build it with that feature, or use files"
    )]
    WithoutHttp {
        /// As given.
        url: String,
    },
    /// A narinfo file cannot be fetched.
    #[error("cannot fetch {url} ({attempts} attempts)")]
    Fetch {
        /// Its address.
        url: String,
        /// Number of attempts.
        attempts: u32,
        /// The last failure.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl PathSourceError {
    fn malformed(path: &Path, source: ReferenceError) -> Self {
        let location = path.display().to_string();
        Self::Malformed { location, source }
    }

    fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}
