//! This process's own directory: spool files and temporary GC roots, gone when it ends.
//!
//! Several processes may share one spool directory. Each holds a lock in a directory of its own
//! while it lives, however it dies; a process that starts removes the directories whose lock
//! nobody holds.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::{NamedTempFile, TempDir};

/// Start of the names of instance directories.
const PREFIX: &str = "nixery-";
/// The file in an instance directory that its owner keeps locked.
const LOCK: &str = "lock";
/// Held from the making of a directory until it is locked: whoever holds it and finds a directory
/// unlocked knows that its owner is dead.
const GATE: &str = ".nixery.lock";

/// The directory of one process.
#[derive(Debug)]
pub struct InstanceDir {
    dir: TempDir,
    lock: Mutex<File>,
}

impl InstanceDir {
    /// Makes one below `spool_dir`, which is made as well, and clears away those of the dead.
    pub fn open(spool_dir: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        fs::create_dir_all(spool_dir).map_err(at(spool_dir))?;
        // GC roots are links to absolute paths.
        let spool_dir = &spool_dir.canonicalize().map_err(at(spool_dir))?;

        let gate = spool_dir.join(GATE);
        let (_gate, alone) = locked(&gate).map_err(at(&gate))?;
        if alone {
            remove_dead(spool_dir);
        } else {
            tracing::warn!(
                path = %spool_dir.display(),
                "this file system has no file locks: what dead processes leave here stays"
            );
        }
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(spool_dir)
            .map_err(at(spool_dir))?;
        let (lock, _) = locked(&dir.path().join(LOCK)).map_err(at(dir.path()))?;
        Ok(Self {
            dir,
            lock: Mutex::new(lock),
        })
    }

    /// Where it is; absolute.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A new file, deleted when the value is dropped.
    pub fn spool_file(&self) -> io::Result<NamedTempFile> {
        self.make(|dir| tempfile::Builder::new().prefix("layer-").tempfile_in(dir))
    }

    /// A new directory for GC roots. The roots end when the value is dropped.
    pub fn gc_roots(&self) -> io::Result<TempDir> {
        self.make(|dir| tempfile::Builder::new().prefix("roots-").tempdir_in(dir))
    }

    /// Makes something in the directory, and the directory again where somebody has cleared it
    /// away under a running server.
    pub fn make<T>(&self, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
        match make(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.restore()?;
                make(self.path())
            }
            result => result,
        }
    }

    fn restore(&self) -> io::Result<()> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.path().join(LOCK).exists() {
            return Ok(());
        }
        let spool_dir = self.path().parent().unwrap_or(self.path());
        fs::create_dir_all(spool_dir)?;
        let _gate = locked(&spool_dir.join(GATE))?;
        fs::create_dir_all(self.path())?;
        (*lock, _) = locked(&self.path().join(LOCK))?;
        tracing::warn!(path = %self.path().display(), "the spool directory was gone and is made again");
        Ok(())
    }
}

/// Makes and locks a file; `false` where the file system has no locks, as some over a network.
fn locked(path: &Path) -> io::Result<(File, bool)> {
    let file = File::create(path)?;
    match file.lock() {
        Ok(()) => Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok((file, false)),
        Err(error) => Err(error),
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
    fn a_directory_that_is_cleared_away_is_made_again() {
        let spool = tempfile::tempdir().expect("temp dir");
        let dir = spool.path().join("spool");
        let instance = InstanceDir::open(&dir).expect("opens");
        for _ in 0..2 {
            fs::remove_dir_all(&dir).expect("removes");
            let file = instance.spool_file().expect("makes");
            let roots = instance.gc_roots().expect("makes");
            assert!(file.path().exists() && roots.path().exists());
            // It is locked as before: nobody takes it for that of a dead process.
            let _other = InstanceDir::open(&dir).expect("opens");
            assert!(file.path().exists() && roots.path().exists());
        }
    }

    #[test]
    fn a_spool_that_is_a_file_is_named() {
        let spool = tempfile::NamedTempFile::new().expect("temp file");
        let (path, _) = InstanceDir::open(spool.path()).expect_err("not a directory");
        assert_eq!(path, spool.path());
    }
}
