//! Walks store paths in the order of a layer and writes them to its tar.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::fs::{self, File, FileType};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::PackError;
use super::blocks::BlockSink;
use super::tar::{TarError, TarWriter};
use crate::StorePath;
use crate::StoreRoot;

/// The prefix of names that are commands to an unpacker (OCI image specification, `layer.md`).
pub(super) const WHITEOUT: &[u8] = b".wh.";

/// The bit that makes a file executable to Nix, whatever the group and the others may do
/// (Nix, `nix-store --dump`: the owner's bit).
const OWNER_EXECUTES: u32 = 0o100;

/// Mode of the directories above the store paths.
pub(super) const PARENT_MODE: u32 = 0o755;

/// The kind of a file in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Directory,
    File,
    Link,
}

/// One name of a directory.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) name: OsString,
    pub(super) kind: FileKind,
}

impl Child {
    /// The order of a layer: bytewise by the names of the entries, where those of directories end
    /// in `/`. A walk in this order that enters each directory at once gives a list that is
    /// bytewise sorted as a whole.
    fn order(&self, other: &Self) -> Ordering {
        fn key(child: &Child) -> impl Iterator<Item = u8> {
            let slash = (child.kind == FileKind::Directory).then_some(b'/');
            child.name.as_bytes().iter().copied().chain(slash)
        }
        key(self).cmp(key(other))
    }
}

/// Lists a directory in the order of a layer. Holds no file descriptor when it returns.
///
/// # Errors
/// The directory cannot be listed, or holds what no layer may.
pub(super) fn list(store: &StoreRoot, directory: &Path) -> Result<Vec<Child>, PackError> {
    let failed = PackError::unreadable("list the directory", directory);
    let mut children = Vec::new();
    for entry in fs::read_dir(store.physical(directory)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(WHITEOUT) {
            let path = directory.join(name);
            return Err(PackError::Whiteout { path });
        }
        let path = directory.join(&name);
        let kind = entry.file_type();
        let kind = classify(
            kind.map_err(PackError::unreadable("inspect", &path))?,
            &path,
        )?;
        children.push(Child { name, kind });
    }
    children.sort_unstable_by(Child::order);
    Ok(children)
}

/// Returns the kind of a store path itself.
///
/// # Errors
/// [`PackError::Missing`] if the path does not exist.
pub(super) fn inspect(store: &StoreRoot, path: &Path) -> Result<FileKind, PackError> {
    match fs::symlink_metadata(store.physical(path)) {
        Ok(metadata) => classify(metadata.file_type(), path),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Err(PackError::Missing {
            path: path.to_owned(),
        }),
        Err(source) => Err(PackError::unreadable("inspect", path)(source)),
    }
}

/// Whether a file with these permissions is executable for Nix.
pub(super) fn executable(permissions: &fs::Permissions) -> bool {
    permissions.mode() & OWNER_EXECUTES != 0
}

fn classify(kind: FileType, path: &Path) -> Result<FileKind, PackError> {
    if kind.is_dir() {
        return Ok(FileKind::Directory);
    }
    if kind.is_file() {
        return Ok(FileKind::File);
    }
    if kind.is_symlink() {
        return Ok(FileKind::Link);
    }
    Err(PackError::Unsupported {
        path: path.to_owned(),
        kind: if kind.is_socket() {
            "a socket"
        } else if kind.is_fifo() {
            "a named pipe"
        } else if kind.is_block_device() {
            "a block device"
        } else if kind.is_char_device() {
            "a character device"
        } else {
            "of an unknown type"
        },
    })
}

/// Writes the store paths and all below them to `tar`, after the directories above them.
pub(super) fn write_store_paths<S: BlockSink>(
    tar: &mut TarWriter<S>,
    paths: &[StorePath],
    store: &StoreRoot,
) -> Result<(), PackError> {
    let mut walk = Walk { tar, store };
    for (path, kind) in top(paths, store)? {
        match kind {
            None => walk.directory(&path, PARENT_MODE)?,
            Some(kind) => walk.tree(&path, kind)?,
        }
    }
    Ok(())
}

/// Returns the store paths, each once, and the directories above them, which have no kind, in the
/// order of the layer.
fn top(
    paths: &[StorePath],
    store: &StoreRoot,
) -> Result<Vec<(PathBuf, Option<FileKind>)>, PackError> {
    let mut top = Vec::with_capacity(paths.len() + 2);
    let Some(first) = paths.first().map(|path| Path::new(path.as_str())) else {
        return Ok(top);
    };
    top.extend(parents(first).map(|parent| (parent.to_owned(), None)));
    let mut paths: Vec<&Path> = paths.iter().map(|path| Path::new(path.as_str())).collect();
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        if path.parent() != first.parent() {
            return Err(PackError::MixedStores {
                first: first.to_owned(),
                second: path.to_owned(),
            });
        }
        top.push((path.to_owned(), Some(inspect(store, path)?)));
    }
    top.sort_by_cached_key(|(path, kind)| {
        entry_name(path, kind.is_none_or(|kind| kind == FileKind::Directory))
    });
    Ok(top)
}

/// Returns the directories above a store path, `/nix/store` and `/nix`.
pub(super) fn parents(path: &Path) -> impl Iterator<Item = &Path> {
    let above = path.ancestors().skip(1);
    above.filter(|parent| parent.parent().is_some())
}

/// The name of a tar entry for an absolute path: without the slash in front, with one at the end
/// of a directory.
pub(super) fn entry_name(path: &Path, directory: bool) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    let mut name = path.strip_prefix(b"/").unwrap_or(path).to_vec();
    if directory {
        name.push(b'/');
    }
    name
}

struct Walk<'a, S> {
    tar: &'a mut TarWriter<S>,
    store: &'a StoreRoot,
}

impl<S: BlockSink> Walk<'_, S> {
    /// Writes a path and all below it. Keeps its own stack, of listings and not of open
    /// directories, so that neither the thread's stack nor the limit of open files limits the
    /// depth.
    fn tree(&mut self, path: &Path, kind: FileKind) -> Result<(), PackError> {
        let mut path = path.to_owned();
        if kind != FileKind::Directory {
            return self.leaf(&path, kind);
        }
        self.directory(&path, 0o555)?;
        let mut stack = vec![list(self.store, &path)?.into_iter()];
        while let Some(children) = stack.last_mut() {
            let Some(child) = children.next() else {
                stack.pop();
                path.pop();
                continue;
            };
            path.push(&child.name);
            if child.kind == FileKind::Directory {
                self.directory(&path, 0o555)?;
                stack.push(list(self.store, &path)?.into_iter());
            } else {
                self.leaf(&path, child.kind)?;
                path.pop();
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, mode: u32) -> Result<(), PackError> {
        self.tar
            .directory(&entry_name(path, true), mode)
            .map_err(|error| failed(path, error))
    }

    fn leaf(&mut self, path: &Path, kind: FileKind) -> Result<(), PackError> {
        if kind != FileKind::Link {
            return self.file(path);
        }
        let target = read_link(self.store, path)?;
        self.tar
            .link(&entry_name(path, false), target.as_os_str().as_bytes())
            .map_err(|error| failed(path, error))
    }

    fn file(&mut self, path: &Path) -> Result<(), PackError> {
        let unreadable = PackError::unreadable("read the file", path);
        let file = File::open(self.store.physical(path)).map_err(unreadable)?;
        // Of the open file, because the listed one may have been replaced.
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(PackError::Changed {
                path: path.to_owned(),
                detail: "it is no longer a file".to_owned(),
            });
        }
        let mode = if executable(&metadata.permissions()) {
            0o555
        } else {
            0o444
        };
        self.tar
            .file(&entry_name(path, false), mode, metadata.len(), file)
            .map_err(|error| failed(path, error))
    }
}

/// The target of a link in the store, as it is written there.
pub(super) fn read_link(store: &StoreRoot, path: &Path) -> Result<PathBuf, PackError> {
    fs::read_link(store.physical(path))
        .map_err(PackError::unreadable("read the symbolic link", path))
}

/// The error of an entry that could not be written.
pub(super) fn failed(path: &Path, error: TarError) -> PackError {
    match error {
        TarError::Read(source) => PackError::unreadable("read the file", path)(source),
        TarError::Sink(error) => error,
        TarError::Length { announced, found } => PackError::Changed {
            path: path.to_owned(),
            detail: match found {
                Some(found) => format!("it had {announced} bytes, but ended after {found}"),
                None => format!("it had {announced} bytes, but goes on after them"),
            },
        },
    }
}
