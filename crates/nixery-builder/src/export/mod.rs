//! Writes a finished image to disk, for tools that read files: OCI layouts and Docker archives.
//!
//! Every blob is verified as it is copied, so a damaged store never makes a damaged export. Files
//! get their names when they are complete; an export that fails or is cancelled leaves nothing
//! under the requested name.

mod blob_source;
mod docker_archive;
mod oci_layout;

#[cfg(test)]
mod tests;

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nixery_manifest::{Digest, ParseError};
use nixery_storage::StorageError;

pub use docker_archive::write_docker_archive;
pub use oci_layout::{check_oci_layout, write_oci_layout};

/// What an export wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// Bytes of blobs written.
    pub bytes_written: u64,
    /// Blobs that an OCI layout had already.
    pub blobs_kept: usize,
}

/// Why an image could not be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The destination holds something else.
    #[error(
        "{} holds files but no OCI layout. Fix: choose an empty or new directory, or an OCI layout to add to",
        path.display()
    )]
    NotALayout {
        /// The destination.
        path: PathBuf,
    },
    /// The layout at the destination has an unknown version.
    #[error("the OCI layout at {} has version {version:?}; only version 1.0.0 is supported. Fix: choose an empty or new directory", path.display())]
    LayoutVersion {
        /// The destination.
        path: PathBuf,
        /// The version in its `oci-layout`; empty if that cannot be read.
        version: String,
    },
    /// The index of the layout at the destination is damaged.
    #[error("the index {} is damaged. Fix: choose an empty or new directory", path.display())]
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
        /// Its path.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A blob of the image is no longer in the store.
    #[error("blob {digest} of the image is missing in the store. Fix: build the image again")]
    MissingBlob {
        /// Its digest.
        digest: Digest,
    },
    /// A blob of the image does not match its digest.
    #[error(
        "blob {digest} in the store is corrupt: its bytes have the digest {actual}. Fix: run `nixery verify --delete-corrupt`, then build the image again"
    )]
    CorruptBlob {
        /// Its digest.
        digest: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// The store failed.
    #[error("a blob of the image cannot be read")]
    Storage(#[source] StorageError),
    /// The future of the export was dropped.
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

/// Writes to a temporary file next to `path`, and renames it when it is complete.
fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let mut file = tempfile::Builder::new()
        .prefix(".nixery-")
        // The umask then applies, as for other files of the user.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(parent.unwrap_or(Path::new(".")))
        .map_err(file_error("write", path))?;
    write(file.as_file_mut())?;
    let named = file.persist(path).map(drop);
    named.map_err(|error| file_error("write", path)(error.error))
}
