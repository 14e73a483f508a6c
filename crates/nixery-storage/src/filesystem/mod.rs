//! [`FilesystemStorage`]: objects as files in a directory, which several servers may share.

mod read;
mod scratch;
mod write;

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use rustix::fs::OFlags;

use crate::{
    BLOBS, BlobReader, ByteRange, Entry, Folder, Key, Operation, PutMode, PutOutcome, Space, Stat,
    Storage, StorageError,
};
use scratch::Scratch;

const BACKEND: &str = "filesystem";
const NO_SPACE: &str = "no space is left. Fix: free some, or choose another directory";

/// Opens what other programs may have put into the store: a pipe is not waited for, and a link is
/// not followed.
const NO_WAITING: i32 = OFlags::NONBLOCK.union(OFlags::NOFOLLOW).bits() as i32;

/// A store in a directory: `layers/<hex>` and other folders with objects, and `tmp/` with
/// temporary files. A folder is created with its first object.
///
/// All folders must be on one file system. Several processes may share the directory, also over
/// NFS. Cheap to clone; clones share their temporary folder, which the last one removes.
#[derive(Clone)]
pub struct FilesystemStorage {
    root: Arc<Root>,
}

/// What the blocking threads share.
struct Root {
    path: PathBuf,
    scratch: Scratch,
    /// Whether the last check could read but not write.
    read_only: AtomicBool,
}

impl Root {
    fn folder(&self, folder: Folder) -> PathBuf {
        self.path.join(folder.name())
    }

    fn path(&self, key: &Key) -> PathBuf {
        let mut path = self.folder(key.folder());
        path.push(key.name());
        path
    }

    /// Tests that the store can be written to, or at least be read, and remembers which.
    fn check(&self) -> Result<(), StorageError> {
        match self.probe() {
            Err(error @ StorageError::Denied { .. }) => self.only_read(error),
            probed => {
                probed?;
                if self.read_only.swap(false, Ordering::Relaxed) {
                    let path = self.path.display();
                    tracing::info!("the filesystem store at {path} can be written to again");
                }
                Ok(())
            }
        }
    }

    /// Accepts a store that can be read, after it refused to be written to.
    fn only_read(&self, refusal: StorageError) -> Result<(), StorageError> {
        if fs::read_dir(self.folder(BLOBS)).is_err() {
            return Err(refusal);
        }
        if !self.read_only.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the filesystem store at {} is read-only: its images are served, and others cannot be built. Fix: unless this is intended, let this user write to it",
                self.path.display()
            );
        }
        Ok(())
    }
}

impl FilesystemStorage {
    /// Opens the store at `root`, creates it if necessary, and tests that it can be written to. A
    /// store that can only be read is opened with a warning.
    ///
    /// Removes temporary files of processes that died. Blocks briefly; call it at start.
    ///
    /// # Errors
    /// [`StorageError::Open`] when `root` is not a directory, or cannot be created, read, or
    /// written to. The message says what is wrong and how to fix it.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let storage = Self::new(root.into());
        match storage.prepare() {
            Err(error) if is_refusal(&error) => storage.root.only_read(error)?,
            prepared => prepared?,
        }
        Ok(storage)
    }

    /// Creates the directories, and tests that objects can be stored.
    fn prepare(&self) -> Result<(), StorageError> {
        let path = &self.root.path;
        let prepare = || {
            fs::create_dir_all(path)?;
            fs::create_dir_all(self.root.folder(BLOBS))?;
            self.root.scratch.claim()?;
            File::open(path)?.sync_all()
        };
        prepare().map_err(|error| cannot_open(path, error))?;
        self.root.probe().map_err(|error| match error {
            StorageError::NoSpace { source, .. } => StorageError::Open {
                backend: BACKEND,
                location: path.display().to_string(),
                problem: NO_SPACE.into(),
                source: source.downcast().ok().map(|source| *source),
            },
            StorageError::Denied { source, .. } | StorageError::Failed { source, .. } => {
                match source.downcast::<io::Error>() {
                    Ok(source) => cannot_open(path, *source),
                    Err(source) => cannot_open(path, io::Error::other(source)),
                }
            }
            other => other,
        })
    }

    /// Opens an existing store without writing to it, for example one that is mounted read-only.
    ///
    /// # Errors
    /// [`StorageError::Open`] when there is no directory at `root`, or no store in it.
    pub fn open_existing(root: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let storage = Self::new(root.into());
        let path = &storage.root.path;
        fs::read_dir(path).map_err(|error| cannot_open(path, error))?;
        if !storage.root.folder(BLOBS).is_dir() {
            return Err(StorageError::Open {
                backend: BACKEND,
                location: path.display().to_string(),
                problem: "it contains no store: the directory `layers` is missing".into(),
                source: None,
            });
        }
        Ok(storage)
    }

    fn new(path: PathBuf) -> Self {
        let scratch = Scratch::new(&path);
        Self {
            root: Arc::new(Root {
                path,
                scratch,
                read_only: AtomicBool::new(false),
            }),
        }
    }

    /// The directory that holds the store.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root.path
    }

    /// Runs `work` on a blocking thread. It is completed even when the caller is cancelled.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: Operation,
        target: impl fmt::Display,
        work: impl FnOnce(&Arc<Root>) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let root = Arc::clone(&self.root);
        tokio::task::spawn_blocking(move || work(&root))
            .await
            .unwrap_or_else(|error| Err(failed(operation, target)(join(error))))
    }
}

impl fmt::Debug for FilesystemStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesystemStorage")
            .field("root", &self.root.path)
            .finish()
    }
}

#[async_trait]
impl Storage for FilesystemStorage {
    fn backend(&self) -> &'static str {
        BACKEND
    }

    async fn put_file(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        let (key, spool) = (*key, spool.to_owned());
        self.blocking(Operation::Write, key, move |root| {
            root.put_file(&key, &spool)
        })
        .await
    }

    async fn put(
        &self,
        key: &Key,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<PutOutcome, StorageError> {
        let key = *key;
        self.blocking(Operation::Write, key, move |root| {
            root.put(&key, &bytes, mode)
        })
        .await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        let key = *key;
        let opened = self
            .blocking(Operation::Read, key, move |root| root.open(&key, range))
            .await?;
        Ok(opened.map(read::Opened::reader))
    }

    async fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError> {
        let key = *key;
        self.blocking(Operation::Stat, key, move |root| root.stat(&key))
            .await
    }

    async fn list(
        &self,
        folder: Folder,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        self.list_prefix(folder, "").await
    }

    async fn list_prefix(
        &self,
        folder: Folder,
        prefix: &str,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        let listing = self
            .blocking(Operation::List, folder, move |root| root.list(folder))
            .await?;
        Ok(read::entries(listing, folder, prefix.into()))
    }

    async fn delete(&self, key: &Key) -> Result<bool, StorageError> {
        let key = *key;
        self.blocking(Operation::Delete, key, move |root| {
            match fs::remove_file(root.path(&key)) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(failed(Operation::Delete, key)(error)),
            }
        })
        .await
    }

    async fn space(&self) -> Result<Option<Space>, StorageError> {
        self.blocking(Operation::Stat, "its file system", |root| {
            let space = Space::of_folder(&root.path);
            space
                .map(Some)
                .map_err(failed(Operation::Stat, "its file system"))
        })
        .await
    }

    async fn check(&self) -> Result<(), StorageError> {
        self.blocking(Operation::Check, "itself", |root| root.check())
            .await
    }

    fn is_read_only(&self) -> bool {
        self.root.read_only.load(Ordering::Relaxed)
    }
}

/// For `map_err`: adds operation and target to an error.
fn failed(
    operation: Operation,
    target: impl fmt::Display,
) -> impl FnOnce(io::Error) -> StorageError {
    move |source| StorageError::io(BACKEND, operation, target, source)
}

/// Whether the store cannot be opened because it may not be written to.
fn is_refusal(error: &StorageError) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let StorageError::Open {
        source: Some(source),
        ..
    } = error
    else {
        return false;
    };
    matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem)
}

/// A task on the blocking threads panicked, or the runtime is shutting down.
fn join(error: tokio::task::JoinError) -> io::Error {
    io::Error::other(error)
}

fn cannot_open(path: &Path, error: io::Error) -> StorageError {
    let problem = match error.kind() {
        io::ErrorKind::NotFound => "there is no such directory".to_owned(),
        // Creating a directory where a file is fails with "already exists".
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "it, one of its parents or one of its folders is a file, not a directory".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not write to it. Fix: change its owner, or choose another directory"
                .to_owned()
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only. Fix: mount it writable, or choose another directory"
                .to_owned()
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => NO_SPACE.to_owned(),
        io::ErrorKind::CrossesDevices => {
            "its folders are on different file systems. Fix: move all of them to one".to_owned()
        }
        _ => "it cannot be used".to_owned(),
    };
    StorageError::Open {
        backend: BACKEND,
        location: path.display().to_string(),
        problem,
        source: Some(error),
    }
}
