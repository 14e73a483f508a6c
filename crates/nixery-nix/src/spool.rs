//! A directory for one process: spool files and temporary GC roots, deleted when it ends.
//!
//! Several processes may share one spool directory. Each makes a directory of its own in it and
//! holds a lock there until it ends. The system releases the lock of a process that is killed; a
//! process that starts removes the directories without a held lock.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::{NamedTempFile, TempDir};

/// Start of the names of instance directories.
const PREFIX: &str = "nixery-";
/// The file in an instance directory that its owner keeps locked.
const LOCK: &str = "lock";
/// Held from the creation of a directory until that directory is locked: for the holder, the owner
/// of an unlocked directory is dead.
const GATE: &str = ".nixery.lock";

/// A spool directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path} for spool files. Fix: make it a directory that this user may write to")]
#[non_exhaustive]
pub struct SpoolError {
    /// The directory or file that was tried.
    pub path: PathBuf,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

/// The directory of one process.
#[derive(Debug)]
pub struct InstanceDir {
    dir: TempDir,
    lock: Mutex<File>,
}

impl InstanceDir {
    /// Makes one below `spool_dir`, which is made as well, and removes those of dead processes.
    ///
    /// # Errors
    /// This user cannot write there.
    pub fn open(spool_dir: &Path) -> Result<Self, SpoolError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| SpoolError { path, source }
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
                "this file system has no file locks: files of dead processes are not removed"
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

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Creates a file that is deleted when the value is dropped.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn spool_file(&self) -> io::Result<NamedTempFile> {
        self.make(|dir| tempfile::Builder::new().prefix("layer-").tempfile_in(dir))
    }

    /// Creates a directory for GC roots, which end when the value is dropped.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn gc_roots(&self) -> io::Result<TempDir> {
        self.make(|dir| tempfile::Builder::new().prefix("roots-").tempdir_in(dir))
    }

    /// Calls `make` with the directory, which is first made again if somebody has deleted it
    /// since.
    ///
    /// # Errors
    /// That of `make`, or the directory cannot be made again.
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
        tracing::warn!(path = %self.path().display(), "the spool directory was deleted; it is created again");
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
    for entry in fs::read_dir(spool_dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX))
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !ours || !is_dead(&path) {
            continue;
        }
        let shown = path.display();
        match fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!(path = %shown, "removed the files of a dead process"),
            Err(error) => {
                tracing::warn!(path = %shown, %error, "cannot remove the files of a dead process");
            }
        }
    }
}

fn is_dead(dir: &Path) -> bool {
    match File::open(dir.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_dead_processes_are_removed() {
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
    fn a_deleted_directory_is_made_again() {
        let spool = tempfile::tempdir().expect("temp dir");
        let dir = spool.path().join("spool");
        let instance = InstanceDir::open(&dir).expect("opens");
        for _ in 0..2 {
            fs::remove_dir_all(&dir).expect("removes");
            let file = instance.spool_file().expect("makes");
            let roots = instance.gc_roots().expect("makes");
            assert!(file.path().exists() && roots.path().exists());
            // It is locked as before: another process does not remove it.
            let _other = InstanceDir::open(&dir).expect("opens");
            assert!(file.path().exists() && roots.path().exists());
        }
    }

    #[test]
    fn the_error_names_a_spool_that_is_a_file() {
        let spool = tempfile::NamedTempFile::new().expect("temp file");
        let error = InstanceDir::open(spool.path()).expect_err("not a directory");
        assert_eq!(error.path, spool.path());
    }
}
