//! Temporary files next to the objects, and getting rid of those of dead processes.
//!
//! Every open store has a folder of its own under `ROOT/tmp`, with a lock file in it that it holds
//! for as long as it lives. The kernel lets go of the lock when the process dies, however it dies,
//! so a folder whose lock can be had belongs to nobody. Process numbers would not do: two
//! containers that share a root see different ones.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::NamedTempFile;

/// Where the folders of all writers are.
pub(super) const TMP: &str = "tmp";
/// Held while a folder is made or stale ones are removed, so that a new one is not taken for stale.
const GATE: &str = "gate.lock";
/// Held by the owner of a folder.
const LOCK: &str = "owner.lock";
/// How the folders' names begin.
const PREFIX: &str = "writer-";
/// Objects never change once they have a name; readable for all, as web servers may share the root.
const FILE_MODE: u32 = 0o444;

/// The temporary files of one open store. The folder is made when first needed.
#[derive(Debug)]
pub(super) struct Scratch {
    tmp: PathBuf,
    own: Mutex<Option<Own>>,
}

#[derive(Debug)]
struct Own {
    dir: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

impl Scratch {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            tmp: root.join(TMP),
            own: Mutex::new(None),
        }
    }

    /// Makes this store's folder and removes those that dead processes left.
    pub(super) fn claim(&self) -> io::Result<()> {
        self.folder(false).map(drop)
    }

    /// A new, empty, unnamed-to-readers file on the file system of the objects.
    pub(super) fn file(&self) -> io::Result<NamedTempFile> {
        self.make(|path| {
            use std::os::unix::fs::OpenOptionsExt;
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(FILE_MODE)
                .open(path)
        })
    }

    /// Another name for `spool`, made read-only as two names share the bytes.
    ///
    /// Fails where the file system cannot link, or the spool is on another one.
    pub(super) fn link(&self, spool: &Path) -> io::Result<NamedTempFile> {
        self.make(|path| {
            use std::os::unix::fs::PermissionsExt;
            fs::hard_link(spool, path)?;
            let linked = fs::set_permissions(path, fs::Permissions::from_mode(FILE_MODE))
                .and_then(|()| File::open(path));
            if linked.is_err() {
                let _ = fs::remove_file(path);
            }
            linked
        })
    }

    /// Makes a file under an unused name, which is removed when the result is dropped.
    fn make(&self, mut create: impl FnMut(&Path) -> io::Result<File>) -> io::Result<NamedTempFile> {
        let mut attempt = |dir: &Path| tempfile::Builder::new().make_in(dir, &mut create);
        match attempt(&self.folder(false)?) {
            // Somebody cleared the root under a running server. Nothing is lost: start again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => attempt(&self.folder(true)?),
            result => result,
        }
    }

    fn folder(&self, check_that_it_exists: bool) -> io::Result<PathBuf> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if check_that_it_exists && own.as_ref().is_some_and(|own| !own.dir.is_dir()) {
            *own = None;
        }
        if let Some(own) = &*own {
            return Ok(own.dir.clone());
        }
        let new = claim(&self.tmp)?;
        let dir = new.dir.clone();
        *own = Some(new);
        Ok(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let own = self.own.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = own.take() {
            // What stays is removed by the next process that opens the root.
            let _ = fs::remove_dir_all(&own.dir);
        }
    }
}

fn claim(tmp: &Path) -> io::Result<Own> {
    fs::create_dir_all(tmp)?;
    let gate = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(tmp.join(GATE))?;
    if lock(&gate)? {
        remove_stale(tmp)?;
    } else {
        tracing::warn!(
            "the file system of {} has no file locks: temporary files of dead processes stay",
            tmp.display()
        );
    }
    let dir = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(tmp)?
        .keep();
    let owner = File::create(dir.join(LOCK))?;
    lock(&owner)?;
    Ok(Own { dir, _lock: owner })
}

/// `false` where the file system has no locks.
fn lock(file: &File) -> io::Result<bool> {
    match file.lock() {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(false),
        Err(error) => Err(error),
    }
}

fn remove_stale(tmp: &Path) -> io::Result<()> {
    for entry in fs::read_dir(tmp)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let dir = entry.path();
        let stale = match OpenOptions::new().write(true).open(dir.join(LOCK)) {
            Ok(owner) => match owner.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
            },
            // Died between making the folder and the lock file: both happen behind the gate.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !stale {
            continue;
        }
        match fs::remove_dir_all(&dir) {
            Ok(()) => tracing::info!("removed the temporary files of a dead process: {dir:?}"),
            // Not worth refusing to start over.
            Err(error) => tracing::warn!("cannot remove stale temporary files {dir:?}: {error}"),
        }
    }
    Ok(())
}
