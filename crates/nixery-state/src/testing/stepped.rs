//! A store whose calls are steps: each waits before and after for one poll, and may fail.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use nixery_storage::{
    BlobReader, ByteRange, Entry, Folder, Key, MemoryStorage, Operation, PutMode, PutOutcome, Stat,
    Storage, StorageError,
};

use super::world::spooled;

/// A store whose calls are steps.
#[derive(Debug)]
pub struct Stepped {
    inner: Arc<MemoryStorage>,
    steps: bool,
    calls: AtomicUsize,
    /// The first call that fails.
    fails_at: usize,
    recovers: bool,
}

impl Stepped {
    /// A store whose calls wait for one poll before and one after.
    pub fn new(inner: Arc<MemoryStorage>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            steps: true,
            calls: AtomicUsize::new(0),
            fails_at: usize::MAX,
            recovers: false,
        })
    }

    /// A store whose `fails_at`th call fails, and all later ones unless it `recovers`.
    pub fn failing(inner: Arc<MemoryStorage>, fails_at: usize, recovers: bool) -> Arc<Self> {
        Arc::new(Self {
            inner,
            steps: false,
            calls: AtomicUsize::new(0),
            fails_at,
            recovers,
        })
    }

    /// Returns the number of calls so far.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn step(&self) {
        let mut waited = !self.steps;
        poll_fn(|context| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    async fn before(&self, key: impl ToString) -> Result<(), StorageError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if call == self.fails_at || (call > self.fails_at && !self.recovers) {
            return Err(StorageError::Failed {
                backend: "stepped",
                operation: Operation::Read,
                target: key.to_string(),
                retryable: true,
                source: "as requested by the test".into(),
            });
        }
        self.step().await;
        Ok(())
    }
}

#[async_trait]
impl Storage for Stepped {
    fn backend(&self) -> &'static str {
        "stepped"
    }
    async fn put_file(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        self.before(key).await?;
        let bytes = spooled(spool);
        let there = self.inner.stat(key).await?;
        if there.is_none_or(|stat| stat.size != bytes.len() as u64) {
            let _ = self.inner.put(key, bytes, PutMode::Replace).await?;
        }
        self.step().await;
        Ok(())
    }
    async fn put(
        &self,
        key: &Key,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<PutOutcome, StorageError> {
        self.before(key).await?;
        let outcome = self.inner.put(key, bytes, mode).await?;
        self.step().await;
        Ok(outcome)
    }
    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        self.before(key).await?;
        let reader = self.inner.get(key, range).await?;
        self.step().await;
        Ok(reader)
    }
    async fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError> {
        self.before(key).await?;
        let stat = self.inner.stat(key).await?;
        self.step().await;
        Ok(stat)
    }
    async fn list(
        &self,
        folder: Folder,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        self.before(folder).await?;
        let entries = self.inner.list(folder).await?;
        self.step().await;
        Ok(entries)
    }
    async fn delete(&self, key: &Key) -> Result<bool, StorageError> {
        self.before(key).await?;
        let deleted = self.inner.delete(key).await?;
        self.step().await;
        Ok(deleted)
    }
    async fn check(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
