//! A storage backend of one's own, which passes the conformance suite.
//!
//! It keeps its objects in a map. A backend for a database or for another object store has the
//! same shape: replace the map by its client.
//!
//! ```text
//! cargo run -p nixery-storage --example backend --features conformance
//! ```

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use nixery_storage::{
    BlobReader, ByteRange, Entry, Folder, Key, PutMode, PutOutcome, Stat, Storage, StorageError,
    conformance,
};

/// Bytes per chunk of a body. The contract `bodies_come_in_bounded_chunks` allows 1 MiB at most,
/// so that the server's memory does not grow with the size of a blob.
const CHUNK: usize = 256 << 10;

/// A store in a map.
#[derive(Debug, Default)]
struct MapStorage {
    // `Bytes` are shared: readers keep the state that they opened when an object is replaced.
    objects: Mutex<HashMap<Key, (Bytes, SystemTime)>>,
}

impl MapStorage {
    fn objects(&self) -> MutexGuard<'_, HashMap<Key, (Bytes, SystemTime)>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stat(bytes: &Bytes, modified: SystemTime) -> Stat {
    Stat {
        size: bytes.len() as u64,
        // Garbage collection needs the age of objects. A backend that does not know it returns
        // `None`, and then nothing is collected.
        modified: Some(modified),
        // Only local files have an identity. Without one, every reading is verified.
        identity: None,
    }
}

#[async_trait]
impl Storage for MapStorage {
    // In error messages and metrics.
    fn backend(&self) -> &'static str {
        "map"
    }

    // Stores a file atomically: a reader sees the whole object or none. Storing it twice succeeds.
    async fn put_file(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        // A spool file that cannot be read is the caller's error, not the store's.
        let bytes = tokio::fs::read(spool)
            .await
            .map_err(|source| StorageError::Spool {
                target: key.to_string(),
                path: spool.to_owned(),
                source,
            })?;
        let mut objects = self.objects();
        // An object of the same size stays as it is. Another size means that it was damaged.
        let is_stored = objects
            .get(key)
            .is_some_and(|(stored, _)| stored.len() == bytes.len());
        if !is_stored {
            objects.insert(*key, (bytes.into(), SystemTime::now()));
        }
        Ok(())
    }

    // Stores a small object. `CreateNew` must be atomic, because leases depend on it: check and
    // insertion happen under one lock here. Use the conditional write of your store.
    async fn put(
        &self,
        key: &Key,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<PutOutcome, StorageError> {
        let mut objects = self.objects();
        if mode == PutMode::CreateNew && objects.contains_key(key) {
            return Ok(PutOutcome::AlreadyExists);
        }
        objects.insert(*key, (bytes, SystemTime::now()));
        Ok(PutOutcome::Stored)
    }

    // Opens an object. The body yields exactly the bytes of the range, or ends with an error.
    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        let Some((bytes, modified)) = self.objects().get(key).cloned() else {
            return Ok(None);
        };
        // Clamps the range to the object, and rejects one without a byte of it.
        let range = ByteRange::resolve(range, bytes.len() as u64, key)?;
        // Both ends are within the length of `bytes`, which is a usize.
        let mut rest = bytes.slice(range.start as usize..range.end as usize);
        let chunks = std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| Ok(rest.split_to(rest.len().min(CHUNK))))
        });
        Ok(Some(BlobReader {
            stat: stat(&bytes, modified),
            range,
            body: stream::iter(chunks).boxed(),
        }))
    }

    async fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError> {
        let objects = self.objects();
        Ok(objects
            .get(key)
            .map(|(bytes, modified)| stat(bytes, *modified)))
    }

    // Lists a folder. Entries that other programs wrote are listed too, with `key: None`:
    // `Key::from_name` tells them apart.
    async fn list(
        &self,
        folder: Folder,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        let objects = self.objects();
        let objects = objects.iter().filter(|(key, _)| key.folder() == folder);
        let entries: Vec<_> = objects
            .map(|(key, (bytes, modified))| {
                Ok(Entry {
                    path: key.path(),
                    key: Some(*key),
                    stat: stat(bytes, *modified),
                })
            })
            .collect();
        Ok(stream::iter(entries).boxed())
    }

    async fn delete(&self, key: &Key) -> Result<bool, StorageError> {
        Ok(self.objects().remove(key).is_some())
    }

    // For start-up and readiness probes: lists, writes and deletes where that can fail.
    async fn check(&self) -> Result<(), StorageError> {
        Ok(())
    }

    // `presign_get` and `public_url` stay as they are: this store has no URLs, so the server sends
    // the blobs itself.
}

#[tokio::main]
async fn main() {
    // In a backend's crate this is a test. A contract that an engine cannot keep is left out by
    // name, with its reason: `conformance::Run::new(&storage).except(…, …)`.
    let report = conformance::Run::new(&MapStorage::default()).run().await;
    print!("{report}");
}
