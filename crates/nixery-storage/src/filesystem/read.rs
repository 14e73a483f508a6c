//! Reading objects and listing folders.
//!
//! `tokio::fs` uses a blocking thread for every call. Here one blocking call opens the object and
//! reads its size and first chunk. Further chunks that are in the page cache are read directly when
//! the reader wants them, which is only a copy. Other chunks are read by a blocking thread while
//! the chunk before is sent. No thread waits for a slow reader.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::task::JoinHandle;

use super::{BACKEND, NO_WAITING, Root, failed, join};
use crate::{
    BlobReader, ByteRange, Entry, Folder, Key, ObjectIdentity, Operation, Stat, StorageError,
};

/// Bytes read at once. Larger reads are hardly faster, and a slow client holds some chunks in
/// memory.
const CHUNK_BYTES: u64 = 64 * 1024;
const CHANGED: &str = "the object was written to while it was read";
const A_DIRECTORY: &str = "a directory is in the place of the object. Fix: remove it";
/// Entries listed per call on a blocking thread.
const LIST_BATCH: usize = 256;

impl Root {
    pub(super) fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError> {
        match fs::symlink_metadata(self.path(key)) {
            Ok(metadata) => {
                let is_object = is_object(&metadata, key);
                let is_object = is_object.map_err(failed(Operation::Stat, key))?;
                Ok(is_object.then(|| stat(&metadata)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(Operation::Stat, key)(error)),
        }
    }

    /// Opens an object and reads its first chunk.
    pub(super) fn open(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<Opened>, StorageError> {
        let failed_to_read = || failed(Operation::Read, key);
        let Some((mut file, metadata)) = self.open_file(key).map_err(failed_to_read())? else {
            return Ok(None);
        };
        let stat = stat(&metadata);
        let range = ByteRange::resolve(range, stat.size, key)?;
        if range.start > 0 {
            let start = SeekFrom::Start(range.start);
            file.seek(start).map_err(failed_to_read())?;
        }
        let mut source = Source {
            file,
            key: *key,
            start: range.start,
            total: range.len(),
            done: 0,
            modified: stat.modified,
        };
        let first = source.chunk()?;
        Ok(Some(Opened {
            stat,
            range,
            first,
            source,
        }))
    }

    /// Opens the file of an object; `None` if there is no object. Does not wait for a pipe's
    /// writer, and does not follow a link.
    fn open_file(&self, key: &Key) -> io::Result<Option<(File, fs::Metadata)>> {
        let path = self.path(key);
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(NO_WAITING)
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                // A link or a socket cannot be opened so.
                return match fs::symlink_metadata(&path) {
                    Ok(metadata) if !is_object(&metadata, key)? => Ok(None),
                    _ => Err(error),
                };
            }
        };
        let metadata = file.metadata()?;
        Ok(is_object(&metadata, key)?.then_some((file, metadata)))
    }

    /// `None` when the folder does not exist: nothing was stored in it yet.
    pub(super) fn list(&self, folder: Folder) -> Result<Option<fs::ReadDir>, StorageError> {
        match fs::read_dir(self.folder(folder)) {
            Ok(listing) => Ok(Some(listing)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(Operation::List, folder)(error)),
        }
    }
}

/// An object whose first chunk has been read.
pub(super) struct Opened {
    stat: Stat,
    range: ByteRange,
    first: Bytes,
    source: Source,
}

impl Opened {
    pub(super) fn reader(self) -> BlobReader {
        BlobReader {
            stat: self.stat,
            range: self.range,
            body: body(self.first, self.source),
        }
    }
}

/// The rest of an object.
struct Source {
    file: File,
    key: Key,
    /// The offset at which the range begins.
    start: u64,
    /// Bytes promised.
    total: u64,
    /// Bytes read so far.
    done: u64,
    /// When the object was last written, as it was opened.
    modified: Option<SystemTime>,
}

impl Source {
    /// The next chunk; empty at the end. The last one is not returned if the object was written to
    /// since it was opened.
    fn chunk(&mut self) -> Result<Bytes, StorageError> {
        let want = CHUNK_BYTES.min(self.total - self.done);
        let mut chunk = Vec::with_capacity(want as usize);
        // Fills spare capacity, without zeroing it first.
        (&mut self.file)
            .take(want)
            .read_to_end(&mut chunk)
            .map_err(failed(Operation::Read, self.key))?;
        self.done += chunk.len() as u64;
        if (chunk.len() as u64) < want {
            return Err(StorageError::Truncated {
                backend: BACKEND,
                target: self.key.to_string(),
                expected: self.total,
                actual: self.done,
            });
        }
        if self.done == self.total {
            let metadata = self.file.metadata();
            let metadata = metadata.map_err(failed(Operation::Read, self.key))?;
            if metadata.modified().ok() != self.modified {
                let changed = io::Error::new(io::ErrorKind::ResourceBusy, CHANGED);
                return Err(failed(Operation::Read, self.key)(changed));
            }
        }
        Ok(chunk.into())
    }
}

impl Source {
    /// Whether the page cache has the first and the last byte of the next chunk, so that it
    /// probably can be read without waiting for a disk. A wrong guess costs one short wait.
    #[cfg(target_os = "linux")]
    fn is_in_memory(&self) -> bool {
        use rustix::io::{ReadWriteFlags, preadv2};
        let want = CHUNK_BYTES.min(self.total - self.done);
        let first = self.start + self.done;
        [first, first + want.saturating_sub(1)]
            .into_iter()
            .all(|offset| {
                let mut byte = [0];
                let read = preadv2(
                    &self.file,
                    &mut [io::IoSliceMut::new(&mut byte)],
                    offset,
                    ReadWriteFlags::NOWAIT,
                );
                // File systems without support return an error.
                read.is_ok_and(|bytes| bytes == 1)
            })
    }

    #[cfg(not(target_os = "linux"))]
    fn is_in_memory(&self) -> bool {
        false
    }
}

/// What the body yields next.
enum Next {
    Chunk(Bytes, Source),
    /// A chunk that was in memory when the chunk before it was read.
    Read(Source),
    Reading(JoinHandle<(Source, Result<Bytes, StorageError>)>),
    End,
}

fn body(first: Bytes, source: Source) -> BoxStream<'static, Result<Bytes, StorageError>> {
    stream::unfold(Next::Chunk(first, source), |mut next| async {
        loop {
            let (chunk, source) = match next {
                Next::Chunk(chunk, source) => (Ok(chunk), source),
                Next::Read(mut source) if source.is_in_memory() => (source.chunk(), source),
                // It was evicted while the reader was slow.
                Next::Read(source) => {
                    next = read_by_thread(source);
                    continue;
                }
                Next::Reading(handle) => match handle.await {
                    Ok((source, chunk)) => (chunk, source),
                    Err(error) => {
                        let error = failed(Operation::Read, "an object")(join(error));
                        return Some((Err(error), Next::End));
                    }
                },
                Next::End => return None,
            };
            return match chunk {
                Ok(chunk) if chunk.is_empty() => None,
                Ok(chunk) => Some((Ok(chunk), after(source))),
                Err(error) => Some((Err(error), Next::End)),
            };
        }
    })
    .boxed()
}

fn after(source: Source) -> Next {
    if source.done == source.total {
        Next::End
    } else if source.is_in_memory() {
        Next::Read(source)
    } else {
        read_by_thread(source)
    }
}

fn read_by_thread(mut source: Source) -> Next {
    Next::Reading(tokio::task::spawn_blocking(move || {
        let chunk = source.chunk();
        (source, chunk)
    }))
}

/// Turns an open folder into a stream of the entries whose names begin with `prefix`. A blocking
/// thread reads a batch of entries at a time.
pub(super) fn entries(
    listing: Option<fs::ReadDir>,
    folder: Folder,
    prefix: Arc<str>,
) -> BoxStream<'static, Result<Entry, StorageError>> {
    stream::unfold((listing, prefix), move |(listing, prefix)| async move {
        let (mut listing, batch_prefix) = (listing?, Arc::clone(&prefix));
        let read = tokio::task::spawn_blocking(move || {
            let batch: Vec<_> = listing.by_ref().take(LIST_BATCH).collect();
            let rest = (batch.len() == LIST_BATCH).then_some(listing);
            let entries: Vec<_> = batch
                .into_iter()
                .filter_map(|item| entry(item, folder, &batch_prefix).transpose())
                .collect();
            (entries, rest)
        });
        let (entries, rest) = read.await.unwrap_or_else(|error| {
            let error = failed(Operation::List, folder)(join(error));
            (vec![Err(error)], None)
        });
        Some((entries, (rest, prefix)))
    })
    .flat_map(stream::iter)
    .boxed()
}

/// `None` for entries with another prefix, entries that were deleted meanwhile, and probes.
fn entry(
    item: io::Result<fs::DirEntry>,
    folder: Folder,
    prefix: &str,
) -> Result<Option<Entry>, StorageError> {
    let item = item.map_err(failed(Operation::List, folder))?;
    let name = item.file_name();
    let bytes = name.as_encoded_bytes();
    if bytes.starts_with(b".") || !bytes.starts_with(prefix.as_bytes()) {
        return Ok(None);
    }
    let metadata = match item.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(Operation::List, folder)(error)),
    };
    // A folder, a link or a pipe with an object's name is foreign too.
    let key = Some(name.as_os_str())
        .filter(|_| metadata.is_file())
        .and_then(OsStr::to_str)
        .and_then(|name| Key::from_name(folder, name));
    Ok(Some(Entry {
        path: format!("{}/{}", folder.name(), name.to_string_lossy()),
        key,
        stat: stat(&metadata),
    }))
}

fn stat(metadata: &fs::Metadata) -> Stat {
    Stat {
        size: metadata.len(),
        modified: metadata.modified().ok(),
        identity: Some(ObjectIdentity::of_file(metadata)),
    }
}

/// Whether this is an object: a regular file. A link, a pipe, a socket or a device in its place
/// counts as missing, and the next write replaces it.
///
/// # Errors
/// It is a directory, which no write replaces.
pub(super) fn is_object(metadata: &fs::Metadata, key: &Key) -> io::Result<bool> {
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, A_DIRECTORY));
    }
    if !metadata.is_file() {
        tracing::warn!(%key, "a link, pipe, socket or device is in the place of an object: it counts as missing, and the next write replaces it");
    }
    Ok(metadata.is_file())
}
