//! A store in a temporary directory, and reading layers back.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod root;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nixery_core::{StorePath, StoreRoot};
use tempfile::TempDir;

pub struct Store {
    directory: TempDir,
    pub root: StoreRoot,
}

/// A store path whose hash is one character over and over.
pub fn store_path(hash: char, name: &str) -> StorePath {
    let hash = String::from(hash).repeat(32);
    StorePath::parse(&format!("/nix/store/{hash}-{name}")).expect("a valid store path")
}

impl Store {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(directory.path().join("nix/store")).expect("a store directory");
        let root = StoreRoot::new(directory.path());
        Self { directory, root }
    }

    /// Where something below a store path is; the path itself for an empty name.
    pub fn at(&self, path: &StorePath, below: impl AsRef<OsStr>) -> PathBuf {
        let below = below.as_ref();
        let path = self.root.locate(path);
        if below.is_empty() {
            path
        } else {
            path.join(below)
        }
    }

    fn ready(&self, path: &StorePath, below: impl AsRef<OsStr>) -> PathBuf {
        let at = self.at(path, below);
        fs::create_dir_all(at.parent().expect("a parent")).expect("the directories above");
        at
    }

    pub fn directory(&self, path: &StorePath, below: impl AsRef<OsStr>) {
        fs::create_dir_all(self.at(path, below)).expect("a directory");
    }

    pub fn file(&self, path: &StorePath, below: impl AsRef<OsStr>, contents: impl AsRef<[u8]>) {
        let at = self.ready(path, below);
        fs::write(&at, contents).expect("a file");
        fs::set_permissions(at, Permissions::from_mode(0o444)).expect("its mode");
    }

    pub fn program(&self, path: &StorePath, below: impl AsRef<OsStr>) {
        let at = self.ready(path, below);
        fs::write(&at, "#!/bin/sh\n").expect("a program");
        fs::set_permissions(at, Permissions::from_mode(0o555)).expect("its mode");
    }

    pub fn link(&self, path: &StorePath, below: impl AsRef<OsStr>, target: impl AsRef<Path>) {
        symlink(target, self.ready(path, below)).expect("a link");
    }
}

/// An entry as a reader of the layer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: tar::EntryType,
    pub mode: u32,
    pub contents: Vec<u8>,
    pub target: Vec<u8>,
}

/// The entries of a tar, each of which must show nothing of the host.
pub fn read_tar(bytes: &[u8]) -> Vec<Entry> {
    let mut archive = tar::Archive::new(bytes);
    let mut entries = Vec::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let header = entry.header();
        assert_eq!(header.mtime().expect("a time"), 1);
        assert_eq!(header.uid().expect("an owner"), 0);
        assert_eq!(header.gid().expect("a group"), 0);
        assert_eq!(header.username_bytes(), Some(&b""[..]));
        assert_eq!(header.groupname_bytes(), Some(&b""[..]));
        let (kind, mode) = (header.entry_type(), header.mode().expect("a mode"));
        let name = entry.path_bytes().into_owned();
        let target = entry
            .link_name_bytes()
            .map(|target| target.into_owned())
            .unwrap_or_default();
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents).expect("the contents");
        entries.push(Entry {
            name,
            kind,
            mode,
            contents,
            target,
        });
    }
    entries
}

/// One line for an entry, as `0555 nix/store/x -> y`.
pub fn line(entry: &Entry) -> String {
    let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_string_lossy().into_owned();
    let mut line = format!("{:04o} {}", entry.mode, text(&entry.name));
    if entry.kind.is_symlink() {
        line.push_str(" -> ");
        line.push_str(&text(&entry.target));
    }
    line
}

/// Takes so many bytes, then fails.
#[derive(Debug)]
pub struct Full(pub Vec<u8>, pub usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() >= self.1 {
            return Err(io::Error::other("no space left"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
