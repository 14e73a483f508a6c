//! The space of the file system that holds a store or a folder.

use std::io;
use std::path::Path;

/// How much a file system can hold, and how much of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub bytes: Capacity,
    /// Files (inodes); `None` where their number is not limited.
    pub files: Option<Capacity>,
}

/// An amount of bytes or files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// The whole amount.
    pub total: u64,
    /// What this user can still use.
    pub available: u64,
}

impl Space {
    /// Returns the space of the file system that a folder is on. May block for as long as the file
    /// system does.
    ///
    /// # Errors
    /// The folder does not exist or cannot be accessed.
    pub fn of_folder(folder: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        // btrfs, for example, has no limit and returns 0.
        let files = (stat.f_files > 0).then_some(Capacity {
            total: stat.f_files,
            available: stat.f_favail,
        });
        Ok(Self {
            bytes: Capacity {
                total: bytes(stat.f_blocks),
                available: bytes(stat.f_bavail),
            },
            files,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_space() {
        let folder = tempfile::tempdir().unwrap();
        let space = Space::of_folder(folder.path()).unwrap();
        assert!(space.bytes.available > 0 && space.bytes.available <= space.bytes.total);
        if let Some(files) = space.files {
            assert!(files.available > 0 && files.available <= files.total);
        }
        let missing = Space::of_folder(&folder.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
