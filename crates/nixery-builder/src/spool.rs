//! This process's own directory: spool files and temporary GC roots, gone when it ends.
//!
//! Several processes may share one spool directory. Each holds a lock in a directory of its own
//! while it lives, however it dies; a process that starts removes the directories whose lock
//! nobody holds.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

/// Start of the names of instance directories.
const PREFIX: &str = "nixery-";
/// The file in an instance directory that its owner keeps locked.
const LOCK: &str = "lock";

/// The directory of one process.
#[derive(Debug)]
pub(crate) struct InstanceDir {
    dir: TempDir,
    _lock: File,
}

impl InstanceDir {
    /// Makes one below `spool_dir`, which is made as well, and clears away those of the dead.
    pub(crate) fn open(spool_dir: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        fs::create_dir_all(spool_dir).map_err(at(spool_dir))?;
        // GC roots are links to absolute paths.
        let spool_dir = &spool_dir.canonicalize().map_err(at(spool_dir))?;

        // Held from the making of a directory until it is locked: whoever holds it and finds a
        // directory unlocked knows that its owner is dead.
        let gate_path = spool_dir.join(".nixery.lock");
        let gate = File::create(&gate_path).map_err(at(&gate_path))?;
        gate.lock().map_err(at(&gate_path))?;
        remove_dead(spool_dir);
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(spool_dir)
            .map_err(at(spool_dir))?;
        let lock = File::create(dir.path().join(LOCK)).map_err(at(dir.path()))?;
        lock.lock().map_err(at(dir.path()))?;
        Ok(Self { dir, _lock: lock })
    }

    /// Where it is; absolute.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A new file, deleted when the value is dropped.
    pub(crate) fn spool_file(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix("layer-")
            .tempfile_in(self.path())
    }

    /// A new directory for GC roots. The roots end when the value is dropped.
    pub(crate) fn gc_roots(&self) -> io::Result<TempDir> {
        tempfile::Builder::new()
            .prefix("roots-")
            .tempdir_in(self.path())
    }
}

fn remove_dead(spool_dir: &Path) {
    let Ok(entries) = fs::read_dir(spool_dir) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX));
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_dead(&entry.path()) {
            let path = entry.path();
            match fs::remove_dir_all(&path) {
                Ok(()) => {
                    tracing::info!(path = %path.display(), "removed what a dead process left")
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove what a dead process left");
                }
            }
        }
    }
}

fn is_dead(dir: &Path) -> bool {
    match File::open(dir.join(LOCK)) {
        Ok(lock) => match lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
        },
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_removed_and_the_living_are_not() {
        let spool = tempfile::tempdir().expect("temp dir");
        let living = InstanceDir::open(spool.path()).expect("opens");
        for dead in ["nixery-dead", "nixery-died-early", "other"] {
            fs::create_dir(spool.path().join(dead)).expect("mkdir");
        }
        fs::write(spool.path().join("nixery-dead/lock"), "").expect("write");
        fs::write(spool.path().join("nixery-dead/layer-1"), "half").expect("write");

        let second = InstanceDir::open(spool.path()).expect("opens");
        assert!(living.path().exists() && second.path().exists());
        assert!(!spool.path().join("nixery-dead").exists());
        assert!(!spool.path().join("nixery-died-early").exists());
        assert!(spool.path().join("other").exists(), "not ours");

        let gone = second.path().to_owned();
        drop(second);
        assert!(!gone.exists());
    }

    #[test]
    fn a_spool_that_is_a_file_is_named() {
        let spool = tempfile::NamedTempFile::new().expect("temp file");
        let (path, _) = InstanceDir::open(spool.path()).expect_err("not a directory");
        assert_eq!(path, spool.path());
    }
}
