//! The physical place of a Nix store.

use std::path::{Path, PathBuf};

use crate::StorePath;

/// The physical place of a Nix store: the directory that stands for `/`.
///
/// Paths are logical (`/nix/store/…`) everywhere else. The prefix differs from `/` for a store in
/// a chroot or at a mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRoot(PathBuf);

impl StoreRoot {
    /// A store whose `/` is `prefix`.
    pub fn new(prefix: impl Into<PathBuf>) -> Self {
        Self(prefix.into())
    }

    /// The store of this host.
    pub fn host() -> Self {
        Self::new("/")
    }

    /// The directory that stands for `/`.
    pub fn prefix(&self) -> &Path {
        &self.0
    }

    /// Returns the place of a store path on this host.
    pub fn locate(&self, path: &StorePath) -> PathBuf {
        self.physical(Path::new(path.as_str()))
    }

    /// Returns the place of an absolute logical path on this host.
    pub(crate) fn physical(&self, logical: &Path) -> PathBuf {
        self.0.join(logical.strip_prefix("/").unwrap_or(logical))
    }
}
