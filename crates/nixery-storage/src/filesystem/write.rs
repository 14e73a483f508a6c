//! Writing objects: temporary file, fsync, rename, fsync of the folder.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use super::read::is_object;
use super::scratch::TMP;
use super::{Root, failed};
use crate::{BLOBS, Folder, Key, Operation, PutMode, PutOutcome, StorageError};

/// Bytes written by [`Root::probe`]: a whole block, which fails on a full disk.
const PROBE_BYTES: usize = 4096;
const NOT_A_FILE: &str = "a link, pipe, socket or device is in its place. Fix: remove it";

impl Root {
    pub(super) fn put_file(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        let spooled = File::open(spool)
            .and_then(|file| Ok((file.metadata()?, file)))
            .map_err(|source| StorageError::spool(key, spool, source));
        let (metadata, file) = spooled?;
        if !metadata.is_file() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(StorageError::spool(key, spool, source));
        }
        if self.has(key, metadata.len()) {
            return self
                .sync_folder(key.folder())
                .map_err(failed(Operation::Write, key));
        }
        let write = || {
            // A hard link costs nothing. A link to a symbolic link would not share the bytes.
            if fs::symlink_metadata(spool).is_ok_and(|metadata| metadata.is_file())
                && let Ok(linked) = self.scratch.link(spool)
            {
                linked.as_file().sync_all()?;
                return self.publish(linked.into_temp_path(), key, PutMode::Replace);
            }
            let mut copy = self.scratch.file()?;
            // Copies within the kernel, or shares the blocks where the file system can.
            io::copy(&mut &file, copy.as_file_mut())?;
            copy.as_file().sync_all()?;
            self.publish(copy.into_temp_path(), key, PutMode::Replace)
        };
        write().map(drop).map_err(failed(Operation::Write, key))
    }

    pub(super) fn put(
        &self,
        key: &Key,
        bytes: &[u8],
        mode: PutMode,
    ) -> Result<PutOutcome, StorageError> {
        let write = || {
            if mode == PutMode::CreateNew
                && let Ok(metadata) = self.path(key).symlink_metadata()
            {
                return if is_object(&metadata, key)? {
                    Ok(PutOutcome::AlreadyExists)
                } else {
                    // To remove it could remove an object that another writer has just created.
                    Err(io::Error::new(io::ErrorKind::InvalidInput, NOT_A_FILE))
                };
            }
            let mut file = self.scratch.file()?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            self.publish(file.into_temp_path(), key, mode)
        };
        write().map_err(failed(Operation::Write, key))
    }

    /// Gives a complete file its final name, durably, and removes the temporary name.
    fn publish(&self, temp: TempPath, key: &Key, mode: PutMode) -> io::Result<PutOutcome> {
        let target = self.path(key);
        let rename = |temp: TempPath| match mode {
            PutMode::Replace => temp.persist(&target),
            PutMode::CreateNew => temp.persist_noclobber(&target),
        };
        let renamed = rename(temp).or_else(|error| {
            if error.error.kind() != io::ErrorKind::NotFound {
                return Err(error.error);
            }
            // The folder's first object, or the root was cleared under a running server.
            fs::create_dir_all(self.folder(key.folder()))?;
            File::open(&self.path)?.sync_all()?;
            rename(error.path).map_err(|error| error.error)
        });
        match renamed {
            Ok(()) => {}
            Err(error)
                if mode == PutMode::CreateNew && error.kind() == io::ErrorKind::AlreadyExists =>
            {
                return Ok(PutOutcome::AlreadyExists);
            }
            Err(error) => return Err(error),
        }
        self.sync_folder(key.folder())?;
        Ok(PutOutcome::Stored)
    }

    /// Whether the object exists with this size. An object of another size is damaged, because
    /// only complete files get their final name.
    fn has(&self, key: &Key, size: u64) -> bool {
        fs::symlink_metadata(self.path(key))
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
    }

    /// Makes renames within the folder durable.
    pub(super) fn sync_folder(&self, folder: Folder) -> io::Result<()> {
        File::open(self.folder(folder))?.sync_all()
    }

    /// The names of all folders with objects: `layers`, and all others except `tmp`.
    fn folders(&self) -> io::Result<Vec<PathBuf>> {
        let mut folders = vec![PathBuf::from(BLOBS.name())];
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = PathBuf::from(entry.file_name());
            if entry.path().is_dir() && name != Path::new(TMP) && name != folders[0] {
                folders.push(name);
            }
        }
        Ok(folders)
    }

    /// Writes a block, moves it into each folder and removes it, to test that objects can be
    /// stored.
    pub(super) fn probe(&self) -> Result<(), StorageError> {
        for folder in self.folders().map_err(failed(Operation::Check, BLOBS))? {
            let write = || {
                let folder = self.path.join(&folder);
                fs::create_dir_all(&folder)?;
                let mut file = self.scratch.file()?;
                file.write_all(&[0; PROBE_BYTES])?;
                let temp = file.into_temp_path();
                // Listings skip names that begin with a dot.
                let mut name = std::ffi::OsString::from(".probe-");
                name.push(temp.file_name().unwrap_or_default());
                let probe = folder.join(name);
                temp.persist(&probe).map_err(|error| error.error)?;
                fs::remove_file(&probe)
            };
            write().map_err(failed(Operation::Check, folder.display()))?;
        }
        Ok(())
    }
}
