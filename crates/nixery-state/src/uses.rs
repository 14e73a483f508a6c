//! Use marks: when a blob was last needed, for the garbage collection.
//!
//! The age of the object `uses/<digest>` says when. Each process writes a mark at most once in an
//! interval, so a popular image costs a few small writes an hour.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nixery_manifest::Digest;
use nixery_storage::{Key, Storage, StorageError, error_chain};
use quick_cache::unsync::Cache;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use crate::marks::USES;
use crate::marks::{put_mark, wait_for};
use crate::write_access::WriteAccess;

/// Marks that are written at once for images being served; others wait for the next use.
const WRITES: usize = 64;
/// Longest time between two marks of one blob, so that a collection with a shorter grace period
/// than this process is configured with finds fresh marks as well.
const MAX_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// Blobs whose marks this process remembers: about 100 bytes each.
const MOST_MARKED: usize = 200_000;

/// Writes use marks, at most a few for each blob.
#[derive(Debug, Clone)]
pub struct Uses {
    storage: Arc<dyn Storage>,
    write_access: WriteAccess,
    interval: Duration,
    marked: Arc<Mutex<Cache<Digest, Mark>>>,
    writes: Arc<Semaphore>,
}

/// The last mark of a blob by this process.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    /// No collector was deleting the blob then, or it was stored again.
    held: bool,
}

impl Uses {
    /// Marks each blob at most four times in the grace period of the garbage collection.
    pub fn new(storage: Arc<dyn Storage>, grace: Duration) -> Self {
        Self {
            write_access: WriteAccess::new(Arc::clone(&storage)),
            storage,
            interval: (grace / 4).min(MAX_INTERVAL),
            marked: Arc::new(Mutex::new(Cache::new(MOST_MARKED))),
            writes: Arc::new(Semaphore::new(WRITES)),
        }
    }

    /// Returns the check of whether the store of the marks can be written to.
    pub fn write_access(&self) -> &WriteAccess {
        &self.write_access
    }

    /// Records that the blob was stored by a write that began at `at`: no collector deletes it.
    pub fn stored(&self, digest: Digest, at: Instant) {
        self.remember(digest, at, true);
    }

    /// Marks the blob in the background, if a mark is due. Never waits; a failure is logged.
    pub fn mark_soon(&self, digest: Digest, runtime: &Handle) {
        if self.fresh(&digest).is_some() || self.write_access.was_read_only(runtime) {
            return;
        }
        let Ok(permit) = Arc::clone(&self.writes).try_acquire_owned() else {
            tracing::debug!(%digest, "too many blobs are being marked as used; this blob is marked at its next use");
            return;
        };
        // Before the write, so that simultaneous requests write one mark.
        self.remember(digest, Instant::now(), false);
        let uses = self.clone();
        runtime.spawn(async move {
            if let Err(error) = put_mark(&*uses.storage, digest).await {
                uses.forget(&digest);
                tracing::warn!(%digest, error = error_chain(&error), "cannot mark a blob as used");
            }
            drop(permit);
        });
    }

    /// Ensures that no collector deletes the blob for most of the grace period, if it exists when
    /// this returns: marks it, and waits for a collector that is deleting it. The caller must look
    /// *afterwards* whether the blob exists. Returns `false` if the blob was held before, or if the
    /// store is read-only: there only the collectors of other servers decide.
    ///
    /// # Errors
    /// The store failed.
    pub async fn hold(&self, digest: Digest) -> Result<bool, StorageError> {
        if self.is_held(&digest) || self.write_access.was_read_only(&Handle::current()) {
            return Ok(false);
        }
        let at = Instant::now();
        put_mark(&*self.storage, digest).await?;
        wait_for(&*self.storage, &digest).await?;
        // Only now, as other callers rely on it.
        self.remember(digest, at, true);
        Ok(true)
    }

    /// Like [`Uses::hold`], for a blob that is about to be stored: one that does not exist needs no
    /// mark.
    ///
    /// # Errors
    /// The store failed.
    pub async fn hold_before_storing(&self, digest: Digest) -> Result<(), StorageError> {
        if self.is_held(&digest) {
            return Ok(());
        }
        if self.storage.stat(&Key::blob(digest)).await?.is_some() {
            return self.hold(digest).await.map(drop);
        }
        // A deletion of it may still be repeated by a collector. That is so rare that a failure to
        // read the note is ignored.
        if let Err(error) = wait_for(&*self.storage, &digest).await {
            tracing::warn!(%digest, error = error_chain(&error), "cannot read which blobs the garbage collection is deleting");
        }
        Ok(())
    }

    /// Records that the blob is gone: its next use is marked again.
    pub fn forget(&self, digest: &Digest) {
        self.marked().remove(digest);
    }

    fn is_held(&self, digest: &Digest) -> bool {
        self.fresh(digest).is_some_and(|mark| mark.held)
    }

    fn fresh(&self, digest: &Digest) -> Option<Mark> {
        let marked = self.marked().get(digest).copied();
        marked.filter(|mark| mark.at.elapsed() < self.interval)
    }

    fn remember(&self, digest: Digest, at: Instant, held: bool) {
        self.marked().insert(digest, Mark { at, held });
    }

    fn marked(&self) -> MutexGuard<'_, Cache<Digest, Mark>> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use nixery_storage::MemoryStorage;
    use tokio::time::advance;

    use super::*;
    use crate::testing::faulty::FaultyStorage;
    use crate::testing::stepped::Stepped;
    use crate::testing::world::memory;

    const GRACE: Duration = Duration::from_secs(20);

    async fn is_marked(storage: &MemoryStorage, digest: Digest) -> bool {
        storage
            .stat(&Key::new(USES, digest))
            .await
            .expect("works")
            .is_some()
    }

    /// Runs the spawned tasks.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_blob_is_marked_once_in_an_interval() {
        let storage = memory();
        let uses = Uses::new(storage.clone(), GRACE);
        let (digest, runtime) = (Digest::of(b"blob"), Handle::current());
        for _ in 0..2 {
            uses.mark_soon(digest, &runtime);
            settle().await;
            assert!(is_marked(&storage, digest).await);
            storage
                .delete(&Key::new(USES, digest))
                .await
                .expect("deleted");
            for _ in 0..4 {
                uses.mark_soon(digest, &runtime);
                settle().await;
                assert!(!is_marked(&storage, digest).await, "not again so soon");
                advance(Duration::from_secs(1)).await;
            }
            advance(Duration::from_secs(1)).await;
        }
    }

    /// A mark does not stop a collector that is deleting the blob already.
    #[tokio::test(start_paused = true)]
    async fn a_marked_blob_is_not_yet_held() {
        let storage = memory();
        let uses = Uses::new(storage.clone(), GRACE);
        let digest = Digest::of(b"blob");
        uses.mark_soon(digest, &Handle::current());
        assert!(uses.hold(digest).await.expect("works"), "again");
        assert!(!uses.hold(digest).await.expect("works"), "it is held");
        advance(GRACE / 4).await;
        assert!(uses.hold(digest).await.expect("works"), "again");
        uses.forget(&digest);
        assert!(uses.hold(digest).await.expect("works"), "again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_that_could_not_be_written_is_written_at_the_next_use() {
        let storage = memory();
        let uses = Uses::new(Stepped::failing(storage.clone(), 0, true), GRACE);
        let (digest, runtime) = (Digest::of(b"blob"), Handle::current());
        uses.mark_soon(digest, &runtime);
        settle().await;
        assert!(!is_marked(&storage, digest).await);
        uses.mark_soon(digest, &runtime);
        settle().await;
        assert!(is_marked(&storage, digest).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_writable_again_gets_marks_after_ten_seconds() {
        let storage = memory();
        let store = FaultyStorage::new(storage.clone());
        store.read_only.store(true, Ordering::SeqCst);
        store.check().await.expect("it can be read");
        let uses = Uses::new(store.clone(), GRACE);
        let (digest, runtime) = (Digest::of(b"blob"), Handle::current());
        uses.mark_soon(digest, &runtime);
        settle().await;
        store.read_only.store(false, Ordering::SeqCst);
        for seconds in [0, 10] {
            advance(Duration::from_secs(seconds)).await;
            uses.mark_soon(digest, &runtime);
            settle().await;
            assert!(!is_marked(&storage, digest).await, "it was read-only");
        }
        uses.mark_soon(digest, &runtime);
        settle().await;
        assert!(is_marked(&storage, digest).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_simultaneous_writes_is_limited() {
        let storage = memory();
        let uses = Uses::new(storage.clone(), GRACE);
        for n in 0..10 * WRITES {
            uses.mark_soon(Digest::of(&n.to_le_bytes()), &Handle::current());
        }
        assert_eq!(uses.writes.available_permits(), 0);
        settle().await;
        assert_eq!(uses.writes.available_permits(), WRITES);
    }
}
