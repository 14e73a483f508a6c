//! Temporary files next to the objects, and the removal of those of dead processes.
//!
//! Every open store has its own folder under `ROOT/tmp`, and holds the lock on a file in it. The
//! kernel releases the lock when the process ends in any way, so a folder whose lock is free has
//! no owner. Process IDs do not identify the owner: containers that share a root have different
//! ones.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::NamedTempFile;

use super::NO_WAITING;

/// Where the folders of all writers are.
pub(super) const TMP: &str = "tmp";
/// Locked while a folder is created or stale ones are removed: a new folder is not stale.
const GATE: &str = "gate.lock";
/// Locked by the owner of a folder.
const LOCK: &str = "owner.lock";
/// The prefix of the folders' names.
const PREFIX: &str = "writer-";
/// Objects never change. All users may read them, because a web server may share the root.
const FILE_MODE: u32 = 0o444;

/// The temporary files of one open store. The folder is created when first needed.
#[derive(Debug)]
pub(super) struct Scratch {
    tmp: PathBuf,
    own: Mutex<Option<Own>>,
}

#[derive(Debug)]
struct Own {
    dir: PathBuf,
    /// Locked while it is open.
    _lock: File,
}

impl Scratch {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            tmp: root.join(TMP),
            own: Mutex::new(None),
        }
    }

    /// Creates this store's folder, and removes those of dead processes.
    pub(super) fn claim(&self) -> io::Result<()> {
        self.folder(false).map(drop)
    }

    /// A new, empty file that readers do not see, on the file system of the objects.
    pub(super) fn file(&self) -> io::Result<NamedTempFile> {
        self.make(|path| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(FILE_MODE)
                .open(path)
        })
    }

    /// A hard link to `spool`, which is made read-only because both names share the bytes.
    ///
    /// Fails when the file system has no hard links, or `spool` is on another one.
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

    /// Creates a file under an unused name. It is removed when the result is dropped.
    fn make(&self, mut create: impl FnMut(&Path) -> io::Result<File>) -> io::Result<NamedTempFile> {
        let mut attempt = |dir: &Path| tempfile::Builder::new().make_in(dir, &mut create);
        match attempt(&self.folder(false)?) {
            // The root was cleared under a running server.
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
            // The next process that opens the root removes what remains.
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
        .custom_flags(NO_WAITING)
        .open(tmp.join(GATE))?;
    if lock(&gate)? {
        remove_stale(tmp)?;
    } else {
        tracing::warn!(
            "the file system of {} has no file locks: temporary files of dead processes are not removed",
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

/// Returns `false` when the file system has no locks.
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
        let owner = OpenOptions::new()
            .write(true)
            .custom_flags(NO_WAITING)
            .open(dir.join(LOCK));
        let stale = match owner {
            Ok(owner) => match owner.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
            },
            // The process died before it created the lock file. Both happen under the gate's lock.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !stale {
            continue;
        }
        match fs::remove_dir_all(&dir) {
            Ok(()) => tracing::info!("removed temporary files of a dead process: {dir:?}"),
            // This is no reason to refuse to start.
            Err(error) => {
                tracing::warn!("cannot remove temporary files of a dead process, {dir:?}: {error}")
            }
        }
    }
    Ok(())
}
