//! What can go wrong while a layer is packed.

use std::io;
use std::path::PathBuf;

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
        "store path {path:?} is not in the Nix store; realise it again (was it garbage-collected?)"
    )]
    Missing {
        /// The store path.
        path: PathBuf,
    },
    /// The type of a file could not be read.
    #[error("cannot inspect {path:?}; check that this user may read the Nix store")]
    Inspect {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A directory could not be listed.
    #[error("cannot list the directory {path:?}; check that this user may read the Nix store")]
    List {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file could not be opened or read.
    #[error("cannot read the file {path:?}; check that this user may read the Nix store")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The target of a symbolic link could not be read.
    #[error("cannot read the symbolic link {path:?}")]
    ReadLink {
        /// The link.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file had another type or length when it was read than when it was inspected. Store paths
    /// are immutable, so something other than Nix is writing to the store, or its disk is failing.
    #[error(
        "the file {path:?} changed while it was packed ({detail}); run `nix-store --verify --check-contents`"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        detail: String,
    },
    /// A socket, pipe or device: nothing a Nix store, or this layer format, can hold.
    #[error("{path:?} is {kind}; a layer holds files, directories and symbolic links only")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is, with its article: `a socket`.
        kind: &'static str,
    },
    /// A name with the prefix that makes image unpackers delete files instead of creating one
    /// (OCI image specification, `layer.md`, "Whiteouts").
    #[error(
        "{path:?} has a name that starts with `.wh.`, which in an image layer means \"delete this file\"; \
         leave the package out or rename the file in it"
    )]
    Whiteout {
        /// The file, directory or link.
        path: PathBuf,
    },
    /// Store paths of two stores in one layer, whose entries could not be ordered and nested.
    #[error("store paths of two stores in one layer: {first:?} and {second:?}")]
    MixedStores {
        /// A path of the first store.
        first: PathBuf,
        /// A path of another one.
        second: PathBuf,
    },
    /// The merged symbolic links of the packages would be too many.
    #[error(
        "the requested packages have more than {limit} files to link into the root of the image \
         (reached at {path:?}); request fewer packages"
    )]
    ForestTooLarge {
        /// The file that went over the limit.
        path: PathBuf,
        /// The greatest number of entries of a root layer.
        limit: usize,
    },
    /// The layer could not be written to where it should go.
    #[error("cannot write the packed layer; is the disk full?")]
    Write {
        /// What the writer said.
        #[source]
        source: io::Error,
    },
    /// A block of the layer could not be compressed or hashed: a defect of a library or of this
    /// crate, or no memory.
    #[error("cannot compress the layer; this is a defect, please report it")]
    Compress {
        /// What the compressor said.
        #[source]
        source: io::Error,
    },
}

/// What a [`PackError`] is caused by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackErrorKind {
    /// The packages hold something that no layer can have: others have to be requested.
    Contents,
    /// The Nix store lacks a path, or cannot be read.
    Store,
    /// The layer cannot be written to where it should go.
    Output,
    /// A defect of the caller, of this crate or of a library.
    Defect,
}

impl PackError {
    /// What the error is caused by.
    pub fn kind(&self) -> PackErrorKind {
        match self {
            Self::Unsupported { .. } | Self::Whiteout { .. } | Self::ForestTooLarge { .. } => {
                PackErrorKind::Contents
            }
            Self::Missing { .. }
            | Self::Inspect { .. }
            | Self::List { .. }
            | Self::Read { .. }
            | Self::ReadLink { .. }
            | Self::Changed { .. } => PackErrorKind::Store,
            Self::Write { .. } => PackErrorKind::Output,
            Self::MixedStores { .. } | Self::Compress { .. } => PackErrorKind::Defect,
        }
    }

    /// Packing goes on after it has failed, which no caller does.
    pub(super) fn stopped() -> Self {
        Self::Compress {
            source: io::Error::other("packing has already failed"),
        }
    }
}
