//! Merges the trees of packages into one of directories and symbolic links.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::vec;

use super::PackError;
use super::resolve::{Resolver, Target};
use super::root::{Conflict, ConflictKind, RootEntry, RootEntryKind};
use super::walk::{Child, FileKind, list};

/// The greatest number of entries. It is several times what the largest packages have, and takes
/// some hundred megabytes of memory. Links that multiply (`a/{x,y} -> b`, `b/{x,y} -> c`, …) exceed
/// it.
const MAX_ENTRIES: usize = 1_000_000;

/// Mode of the directories that packages share.
const DIRECTORY_MODE: u32 = 0o755;

/// A directory at the top of a package that Nix's builders make for other builds. It is about one
/// package only (what it propagates, its set-up hook), so the first one would be wrong for all
/// others. nixpkgs' own `buildEnv` leaves it out too.
const BUILD_METADATA: &[u8] = b"nix-support";

struct Node {
    kind: RootEntryKind,
    /// The path in the store that it shows; `None` for the image's own.
    from: Option<PathBuf>,
}

impl Node {
    /// A directory in which packages meet.
    fn shared_directory(from: Option<PathBuf>) -> Self {
        let mode = DIRECTORY_MODE;
        let kind = RootEntryKind::Directory { mode };
        Self { kind, from }
    }

    fn link(target: PathBuf) -> Self {
        let from = Some(target.clone());
        let kind = RootEntryKind::Link { target };
        Self { kind, from }
    }
}

/// The tree so far. Paths in it are relative, without a slash at either end.
pub(super) struct Forest<'a> {
    resolver: Resolver<'a>,
    nodes: HashMap<Vec<u8>, Node>,
    conflicts: Vec<Conflict>,
    limit: usize,
}

/// A directory that is being merged.
struct Frame {
    /// Where in the forest.
    at: Vec<u8>,
    /// Which directory of the store, without links in its path.
    directory: PathBuf,
    children: vec::IntoIter<Child>,
}

impl<'a> Forest<'a> {
    pub(super) fn new(resolver: Resolver<'a>) -> Self {
        Self {
            resolver,
            nodes: HashMap::new(),
            conflicts: Vec::new(),
            limit: MAX_ENTRIES,
        }
    }

    /// Returns where a path of the store leads to.
    pub(super) fn resolve(&self, path: &Path) -> Result<Target, PackError> {
        self.resolver.resolve(path)
    }

    /// Adds a directory of the image's own, which no package can replace.
    pub(super) fn add_directory(&mut self, at: &str, mode: u32) -> Result<(), PackError> {
        let kind = RootEntryKind::Directory { mode };
        self.insert(at.as_bytes(), Node { kind, from: None })
    }

    /// Merges what a directory of the store holds into the root.
    pub(super) fn merge(&mut self, directory: &Path) -> Result<(), PackError> {
        self.merge_at(Vec::new(), directory.to_owned())
    }

    /// Merges what a directory of the store holds into a directory of the forest.
    fn merge_at(&mut self, at: Vec<u8>, directory: PathBuf) -> Result<(), PackError> {
        let mut stack = vec![self.frame(at, directory)?];
        while let Some(frame) = stack.last_mut() {
            let Some(child) = frame.children.next() else {
                stack.pop();
                continue;
            };
            let at = join(&frame.at, &child.name);
            if at == BUILD_METADATA {
                continue;
            }
            let path = frame.directory.join(&child.name);
            let is_open = |directory: &Path| stack.iter().any(|open| open.directory == directory);
            if let Some(directory) = self.place(&at, path, child.kind, is_open)? {
                stack.push(self.frame(at, directory)?);
            }
        }
        Ok(())
    }

    /// Adds a link to a file of the store, if a directory can be above it.
    pub(super) fn add_program(&mut self, at: &str, file: &Path) -> Result<(), PackError> {
        if self.make_parents(at)? {
            self.place(at.as_bytes(), file.to_owned(), FileKind::Link, |_| false)?;
        } else {
            self.conflict(at.as_bytes(), file, ConflictKind::FileAndDirectory);
        }
        Ok(())
    }

    /// Adds a link to what the path `of` of the forest leads to, if nothing is at `at` and `accept`
    /// accepts that target. Returns whether `at` leads to an accepted target now.
    pub(super) fn add_alias(
        &mut self,
        at: &str,
        of: &str,
        accept: impl Fn(&Target) -> bool,
    ) -> Result<bool, PackError> {
        if let Some((_, target)) = self.look_up(at)? {
            return Ok(accept(&target));
        }
        let Some((target, end)) = self.look_up(of)? else {
            return Ok(false);
        };
        if !accept(&end) || !self.make_parents(at)? {
            return Ok(false);
        }
        self.insert(at.as_bytes(), Node::link(target))?;
        Ok(true)
    }

    /// Adds a file, unless something is there.
    pub(super) fn add_file(
        &mut self,
        at: &str,
        mode: u32,
        contents: Vec<u8>,
    ) -> Result<(), PackError> {
        if self.look_up(at)?.is_none() && self.make_parents(at)? {
            let kind = RootEntryKind::File { mode, contents };
            self.insert(at.as_bytes(), Node { kind, from: None })?;
        }
        Ok(())
    }

    /// Returns the entries, unordered, and what is left out.
    pub(super) fn finish(self) -> (Vec<RootEntry>, Vec<Conflict>) {
        let entry = |(path, node): (Vec<u8>, Node)| RootEntry {
            path: OsStr::from_bytes(&path).into(),
            kind: node.kind,
        };
        (self.nodes.into_iter().map(entry).collect(), self.conflicts)
    }

    /// Adds a file, link or directory of a package at `at`. Returns the directory to merge there,
    /// if it is one.
    fn place(
        &mut self,
        at: &[u8],
        path: PathBuf,
        kind: FileKind,
        is_open: impl Fn(&Path) -> bool,
    ) -> Result<Option<PathBuf>, PackError> {
        if absolute(at) == self.resolver.directory() {
            self.conflict(at, &path, ConflictKind::Reserved);
            return Ok(None);
        }
        let old = match self.kind(at) {
            None if kind == FileKind::Directory => {
                self.insert(at, Node::shared_directory(Some(path.clone())))?;
                return Ok(Some(path));
            }
            None => {
                self.insert(at, Node::link(path))?;
                return Ok(None);
            }
            Some(RootEntryKind::Directory { .. }) => None,
            Some(RootEntryKind::Link { target }) => Some(self.resolver.resolve(target)?),
            Some(RootEntryKind::File { .. }) => Some(Target::Nowhere),
        };
        let new = match kind {
            FileKind::Directory => Target::Directory(path.clone()),
            FileKind::File | FileKind::Link => self.resolver.resolve(&path)?,
        };
        let kind = match (old, new) {
            (Some(old), new) if old == new && old != Target::Nowhere => return Ok(None),
            (None | Some(Target::Directory(_)), Target::Directory(new)) if is_open(&new) => {
                ConflictKind::Loop
            }
            (None, Target::Directory(new)) => return Ok(Some(new)),
            (Some(Target::Directory(old)), Target::Directory(new)) => {
                self.open_link(at, old)?;
                return Ok(Some(new));
            }
            (None, _) | (_, Target::Directory(_)) => ConflictKind::FileAndDirectory,
            _ => ConflictKind::SameName,
        };
        self.conflict(at, &path, kind);
        Ok(None)
    }

    /// Replaces a link to a directory by a directory with the same entries, so that other packages
    /// can add theirs.
    fn open_link(&mut self, at: &[u8], directory: PathBuf) -> Result<(), PackError> {
        let node = Node::shared_directory(Some(directory.clone()));
        self.nodes.insert(at.to_vec(), node);
        // It was below a link, so no other package has anything there yet.
        self.merge_at(at.to_vec(), directory)
    }

    /// Makes the directories above `at`. Returns false if something else is in the way.
    fn make_parents(&mut self, at: &str) -> Result<bool, PackError> {
        for (slash, _) in at.match_indices('/') {
            let parent = &at.as_bytes()[..slash];
            let target = match self.kind(parent) {
                Some(RootEntryKind::Directory { .. }) => continue,
                Some(RootEntryKind::File { .. }) => return Ok(false),
                Some(RootEntryKind::Link { target }) => self.resolver.resolve(target)?,
                None => {
                    self.insert(parent, Node::shared_directory(None))?;
                    continue;
                }
            };
            let Target::Directory(directory) = target else {
                return Ok(false);
            };
            self.open_link(parent, directory)?;
        }
        Ok(true)
    }

    /// Returns the path in the store that a link to `at` has as its target, and where it leads to;
    /// `None` if nothing is there. The image's own files and directories lead nowhere.
    fn look_up(&self, at: &str) -> Result<Option<(PathBuf, Target)>, PackError> {
        let ends = at.match_indices('/').map(|(slash, _)| slash);
        for end in ends.chain([at.len()]) {
            match self.kind(&at.as_bytes()[..end]) {
                None => return Ok(None),
                Some(RootEntryKind::Directory { .. }) if end < at.len() => {}
                Some(RootEntryKind::Directory { .. } | RootEntryKind::File { .. }) => break,
                Some(RootEntryKind::Link { target }) if end == at.len() => {
                    return Ok(Some((target.clone(), self.resolver.resolve(target)?)));
                }
                Some(RootEntryKind::Link { target }) => {
                    let path = target.join(&at[end + 1..]);
                    let end = self.resolver.resolve(&path)?;
                    // Below a link there is only what is in the store.
                    return Ok((end != Target::Nowhere).then_some((path, end)));
                }
            }
        }
        Ok(Some((absolute(at.as_bytes()), Target::Nowhere)))
    }

    fn kind(&self, at: &[u8]) -> Option<&RootEntryKind> {
        self.nodes.get(at).map(|node| &node.kind)
    }

    fn frame(&self, at: Vec<u8>, directory: PathBuf) -> Result<Frame, PackError> {
        let children = list(self.resolver.store(), &directory)?.into_iter();
        Ok(Frame {
            at,
            directory,
            children,
        })
    }

    fn insert(&mut self, at: &[u8], node: Node) -> Result<(), PackError> {
        if self.nodes.len() >= self.limit {
            return Err(PackError::ForestTooLarge {
                path: absolute(at),
                limit: self.limit,
            });
        }
        self.nodes.insert(at.to_vec(), node);
        Ok(())
    }

    fn conflict(&mut self, at: &[u8], skipped: &Path, kind: ConflictKind) {
        let kept = self.nodes.get(at).and_then(|node| node.from.clone());
        self.conflicts.push(Conflict {
            path: absolute(at),
            kept,
            skipped: skipped.to_owned(),
            kind,
        });
    }
}

/// A path of the forest as the image shows it.
fn absolute(at: &[u8]) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(at))
}

fn join(at: &[u8], name: &OsStr) -> Vec<u8> {
    let mut path = at.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreRoot;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// Each level links the next one twice: followed everywhere, that is 2^40 paths.
    #[test]
    fn links_that_multiply_end_in_an_error() {
        let prefix = tempfile::tempdir().expect("a temporary directory");
        let store = StoreRoot::new(prefix.path());
        for package in ["one", "two"] {
            let package = prefix.path().join("nix/store").join(package);
            for level in 0..40 {
                let at = package.join(level.to_string());
                fs::create_dir_all(&at).expect("a directory");
                for name in ["a", "b"] {
                    symlink(format!("../{}", level + 1), at.join(name)).expect("a link");
                }
            }
            fs::create_dir(package.join("40")).expect("a directory");
        }
        let mut forest = Forest::new(Resolver::new(&store, "/nix/store".into()));
        forest.limit = 2_000;
        forest
            .merge(Path::new("/nix/store/one"))
            .expect("no conflict yet");
        let error = forest
            .merge(Path::new("/nix/store/two"))
            .expect_err("too many");
        assert!(
            matches!(error, PackError::ForestTooLarge { limit: 2_000, .. }),
            "{error}"
        );
    }
}
