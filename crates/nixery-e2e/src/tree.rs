//! Comparing file trees by what Nix archives hold: type, executable bit, contents, link target.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// One file as a Nix archive sees it.
#[derive(Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory, empty or not.
    Directory,
    /// A regular file.
    File {
        /// Whether the owner may execute it.
        executable: bool,
        /// What it holds.
        contents: Vec<u8>,
    },
    /// A symbolic link and its target.
    Link(Vec<u8>),
}

/// Every file below (and including) the root, by its raw path relative to it.
///
/// # Panics
/// Something cannot be read, or is neither file, directory nor link.
pub fn read(root: &Path) -> BTreeMap<OsString, Node> {
    let mut nodes = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(path) = open.pop() {
        let metadata = std::fs::symlink_metadata(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let node = if metadata.is_dir() {
            open.extend(
                std::fs::read_dir(&path)
                    .expect("a readable folder")
                    .map(|entry| entry.expect("a readable entry").path()),
            );
            Node::Directory
        } else if metadata.is_symlink() {
            Node::Link(
                std::fs::read_link(&path)
                    .expect("a readable link")
                    .into_os_string()
                    .into_vec(),
            )
        } else {
            assert!(
                metadata.is_file(),
                "{} is no file, directory or link",
                path.display()
            );
            Node::File {
                executable: metadata.permissions().mode() & 0o100 != 0,
                contents: std::fs::read(&path).expect("a readable file"),
            }
        };
        nodes.insert(
            path.strip_prefix(root)
                .expect("below the root")
                .as_os_str()
                .to_owned(),
            node,
        );
    }
    nodes
}

/// Asserts that two trees are the same; the message names the first differing paths, not their
/// contents.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    let (mine, theirs) = (read(left), read(right));
    let paths: std::collections::BTreeSet<_> = mine.keys().chain(theirs.keys()).collect();
    let differing: Vec<_> = paths
        .into_iter()
        .filter(|path| mine.get(*path) != theirs.get(*path))
        .take(10)
        .collect();
    assert!(
        differing.is_empty(),
        "{} and {} differ at {differing:?}",
        left.display(),
        right.display()
    );
}
