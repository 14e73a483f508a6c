//! Writing a finished image to disk, for tools that take files: OCI layouts and docker archives.
//!
//! Every blob is hashed as it is copied, so that a damaged store never makes a damaged export.
//! Files get their names when they are whole; an export that fails or is cancelled leaves nothing
//! under the name it was asked for.

mod docker_archive;
mod oci_layout;
mod source;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use nixery_manifest::{Digest, ParseError};
use nixery_storage::StorageError;

pub use docker_archive::write_docker_archive;
pub use oci_layout::{check_oci_layout, write_oci_layout};

/// What an export wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// Bytes of blobs written.
    pub bytes_written: u64,
    /// Blobs that were there already (OCI layouts only).
    pub blobs_kept: usize,
}

/// Why an image could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The destination holds something else.
    #[error(
        "{} holds files but no OCI layout: choose an empty or new directory, or an OCI layout to add to",
        path.display()
    )]
    NotALayout {
        /// The destination.
        path: PathBuf,
    },
    /// The layout at the destination is of a version nobody knows yet.
    #[error("the OCI layout at {} has version {version:?}: only 1.0.0 can be added to", path.display())]
    LayoutVersion {
        /// The destination.
        path: PathBuf,
        /// What its `oci-layout` says; empty where it says nothing readable.
        version: String,
    },
    /// The index of the layout at the destination is damaged.
    #[error("{} is damaged", path.display())]
    DamagedIndex {
        /// The `index.json`.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// A file or directory of the destination cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// "write", "read", "create".
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A blob of the image is not in the store any more.
    #[error("blob {digest} of the image is missing in the store: build the image again")]
    MissingBlob {
        /// Which one.
        digest: Digest,
    },
    /// A blob of the image is not what its name says.
    #[error(
        "blob {digest} in the store is corrupt, its bytes have the digest {actual}: run nixery verify --delete-corrupt, then build the image again"
    )]
    CorruptBlob {
        /// Which one.
        digest: Digest,
        /// What the bytes have.
        actual: Digest,
    },
    /// The store failed.
    #[error("a blob of the image cannot be read")]
    Storage(#[source] StorageError),
    /// A name that a docker archive cannot carry.
    #[error("the tar entry for {name} is too long")]
    EntryName {
        /// Which entry.
        name: String,
    },
    /// The caller went away.
    #[error("the export was cancelled")]
    Cancelled,
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_owned();
    move |source| ExportError::File {
        action,
        path,
        source,
    }
}

/// The directory that a file is in; the current one for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
