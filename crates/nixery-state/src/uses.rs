//! Use marks: when a blob was last needed, for the collector of garbage.
//!
//! `uses/<digest>` is an object whose age tells it. A mark is written at most once in a while per
//! process, so a popular image costs a few small writes an hour.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nixery_manifest::Digest;
use nixery_storage::{Key, Storage, StorageError};
use quick_cache::unsync::Cache;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::causes::chain;
pub use crate::marks::USES;
use crate::marks::{note, put_mark};

/// Marks that are written at once on behalf of images being served; more are left for later.
const WRITES: usize = 64;
/// Longest time between two marks of one blob, so that also a collection with a shorter grace than
/// this process knows of finds fresh marks.
const MAX_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// Blobs whose marks are remembered: about 100 bytes each.
const MOST_MARKED: usize = 200_000;

/// Writes use marks, and not too many.
#[derive(Debug, Clone)]
pub struct Uses {
    storage: Arc<dyn Storage>,
    interval: Duration,
    marked: Arc<Mutex<Cache<Digest, Marked>>>,
    writes: Arc<Semaphore>,
}

/// What this process did for a blob.
#[derive(Debug, Clone, Copy)]
struct Marked {
    at: Instant,
    /// Not only marked: no collector was deleting it either, or it was stored anew.
    held: bool,
}

impl Uses {
    /// Marks each blob at most four times in a collector's grace.
    pub fn new(storage: Arc<dyn Storage>, grace: Duration) -> Self {
        Self {
            storage,
            interval: (grace / 4).min(MAX_INTERVAL),
            marked: Arc::new(Mutex::new(Cache::new(MOST_MARKED))),
            writes: Arc::new(Semaphore::new(WRITES)),
        }
    }

    /// Notes that the blob was stored, in a write that began at `at`: no collector takes it.
    pub fn stored(&self, digest: Digest, at: Instant) {
        self.note(digest, at, true);
    }

    /// Marks the blob, some time soon, if that is due. Never waits; a failure is logged.
    pub fn mark_soon(&self, digest: Digest, runtime: &Handle) {
        if self.fresh(&digest).is_some() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.writes).try_acquire_owned() else {
            tracing::debug!(%digest, "too many use marks are being written; the next use marks this one");
            return;
        };
        // At once, so that a hundred requests in this moment write one mark.
        self.note(digest, Instant::now(), false);
        let uses = self.clone();
        runtime.spawn(async move {
            if let Err(error) = put_mark(&*uses.storage, digest).await {
                uses.forget(&digest);
                tracing::warn!(%digest, error = chain(&error), "a use mark could not be written");
            }
            drop(permit);
        });
    }

    /// Makes sure that no collector takes the blob, if it is there when this returns, for most of
    /// its grace: marks it, and waits for a collector that is just deleting it. Whoever calls this
    /// looks *afterwards* whether the blob is there; `false` tells that this was so already.
    ///
    /// # Errors
    /// The store failed.
    pub async fn hold(&self, digest: Digest) -> Result<bool, StorageError> {
        if self.is_held(&digest) {
            return Ok(false);
        }
        let at = Instant::now();
        put_mark(&*self.storage, digest).await?;
        note::wait_for(&*self.storage, &digest).await?;
        // Only now: others would take it for granted.
        self.note(digest, at, true);
        Ok(true)
    }

    /// The same for a blob that is about to be stored, which needs no mark where it is not there.
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
        // It may have been deleted just now, by a call that is still repeated somewhere: that is
        // so rare that a store which cannot tell is trusted.
        if let Err(error) = note::wait_for(&*self.storage, &digest).await {
            tracing::warn!(%digest, error = chain(&error), "the collector's note cannot be read");
        }
        Ok(())
    }

    /// The blob is gone: the next time it has to be marked anew.
    pub fn forget(&self, digest: &Digest) {
        self.marked().remove(digest);
    }

    fn is_held(&self, digest: &Digest) -> bool {
        self.fresh(digest).is_some_and(|marked| marked.held)
    }

    fn fresh(&self, digest: &Digest) -> Option<Marked> {
        let marked = self.marked().get(digest).copied();
        marked.filter(|marked| marked.at.elapsed() < self.interval)
    }

    fn note(&self, digest: Digest, at: Instant, held: bool) {
        self.marked().insert(digest, Marked { at, held });
    }

    fn marked(&self) -> MutexGuard<'_, Cache<Digest, Marked>> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use nixery_storage::MemoryStorage;
    use tokio::time::advance;

    use super::*;
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

    /// Lets what was spawned run.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_blob_is_marked_once_in_a_while() {
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

    /// A mark says nothing of what a collector is deleting already.
    #[tokio::test(start_paused = true)]
    async fn a_blob_that_is_marked_is_not_held_yet() {
        let storage = memory();
        let uses = Uses::new(storage.clone(), GRACE);
        let digest = Digest::of(b"blob");
        uses.mark_soon(digest, &Handle::current());
        assert!(uses.hold(digest).await.expect("works"), "anew");
        assert!(!uses.hold(digest).await.expect("works"), "it is held");
        advance(GRACE / 4).await;
        assert!(uses.hold(digest).await.expect("works"), "anew");
        uses.forget(&digest);
        assert!(uses.hold(digest).await.expect("works"), "anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_that_could_not_be_written_is_tried_again_at_the_next_use() {
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
    async fn no_more_marks_are_written_at_once_than_allowed() {
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
