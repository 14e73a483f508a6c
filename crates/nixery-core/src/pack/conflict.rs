//! What was left out of a root layer because something else had its place.

use std::fmt;
use std::path::PathBuf;

/// Something of a package that is not in the root of the image. It still is in the image, at its
/// store path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The path in the image that both want, absolute.
    pub path: PathBuf,
    /// What is there: a path in the store, or `None` if it is the image's own.
    pub kept: Option<PathBuf>,
    /// What is left out: a path in the store.
    pub skipped: PathBuf,
    /// Why not both.
    pub kind: ConflictKind,
}

/// Why two things cannot share a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConflictKind {
    /// Both are files; the first package wins. Usual: two versions of one program.
    SameName,
    /// One is a directory and the other is not.
    FileAndDirectory,
    /// The place belongs to the Nix store.
    Reserved,
    /// A link to a directory that holds the link, met by another directory.
    Loop,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is ", self.path)?;
        match &self.kept {
            Some(kept) => write!(f, "{kept:?}")?,
            None => f.write_str("the image's own")?,
        }
        let why = match self.kind {
            ConflictKind::SameName => "has the same name",
            ConflictKind::FileAndDirectory => "has the same name, and one of them is a directory",
            ConflictKind::Reserved => "would be in the image's Nix store",
            ConflictKind::Loop => "links to a directory that holds it",
        };
        write!(f, "; {:?}, which {why}, is left out", self.skipped)
    }
}
