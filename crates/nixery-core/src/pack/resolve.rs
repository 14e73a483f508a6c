//! Resolves paths of a store as the image will see them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::PackError;
use super::walk::{executable, read_link};
use crate::StoreRoot;

/// Links followed before a path counts as a loop; Linux gives up after as many.
const MAX_LINKS: usize = 40;

/// The end of a path, named by the path without any link in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Directory(PathBuf),
    File { path: PathBuf, executable: bool },
    Nowhere,
}

impl Target {
    pub(super) fn is_program(&self) -> bool {
        matches!(self, Self::File { executable, .. } if *executable)
    }
}

/// Follows links inside one store and never reads the host outside of it: an image has its own
/// `/etc`, and the absolute links of a chroot's store lead to other files on this host.
pub(super) struct Resolver<'a> {
    store: &'a StoreRoot,
    directory: PathBuf,
}

impl<'a> Resolver<'a> {
    /// A resolver for the store whose paths are in `directory`, `/nix/store`.
    pub(super) fn new(store: &'a StoreRoot, directory: PathBuf) -> Self {
        Self { store, directory }
    }

    pub(super) fn store(&self) -> &'a StoreRoot {
        self.store
    }

    /// The directory of the store, logical.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns where `path`, which is absolute, leads to. A path that does not exist, is outside of
    /// the store or is a loop leads nowhere.
    ///
    /// # Errors
    /// If a part of the path cannot be inspected.
    pub(super) fn resolve(&self, path: &Path) -> Result<Target, PackError> {
        let mut resolved = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = VecDeque::new();
        let mut links = 0;
        prepend(&mut rest, path);
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                resolved.pop();
                continue;
            }
            resolved.push(name);
            if self.directory.starts_with(&resolved) {
                continue;
            }
            if !resolved.starts_with(&self.directory) {
                return Ok(Target::Nowhere);
            }
            let metadata = match fs::symlink_metadata(self.store.physical(&resolved)) {
                Ok(metadata) => metadata,
                Err(source) if is_absent(&source) => return Ok(Target::Nowhere),
                Err(source) => return Err(PackError::unreadable("inspect", &resolved)(source)),
            };
            if metadata.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Ok(Target::Nowhere);
                }
                let target = read_link(self.store, &resolved)?;
                if target.is_absolute() {
                    resolved = PathBuf::from("/");
                } else {
                    resolved.pop();
                }
                prepend(&mut rest, &target);
            } else if metadata.is_file() {
                // A file with something below it, `file/x`, does not exist.
                return Ok(if rest.is_empty() {
                    Target::File {
                        path: resolved,
                        executable: executable(&metadata.permissions()),
                    }
                } else {
                    Target::Nowhere
                });
            } else if !metadata.is_dir() {
                return Ok(Target::Nowhere);
            }
        }
        // The store's own directory, and those above it, are not part of a package.
        if self.directory.starts_with(&resolved) {
            return Ok(Target::Nowhere);
        }
        Ok(Target::Directory(resolved))
    }
}

/// Puts the components of `path` before `rest`. The caller has handled a leading `/`.
fn prepend(rest: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => rest.push_front(name.to_owned()),
            Component::ParentDir => rest.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
