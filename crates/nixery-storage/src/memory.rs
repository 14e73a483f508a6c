//! [`MemoryStorage`]: a store in memory, for tests and trials.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::{
    BlobReader, ByteRange, Entry, Folder, Key, PutMode, PutOutcome, Stat, Storage, StorageError,
};

/// Bytes per chunk of a body: few, so that tests read bodies of several chunks.
const CHUNK_BYTES: usize = 64 * 1024;

/// A store in memory. Its objects are lost when it is dropped.
pub struct MemoryStorage {
    objects: RwLock<BTreeMap<Key, Object>>,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::with_clock(SystemTime::now)
    }
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    modified: SystemTime,
}

impl Object {
    fn stat(&self) -> Stat {
        Stat {
            size: self.bytes.len() as u64,
            modified: Some(self.modified),
            identity: None,
        }
    }
}

impl MemoryStorage {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose objects get their age from `clock`, for tests that depend on it.
    #[must_use]
    pub fn with_clock(clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self {
            objects: RwLock::default(),
            clock: Box::new(clock),
        }
    }

    // The map is consistent at every moment, so a panic while the lock was held does no harm.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Key, Object>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Key, Object>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, key: &Key, bytes: Bytes) {
        let modified = (self.clock)();
        self.write().insert(*key, Object { bytes, modified });
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage")
            .field("objects", &self.read().len())
            .finish()
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn backend(&self) -> &'static str {
        "memory"
    }

    async fn put_file(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        let bytes = tokio::fs::read(spool)
            .await
            .map_err(|source| StorageError::spool(key, spool, source))?;
        let same_size = |object: &Object| object.bytes.len() == bytes.len();
        if !self.read().get(key).is_some_and(same_size) {
            self.store(key, bytes.into());
        }
        Ok(())
    }

    async fn put(
        &self,
        key: &Key,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<PutOutcome, StorageError> {
        match mode {
            PutMode::Replace => self.store(key, bytes),
            PutMode::CreateNew => {
                let mut objects = self.write();
                if objects.contains_key(key) {
                    return Ok(PutOutcome::AlreadyExists);
                }
                let modified = (self.clock)();
                objects.insert(*key, Object { bytes, modified });
            }
        }
        Ok(PutOutcome::Stored)
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        let Some(object) = self.read().get(key).cloned() else {
            return Ok(None);
        };
        let stat = object.stat();
        let range = ByteRange::resolve(range, stat.size, key)?;
        // Both ends are within the length of a slice, which is a usize.
        let mut rest = object.bytes.slice(range.start as usize..range.end as usize);
        let chunks = std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| Ok(rest.split_to(rest.len().min(CHUNK_BYTES))))
        });
        Ok(Some(BlobReader {
            stat,
            range,
            body: stream::iter(chunks).boxed(),
        }))
    }

    async fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError> {
        Ok(self.read().get(key).map(Object::stat))
    }

    async fn list(
        &self,
        folder: Folder,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        let entries: Vec<_> = self
            .read()
            .iter()
            .filter(|(key, _)| key.folder() == folder)
            .map(|(key, object)| {
                Ok(Entry {
                    path: key.path(),
                    key: Some(*key),
                    stat: object.stat(),
                })
            })
            .collect();
        Ok(stream::iter(entries).boxed())
    }

    async fn delete(&self, key: &Key) -> Result<bool, StorageError> {
        Ok(self.write().remove(key).is_some())
    }

    async fn check(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[tokio::test(flavor = "multi_thread")]
    async fn conforms() {
        conformance::all(&MemoryStorage::new()).await;
    }
}
