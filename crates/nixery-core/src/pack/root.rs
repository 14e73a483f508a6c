//! The last layer of an image: symbolic links into its packages, and the files and directories that
//! programs expect at fixed places.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::PackError;
use super::blocks::BlockSink;
use super::forest::Forest;
use super::resolve::{Resolver, Target};
use super::tar::TarWriter;
use super::walk::{self, PARENT_MODE, WHITEOUT, entry_name};
use crate::{StorePath, StoreRoot};

/// The store directory of an image without packages.
const DEFAULT_STORE: &str = "/nix/store";

/// The image's own directories with their modes. Packages can put things into them, not replace
/// them. The first three are where a container's kernel file systems go.
const DIRECTORIES: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("proc", 0o755),
    ("sys", 0o755),
    ("etc", 0o755),
    ("root", 0o700),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/empty", 0o555),
    ("var/tmp", 0o1777),
];

/// Mode of the files below.
const FILE_MODE: u32 = 0o644;

const SHELL: &str = "/bin/sh";
/// The shell of accounts without one. The image does not have this file.
const NO_SHELL: &str = "/sbin/nologin";

const GROUP: &str = "root:x:0:\nnobody:x:65534:\n";

/// Files first, then DNS for host names: what glibc does without this file differs by version,
/// and Go's resolver reads it too.
const NSSWITCH: &str = "\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
";

/// The plan of an image's root layer: the entries in the order of the layer, and what is left out.
///
/// - Every directory of a package is a directory, 0755; everything else of a package is a link to
///   its absolute store path. Directories of several packages merge. Where two packages have a
///   file of the same name, or a file and a directory, the first wins, and a [`Conflict`] is
///   recorded.
/// - A link to a directory stays a link until it meets another directory; then the two merge.
///   Links are followed as the image will see them, inside of the store only.
/// - A package that is one executable file becomes `/bin/NAME`, where NAME is the package's name
///   without the version. A package that is another file, or a link to nothing, adds nothing (see
///   [`unlinked`](Self::unlinked)). A package that is a link to a directory counts as that
///   directory.
/// - `nix-support` at the top of a package is left out: it is for builds of other packages.
/// - The image has directories of its own: `/tmp` and `/var/tmp` 1777, `/root` 0700, `/var/empty`
///   0555, `/dev`, `/proc`, `/sys` and `/etc`; the store's directories with the modes of the other
///   layers.
/// - `/bin/sh` leads to `bash` if no package has a `sh`, `/usr/bin/env` to the packages' `env`,
///   and `/etc/ssl/certs/ca-certificates.crt` (where most programs look) to `ca-bundle.crt` (what
///   nixpkgs' `cacert` has): each only if that is there.
/// - `/etc/passwd`, `/etc/group` (root and nobody) and `/etc/nsswitch.conf` are files, 0644,
///   unless a package has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootLayer {
    entries: Vec<RootEntry>,
    conflicts: Vec<Conflict>,
    unlinked: Vec<StorePath>,
}

/// An entry of a root layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootEntry {
    /// The path in the image, without the slash in front.
    pub path: PathBuf,
    /// What is there.
    pub kind: RootEntryKind,
}

/// What an entry of a root layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootEntryKind {
    /// A directory.
    Directory {
        /// Its permissions, the sticky bit included.
        mode: u32,
    },
    /// A file of the image's own.
    File {
        /// Its permissions.
        mode: u32,
        /// What it holds.
        contents: Vec<u8>,
    },
    /// A symbolic link.
    Link {
        /// Where it leads: an absolute path in the store.
        target: PathBuf,
    },
}

impl RootLayer {
    /// Plans the root layer of packages, given in the order of their precedence.
    ///
    /// Reads directories and links of the packages, but no file. All packages have to be in the
    /// store.
    ///
    /// # Errors
    /// A package is missing, cannot be listed, or has what no layer may hold; or the packages are
    /// of different stores or have more than a million files.
    pub fn plan(packages: &[StorePath], store: &StoreRoot) -> Result<Self, PackError> {
        let directory = packages
            .first()
            .map_or(Path::new(DEFAULT_STORE), |path| Path::new(path.store_dir()));
        let resolver = Resolver::new(store, directory.to_owned());
        let mut forest = Forest::new(resolver);
        for parent in walk::parents(&directory.join("path")) {
            if let Some(parent) = parent.to_str() {
                forest.add_directory(parent.trim_start_matches('/'), PARENT_MODE)?;
            }
        }
        for &(path, mode) in DIRECTORIES {
            forest.add_directory(path, mode)?;
        }

        let mut unlinked = Vec::new();
        for package in packages {
            if Path::new(package.store_dir()) != directory {
                return Err(PackError::MixedStores {
                    first: directory.to_owned(),
                    second: package.as_str().into(),
                });
            }
            if !add_package(&mut forest, package, store)? {
                unlinked.push(package.clone());
            }
        }
        add_fixed_places(&mut forest)?;

        let (mut entries, conflicts) = forest.finish();
        entries.sort_by_cached_key(RootEntry::name);
        Ok(Self {
            entries,
            conflicts,
            unlinked,
        })
    }

    /// The entries, bytewise sorted by their names in the layer.
    pub fn entries(&self) -> &[RootEntry] {
        &self.entries
    }

    /// The parts of packages that are left out, in the order in which they were found.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// The packages without anything to link: single files that are not programs, dangling links.
    /// They are in the image at their store paths only.
    pub fn unlinked(&self) -> &[StorePath] {
        &self.unlinked
    }
}

impl RootEntry {
    /// The name of the entry in the layer.
    fn name(&self) -> Vec<u8> {
        let directory = matches!(self.kind, RootEntryKind::Directory { .. });
        entry_name(&self.path, directory)
    }
}

/// A file or directory of a package that is not in the root of the image, because another one has
/// its place. It is in the image at its store path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The path in the image that both want, absolute.
    pub path: PathBuf,
    /// What is in the image: a path in the store, or `None` for the image's own.
    pub kept: Option<PathBuf>,
    /// What is left out: a path in the store.
    pub skipped: PathBuf,
    /// Why only one of them can be there.
    pub kind: ConflictKind,
}

/// Why two things cannot share a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConflictKind {
    /// Both are files, usually of two versions of one program. The first package wins.
    SameName,
    /// One is a directory and the other is not.
    FileAndDirectory,
    /// The place belongs to the Nix store.
    Reserved,
    /// A link to a directory that holds the link, met by another directory.
    Loop,
}

/// The path has no leading slash: logs are shown without paths of the server, and this is not one.
impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.path.strip_prefix("/").unwrap_or(&self.path);
        write!(f, "{} is ", place.display())?;
        match &self.kept {
            Some(kept) => write!(f, "{}", kept.display())?,
            None => f.write_str("the image's own")?,
        }
        write!(f, "; {} is left out", self.skipped.display())
    }
}

/// Writes the entries of a root layer.
pub(super) fn write<S: BlockSink>(
    tar: &mut TarWriter<S>,
    root: &RootLayer,
) -> Result<(), PackError> {
    for entry in &root.entries {
        let name = entry.name();
        match &entry.kind {
            RootEntryKind::Directory { mode } => tar.directory(&name, *mode),
            RootEntryKind::Link { target } => tar.link(&name, target.as_os_str().as_bytes()),
            RootEntryKind::File { mode, contents } => {
                tar.file(&name, *mode, contents.len() as u64, contents.as_slice())
            }
        }
        .map_err(|error| walk::failed(&entry.path, error))?;
    }
    Ok(())
}

/// Links a package into the forest. Returns false if it has nothing to link.
fn add_package(
    forest: &mut Forest<'_>,
    package: &StorePath,
    store: &StoreRoot,
) -> Result<bool, PackError> {
    let path = Path::new(package.as_str());
    walk::inspect(store, path)?;
    match forest.resolve(path)? {
        Target::Directory(directory) => forest.merge(&directory)?,
        target if target.is_program() => {
            let name = match package.package_name() {
                "" => package.name(),
                name => name,
            };
            if name.as_bytes().starts_with(WHITEOUT) {
                let path = path.to_owned();
                return Err(PackError::Whiteout { path });
            }
            forest.add_program(&format!("bin/{name}"), path)?;
        }
        Target::File { .. } | Target::Nowhere => return Ok(false),
    }
    Ok(true)
}

/// Adds what programs expect at fixed places, unless a package has it.
fn add_fixed_places(forest: &mut Forest<'_>) -> Result<(), PackError> {
    let file = |target: &Target| matches!(target, Target::File { .. });
    let shell = forest.add_alias("bin/sh", "bin/bash", Target::is_program)?;
    forest.add_alias("usr/bin/env", "bin/env", Target::is_program)?;
    forest.add_alias(
        "etc/ssl/certs/ca-certificates.crt",
        "etc/ssl/certs/ca-bundle.crt",
        file,
    )?;

    let shell = if shell { SHELL } else { NO_SHELL };
    let passwd = format!(
        "root:x:0:0:root:/root:{shell}\nnobody:x:65534:65534:nobody:/var/empty:{NO_SHELL}\n"
    );
    forest.add_file("etc/passwd", FILE_MODE, passwd.into_bytes())?;
    forest.add_file("etc/group", FILE_MODE, GROUP.into())?;
    forest.add_file("etc/nsswitch.conf", FILE_MODE, NSSWITCH.into())
}
