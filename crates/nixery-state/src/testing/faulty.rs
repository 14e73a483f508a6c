//! A store from the view of one server: slow, failing for a while, or silent because the server is
//! dead.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use nixery_storage::{
    BLOBS, BlobReader, ByteRange, Entry, Folder, Key, Operation, PutMode, PutOutcome, Space, Stat,
    Storage, StorageError,
};
use tokio::sync::{Semaphore, watch};

use crate::graphs::GRAPHS;
use crate::lease::LEASES;

/// Passes calls on to the store that the servers share, as its flags allow.
#[derive(Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    /// Longest delay before an operation, and again after it.
    slowness: Duration,
    random: AtomicU64,
    /// No call returns any more, as after `kill -9`.
    pub dead: AtomicBool,
    /// Nothing can be written any more.
    pub full: AtomicBool,
    /// Writes are refused. A check notices it.
    pub read_only: AtomicBool,
    noticed_read_only: AtomicBool,
    /// How many of a hundred readings of a blob have a wrong bit.
    pub flips_percent: AtomicU64,
    /// Number of readings with a wrong bit so far.
    pub flipped: AtomicU64,
    /// Every call for a lease fails.
    pub leases_fail: AtomicBool,
    /// No graph can be written.
    pub graphs_fail: AtomicBool,
    /// Writing a graph never returns.
    pub graphs_hang: AtomicBool,
    /// Creating an object reports that it existed before.
    pub answers_get_lost: AtomicBool,
    /// Creating an object replaces an existing one, as in some stores.
    pub not_exclusive: AtomicBool,
    /// Files fail to be stored.
    pub files_fail: AtomicBool,
    /// Each file that is stored takes a permit.
    pub file_gate: Semaphore,
    /// Number of files so far, stored or not.
    pub files_given: watch::Sender<usize>,
    /// The space that it reports.
    pub space: Mutex<Option<Space>>,
    /// The stored objects, in order.
    pub stored: watch::Sender<Vec<Key>>,
}

impl FaultyStorage {
    /// A store without faults yet.
    pub fn new(inner: Arc<dyn Storage>) -> Arc<Self> {
        Self::slow(inner, Duration::ZERO, 0)
    }

    /// A store whose calls wait up to `slowness` before and after.
    pub fn slow(inner: Arc<dyn Storage>, slowness: Duration, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            inner,
            slowness,
            random: AtomicU64::new(seed),
            dead: AtomicBool::new(false),
            full: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            noticed_read_only: AtomicBool::new(false),
            flips_percent: AtomicU64::new(0),
            flipped: AtomicU64::new(0),
            leases_fail: AtomicBool::new(false),
            graphs_fail: AtomicBool::new(false),
            graphs_hang: AtomicBool::new(false),
            answers_get_lost: AtomicBool::new(false),
            not_exclusive: AtomicBool::new(false),
            files_fail: AtomicBool::new(false),
            file_gate: Semaphore::new(Semaphore::MAX_PERMITS),
            files_given: watch::Sender::new(0),
            space: Mutex::default(),
            stored: watch::Sender::default(),
        })
    }

    async fn pass(&self, folder: Option<Folder>) -> Result<(), StorageError> {
        if !self.slowness.is_zero() {
            let permille = u32::try_from(self.random() % 1001).expect("small");
            tokio::time::sleep(self.slowness * permille / 1000).await;
        }
        if self.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if folder == Some(LEASES) && self.leases_fail.load(Ordering::SeqCst) {
            return Err(failure("a lease"));
        }
        Ok(())
    }

    /// xorshift64: any random numbers will do.
    fn random(&self) -> u64 {
        let mut x = self.random.load(Ordering::Relaxed) | 1;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.store(x, Ordering::Relaxed);
        x
    }

    /// Returns the body, maybe with a wrong bit.
    async fn maybe_flipped(&self, reader: BlobReader) -> Result<BlobReader, StorageError> {
        // The lowest bits of the generator are not random enough.
        if (self.random() >> 20) % 100 >= self.flips_percent.load(Ordering::SeqCst) {
            return Ok(reader);
        }
        let (stat, range) = (reader.stat, reader.range);
        let mut bytes = reader.bytes().await?.to_vec();
        if !bytes.is_empty() {
            let bit = usize::try_from(self.random() >> 20).expect("64 bits") % (8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
            self.flipped.fetch_add(1, Ordering::SeqCst);
        }
        let chunks: Vec<_> = bytes
            .chunks(100_000)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        Ok(BlobReader {
            stat,
            range,
            body: stream::iter(chunks).boxed(),
        })
    }

    async fn pass_write(&self, key: &Key) -> Result<(), StorageError> {
        self.pass(Some(key.folder())).await?;
        if key.folder() == GRAPHS && self.graphs_hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if key.folder() == GRAPHS && self.graphs_fail.load(Ordering::SeqCst) {
            return Err(failure("a graph"));
        }
        if self.read_only.load(Ordering::SeqCst) {
            return Err(StorageError::Denied {
                backend: "faulty",
                operation: Operation::Write,
                target: key.to_string(),
                source: "as requested by the test".into(),
            });
        }
        if self.full.load(Ordering::SeqCst) {
            return Err(StorageError::NoSpace {
                backend: "faulty",
                operation: Operation::Write,
                target: key.to_string(),
                source: "as requested by the test".into(),
            });
        }
        Ok(())
    }
}

fn failure(target: &str) -> StorageError {
    StorageError::Failed {
        backend: "faulty",
        operation: Operation::Write,
        target: target.to_owned(),
        retryable: true,
        source: "as requested by the test".into(),
    }
}

#[async_trait]
impl Storage for FaultyStorage {
    fn backend(&self) -> &'static str {
        "faulty"
    }
    async fn put_file(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        self.pass_write(key).await?;
        self.files_given.send_modify(|given| *given += 1);
        let permit = self.file_gate.acquire().await;
        permit.expect("open").forget();
        if self.files_fail.load(Ordering::SeqCst) {
            return Err(failure("a file"));
        }
        self.inner.put_file(key, spool).await?;
        self.stored.send_modify(|stored| stored.push(*key));
        Ok(())
    }
    async fn put(
        &self,
        key: &Key,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<PutOutcome, StorageError> {
        self.pass_write(key).await?;
        let not_exclusive = self.not_exclusive.load(Ordering::SeqCst);
        let real = if not_exclusive {
            PutMode::Replace
        } else {
            mode
        };
        let outcome = self.inner.put(key, bytes, real).await?;
        self.stored.send_modify(|stored| stored.push(*key));
        self.pass(Some(key.folder())).await?;
        let lost = self.answers_get_lost.load(Ordering::SeqCst);
        Ok(match mode {
            PutMode::CreateNew if lost => PutOutcome::AlreadyExists,
            _ => outcome,
        })
    }
    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        self.pass(Some(key.folder())).await?;
        let reader = self.inner.get(key, range).await;
        self.pass(Some(key.folder())).await?;
        match reader? {
            Some(reader) if key.folder() == BLOBS => self.maybe_flipped(reader).await.map(Some),
            reader => Ok(reader),
        }
    }
    async fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError> {
        self.pass(Some(key.folder())).await?;
        self.inner.stat(key).await
    }
    async fn list(
        &self,
        folder: Folder,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        self.pass(Some(folder)).await?;
        self.inner.list(folder).await
    }
    async fn delete(&self, key: &Key) -> Result<bool, StorageError> {
        self.pass(Some(key.folder())).await?;
        let deleted = self.inner.delete(key).await;
        self.pass(Some(key.folder())).await?;
        deleted
    }
    async fn space(&self) -> Result<Option<Space>, StorageError> {
        self.pass(None).await?;
        Ok(*self.space.lock().expect("not poisoned"))
    }
    async fn check(&self) -> Result<(), StorageError> {
        self.pass(None).await?;
        let read_only = self.read_only.load(Ordering::SeqCst);
        self.noticed_read_only.store(read_only, Ordering::SeqCst);
        self.inner.check().await
    }
    fn is_read_only(&self) -> bool {
        self.noticed_read_only.load(Ordering::SeqCst)
    }
}
