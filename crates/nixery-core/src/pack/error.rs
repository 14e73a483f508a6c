//! Errors of packing.

use std::io;
use std::path::{Path, PathBuf};

/// Why a layer could not be packed.
///
/// Paths are *logical* (`/nix/store/…`, as the image has them), never the physical prefix of a
/// [`StoreRoot`](crate::StoreRoot), and are shown quoted, with bytes that are not UTF-8
/// escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A store path of the layer is not in the store.
    #[error(
        "store path {path:?} is not in the Nix store: it may have been garbage-collected. Fix: build it again"
    )]
    Missing {
        /// The store path.
        path: PathBuf,
    },
    /// A file, directory or link of the store could not be read.
    #[error("cannot {action} {path:?}. Fix: let this user read the Nix store")]
    Unreadable {
        /// What failed: `inspect`, or `list the directory`, or `read the file`.
        action: &'static str,
        /// The file, directory or link.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file had another type or length when it was read than when it was inspected. Store paths
    /// are immutable, so something other than Nix is writing to the store, or its disk is failing.
    #[error(
        "the file {path:?} changed while it was packed: {detail}. Fix: run `nix-store --verify --check-contents`"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        detail: String,
    },
    /// A socket, pipe or device, which neither a NAR nor a layer can hold.
    #[error(
        "{path:?} is {kind}: a layer holds files, directories and symbolic links only. Fix: leave the package out"
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is, with its article: `a socket`.
        kind: &'static str,
    },
    /// A name with the prefix that makes image unpackers delete files instead of creating one
    /// (OCI image specification, `layer.md`, "Whiteouts").
    #[error(
        "{path:?} has a name that starts with `.wh.`, which in an image layer means \"delete this file\". \
         Fix: leave the package out, or rename the file in it"
    )]
    Whiteout {
        /// The file, directory or link.
        path: PathBuf,
    },
    /// The store paths of one layer are of two stores.
    #[error("a layer cannot hold store paths of two stores: {first:?} and {second:?}")]
    MixedStores {
        /// A path of the first store.
        first: PathBuf,
        /// A path of another one.
        second: PathBuf,
    },
    /// The merged symbolic links of the packages would be too many.
    #[error(
        "the requested packages have more than {limit} files to link into the root of the image, \
         {path:?} among them. Fix: request fewer packages"
    )]
    ForestTooLarge {
        /// The first file above the limit.
        path: PathBuf,
        /// The greatest number of entries of a root layer.
        limit: usize,
    },
    /// The layer could not be written to where it should go.
    #[error("cannot write the packed layer. Fix: check that the disk is not full")]
    Write {
        /// The writer's error.
        #[source]
        source: io::Error,
    },
    /// A block of the layer could not be compressed: a defect of a library or of this crate, or
    /// a lack of memory.
    #[error(
        "cannot compress the layer because of a defect or a lack of memory. Fix: give it more memory, or report it with the log"
    )]
    Compress {
        /// The compressor's error.
        #[source]
        source: io::Error,
    },
}

/// The cause of a [`PackError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PackErrorKind {
    /// The packages hold something that no layer can have. The user has to request others.
    Contents,
    /// The Nix store lacks a path, or cannot be read.
    Store,
    /// The layer cannot be written to where it should go.
    Output,
    /// A defect of the caller, of this crate or of a library.
    Defect,
}

impl PackError {
    /// The cause of the error.
    pub fn kind(&self) -> PackErrorKind {
        match self {
            Self::Unsupported { .. } | Self::Whiteout { .. } | Self::ForestTooLarge { .. } => {
                PackErrorKind::Contents
            }
            Self::Missing { .. } | Self::Unreadable { .. } | Self::Changed { .. } => {
                PackErrorKind::Store
            }
            Self::Write { .. } => PackErrorKind::Output,
            Self::MixedStores { .. } | Self::Compress { .. } => PackErrorKind::Defect,
        }
    }

    /// Returns what makes a system's error one of this path.
    pub(super) fn unreadable(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> Self + Copy {
        move |source| Self::Unreadable {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// The error of packing on after a failure, which no caller does.
    pub(super) fn stopped() -> Self {
        Self::Compress {
            source: io::Error::other("packing has already failed"),
        }
    }
}
