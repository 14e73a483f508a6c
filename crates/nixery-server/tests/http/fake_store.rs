//! A store in memory that signs URLs, or fails, as a test wants.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use nixery_manifest::Digest;
use nixery_storage::{
    BlobReader, ByteRange, Entry, Folder, Key, MemoryStorage, Operation, PutMode, PutOutcome, Stat,
    Storage, StorageError,
};

/// What a signature is good for, and no log may show.
pub(crate) const SECRET: &str = "X-Amz-Signature=5ec2e7";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Signing fails.
    NoSigning,
    /// Every call fails, and may succeed later.
    Down,
    /// Every call fails for good.
    Refusing,
    /// No call ever ends.
    Silent,
    /// No file is ever taken.
    NoFiles,
    /// Every object and every list takes a second.
    Slow,
    /// No object of the folder `names` is taken.
    NoNames,
}

#[derive(Debug, Default)]
pub(crate) struct FakeStore {
    objects: MemoryStorage,
    signs: bool,
    public: bool,
    /// What the next check reports.
    read_only: AtomicBool,
    noticed_read_only: AtomicBool,
    mood: Mutex<Mood>,
    signed: AtomicUsize,
    opened: AtomicUsize,
    calls: AtomicUsize,
}

impl FakeStore {
    pub(crate) fn signing() -> Self {
        Self {
            signs: true,
            ..Self::default()
        }
    }

    pub(crate) fn public() -> Self {
        Self {
            public: true,
            ..Self::default()
        }
    }

    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Makes the store read-only or writable, which the next check notices.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.read_only.store(read_only, Ordering::SeqCst);
    }

    /// URLs that were signed.
    pub(crate) fn signed(&self) -> usize {
        self.signed.load(Ordering::SeqCst)
    }

    /// Objects whose bytes were asked for.
    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// Calls of any kind.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Stores a blob, right or not.
    pub(crate) async fn blob(&self, digest: Digest, bytes: impl Into<Bytes>) {
        let key = Key::blob(digest);
        let stored = self.objects.put(&key, bytes.into(), PutMode::Replace);
        let _ = stored.await.unwrap();
    }

    pub(crate) async fn has(&self, digest: Digest) -> bool {
        let stat = self.objects.stat(&Key::blob(digest)).await;
        stat.unwrap().is_some()
    }

    async fn may(&self, operation: Operation) -> Result<(), StorageError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well | Mood::NoFiles | Mood::Slow | Mood::NoNames => Ok(()),
            Mood::NoSigning if operation != Operation::Sign => Ok(()),
            Mood::Silent => std::future::pending().await,
            Mood::Down | Mood::NoSigning | Mood::Refusing => {
                Err(refused(operation, mood == Mood::Down))
            }
        }
    }
}

fn refused(operation: Operation, retryable: bool) -> StorageError {
    StorageError::Failed {
        backend: "fake",
        operation,
        target: "layers/x at http://10.0.0.1/bucket".into(),
        retryable,
        source: "connection refused".into(),
    }
}

#[async_trait]
impl Storage for FakeStore {
    fn backend(&self) -> &'static str {
        "fake"
    }

    async fn put_file(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        self.may(Operation::Write).await?;
        if *self.mood.lock().unwrap() == Mood::NoFiles {
            std::future::pending::<()>().await;
        }
        self.objects.put_file(key, spool).await
    }

    async fn put(
        &self,
        key: &Key,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<PutOutcome, StorageError> {
        self.may(Operation::Write).await?;
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Slow => tokio::time::sleep(Duration::from_secs(1)).await,
            Mood::NoNames if key.to_string().starts_with("names/") => {
                return Err(refused(Operation::Write, false));
            }
            _ => {}
        }
        self.objects.put(key, bytes, mode).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        self.may(Operation::Read).await?;
        self.opened.fetch_add(1, Ordering::SeqCst);
        self.objects.get(key, range).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError> {
        self.may(Operation::Stat).await?;
        self.objects.stat(key).await
    }

    async fn list(
        &self,
        folder: Folder,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        self.may(Operation::List).await?;
        if *self.mood.lock().unwrap() == Mood::Slow {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.objects.list(folder).await
    }

    async fn delete(&self, key: &Key) -> Result<bool, StorageError> {
        self.may(Operation::Delete).await?;
        self.objects.delete(key).await
    }

    async fn presign_get(&self, key: &Key, ttl: Duration) -> Result<Option<String>, StorageError> {
        self.may(Operation::Sign).await?;
        if !self.signs {
            return Ok(None);
        }
        self.signed.fetch_add(1, Ordering::SeqCst);
        let seconds = ttl.as_secs();
        Ok(Some(format!(
            "https://bucket.test/{key}?X-Amz-Expires={seconds}&{SECRET}"
        )))
    }

    fn public_url(&self, key: &Key) -> Option<String> {
        self.public.then(|| format!("https://public.test/{key}"))
    }

    async fn check(&self) -> Result<(), StorageError> {
        self.may(Operation::Check).await?;
        let read_only = self.read_only.load(Ordering::SeqCst);
        self.noticed_read_only.store(read_only, Ordering::SeqCst);
        self.objects.check().await
    }

    fn is_read_only(&self) -> bool {
        self.noticed_read_only.load(Ordering::SeqCst)
    }
}
