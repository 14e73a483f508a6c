//! The [`Storage`] trait, its arguments and results.

use std::fmt;
use std::fs::Metadata;
use std::future::ready;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use futures::stream::{BoxStream, StreamExt};

use crate::{Folder, Key, Space, StorageError};

/// A place for blobs and cache entries, shared by any number of servers.
///
/// Every backend keeps the contracts that the conformance suite tests (module `conformance`,
/// behind the feature of that name). A reader sees a whole object or none. Simultaneous writers of
/// one object do not disturb each other. A body yields exactly the promised bytes, or ends with an
/// error.
#[async_trait]
pub trait Storage: Send + Sync + fmt::Debug {
    /// The backend's name, for messages and metrics: `filesystem`, `memory`.
    fn backend(&self) -> &'static str;

    /// Stores the contents of `spool` under `key`: atomic, idempotent and durable.
    ///
    /// The caller deletes the spool file, but must not write to it during or after the call: a
    /// backend may share its disk blocks and make it read-only. An object of the same key and size
    /// is kept; one of another size (truncated by an accident) is replaced.
    ///
    /// # Errors
    /// [`StorageError::Spool`] when the spool file cannot be read, else the backend's failure. The
    /// object under the key is the same as before.
    async fn put_file(&self, key: &Key, spool: &Path) -> Result<(), StorageError>;

    /// Stores `bytes` under `key`: atomic and durable.
    ///
    /// [`PutMode::CreateNew`] never changes an existing object. When several callers create one
    /// key at once, exactly one gets [`PutOutcome::Stored`].
    ///
    /// # Errors
    /// The backend's failure. The object under the key is the same as before.
    async fn put(&self, key: &Key, bytes: Bytes, mode: PutMode)
    -> Result<PutOutcome, StorageError>;

    /// Opens an object; `None` when it does not exist. The range's end is clamped to the size.
    ///
    /// # Errors
    /// [`StorageError::RangeNotSatisfiable`] when the range contains no byte of the object (an
    /// empty range, or one that starts at or after the end), else the backend's failure.
    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError>;

    /// Reads a whole small object; `None` when it does not exist.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] for an object of more than `limit` bytes, which is not read;
    /// [`StorageError::Truncated`]; or the backend's failure.
    async fn get_bytes(&self, key: &Key, limit: u64) -> Result<Option<Bytes>, StorageError> {
        let Some(reader) = self.get(key, None).await? else {
            return Ok(None);
        };
        if reader.stat.size > limit {
            return Err(StorageError::TooLarge {
                backend: self.backend(),
                target: key.to_string(),
                size: reader.stat.size,
                limit,
            });
        }
        reader.bytes().await.map(Some)
    }

    /// Returns size, age and identity of an object; `None` when it does not exist.
    ///
    /// # Errors
    /// The backend's failure.
    async fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError>;

    /// Lists every entry of a folder, in no particular order, including foreign names.
    ///
    /// Entries that are written or deleted meanwhile may be missing. Partly written objects are
    /// never listed.
    ///
    /// # Errors
    /// The backend's failure, at once or within the stream.
    async fn list(
        &self,
        folder: Folder,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError>;

    /// Lists the entries of a folder whose names begin with `prefix`, as [`list`](Self::list) does.
    /// By default the whole folder is listed and the other entries are left out.
    ///
    /// # Errors
    /// The backend's failure, at once or within the stream.
    async fn list_prefix(
        &self,
        folder: Folder,
        prefix: &str,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        let prefix = format!("{folder}/{prefix}");
        let matches = move |entry: &Entry| entry.path.starts_with(&prefix);
        let entries = self.list(folder).await?;
        let entries = entries.try_filter(move |entry| ready(matches(entry)));
        Ok(entries.boxed())
    }

    /// Deletes an object; `false` when it did not exist.
    ///
    /// # Errors
    /// The backend's failure.
    async fn delete(&self, key: &Key) -> Result<bool, StorageError>;

    /// Returns a URL from which every client can read the object for `ttl`, or `None` when the
    /// backend cannot sign URLs. Does not check that the object exists.
    ///
    /// # Errors
    /// The backend's failure.
    async fn presign_get(
        &self,
        _key: &Key,
        _ttl: Duration,
    ) -> Result<Option<String>, StorageError> {
        Ok(None)
    }

    /// Returns the URL of the object for clients that may read the store without a signature, or
    /// `None` when the backend has no such URLs. Does not check that they may.
    fn public_url(&self, _key: &Key) -> Option<String> {
        None
    }

    /// Returns the space of the store's file system, or `None` when the backend does not know it.
    ///
    /// # Errors
    /// The backend's failure.
    async fn space(&self) -> Result<Option<Space>, StorageError> {
        Ok(None)
    }

    /// Tests that the store can be reached and written to, for start-up and readiness probes. A
    /// store that can be read but refuses writes passes, see [`is_read_only`](Self::is_read_only).
    ///
    /// # Errors
    /// The reason why the store cannot be used.
    async fn check(&self) -> Result<(), StorageError>;

    /// Whether the store refused to be written to when it was last checked. Its objects can be
    /// served, but nothing can be stored.
    fn is_read_only(&self) -> bool {
        false
    }
}

/// What [`Storage::put`] does when the object exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PutMode {
    /// Replaces it. Open readers continue with the old bytes or fail.
    Replace,
    /// Keeps it.
    CreateNew,
}

/// What [`Storage::put`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "with PutMode::CreateNew this says whether the bytes were stored"]
pub enum PutOutcome {
    /// The bytes are stored under the key.
    Stored,
    /// An object existed, and nothing was stored.
    AlreadyExists,
}

/// Bytes `start..end` of an object, counted from 0, without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// First byte after the range.
    pub end: u64,
}

impl ByteRange {
    /// The range `start..end`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    /// Number of bytes; 0 for a reversed range.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether the range contains no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of an object of `size` bytes that a request means: all without a range, else the
    /// range with its end clamped to the size.
    ///
    /// # Errors
    /// [`StorageError::RangeNotSatisfiable`] when a range was given and no byte remains.
    pub fn resolve(range: Option<Self>, size: u64, key: &Key) -> Result<Self, StorageError> {
        let Some(range) = range else {
            return Ok(Self::new(0, size));
        };
        let clamped = Self::new(range.start, range.end.min(size));
        if clamped.is_empty() {
            return Err(StorageError::RangeNotSatisfiable {
                target: key.to_string(),
                start: range.start,
                end: range.end,
                size,
            });
        }
        Ok(clamped)
    }
}

/// Size, age and identity of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Bytes.
    pub size: u64,
    /// When it was last written; `None` when the backend does not know.
    pub modified: Option<SystemTime>,
    /// What changes when the object is written to or replaced. `None` when its bytes come from
    /// another machine: then each reading may return other bytes, and has to be verified.
    pub identity: Option<ObjectIdentity>,
}

/// The identity of a local file: device, inode, and the times of the last writing and of the last
/// change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectIdentity {
    place: (u64, u64),
    written: (i64, i64),
    changed: (i64, i64),
}

impl ObjectIdentity {
    /// Returns the identity of the file that has this metadata.
    #[must_use]
    pub fn of_file(metadata: &Metadata) -> Self {
        Self {
            place: (metadata.dev(), metadata.ino()),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// One entry of a listed folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path relative to the store's root, `layers/<name>`, with invalid UTF-8 replaced.
    pub path: String,
    /// The key; `None` for a name that Nixery does not use.
    pub key: Option<Key>,
    /// Size and age.
    pub stat: Stat,
}

/// An opened object.
pub struct BlobReader {
    /// Size, age and identity of the whole object.
    pub stat: Stat,
    /// The bytes that `body` yields.
    pub range: ByteRange,
    /// Exactly `range.len()` bytes, or fewer and an error at the end.
    pub body: BoxStream<'static, Result<Bytes, StorageError>>,
}

impl BlobReader {
    /// Reads the body into memory. Check the size of the object first.
    ///
    /// # Errors
    /// The first error of the body.
    pub async fn bytes(mut self) -> Result<Bytes, StorageError> {
        let Some(first) = self.body.next().await.transpose()? else {
            return Ok(Bytes::new());
        };
        if first.len() as u64 == self.range.len() {
            // One chunk, the usual case, is not copied. An error may still follow.
            return match self.body.next().await.transpose()? {
                None => Ok(first),
                Some(more) => Ok([first, more].concat().into()),
            };
        }
        let mut bytes = BytesMut::from(first);
        while let Some(chunk) = self.body.next().await.transpose()? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader")
            .field("stat", &self.stat)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}
