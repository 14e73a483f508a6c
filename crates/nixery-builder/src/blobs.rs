//! Which blobs are in the store, whole: what was seen there lately need not be asked for again.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use nixery_manifest::Digest;
use nixery_state::uses::Uses;
use nixery_storage::{Key, PutMode, Storage};
use quick_cache::unsync::Cache;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::error::BuildError;
use crate::keyed_lock::KeyedLocks;

/// Look-ups of one image that run at once; an image has about a hundred blobs.
const LOOKUPS: usize = 32;

/// Blobs that are remembered: about 100 bytes each.
const MOST_KNOWN: usize = 200_000;

/// The blobs of a store.
#[derive(Debug)]
pub(crate) struct Blobs {
    storage: Arc<dyn Storage>,
    /// How long a blob that was seen counts as there.
    seen_counts: Duration,
    known: Mutex<Cache<Digest, Blob>>,
    uses: Uses,
    /// Held while a blob is read again because it seems to be damaged.
    rechecks: KeyedLocks<Digest>,
    damaged: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Blob {
    size: u64,
    seen: Option<Instant>,
    /// When it was last said not to be there.
    missed: Option<Instant>,
    /// Whether this process read it to its end and its digest was right.
    verified: bool,
}

impl Blob {
    /// One that was seen by a call that began at `begun`, by what was known of it `before`.
    fn seen(before: Option<Self>, size: u64, begun: Instant, seen: Instant) -> Self {
        let missed = before.and_then(|blob| blob.missed);
        // It may have gone after the store looked.
        let counts = missed.is_none_or(|missed| missed < begun);
        Self {
            size,
            seen: counts.then_some(seen),
            missed,
            verified: before.is_some_and(|blob| blob.verified),
        }
    }
}

impl Blobs {
    /// `grace` is that of the store's collector, at most; what was seen counts for much less.
    pub(crate) fn new(storage: Arc<dyn Storage>, seen_counts: Duration, grace: Duration) -> Self {
        Self {
            uses: Uses::new(Arc::clone(&storage), grace),
            storage,
            seen_counts,
            known: Mutex::new(Cache::new(MOST_KNOWN)),
            rechecks: KeyedLocks::default(),
            damaged: AtomicU64::new(0),
        }
    }

    /// The marks of when blobs were last needed.
    pub(crate) fn uses(&self) -> &Uses {
        &self.uses
    }

    /// Whether the blob is there, and will be while an image is built upon it.
    pub(crate) async fn hold(&self, digest: Digest, size: u64) -> Result<bool, BuildError> {
        if self
            .uses
            .hold(digest)
            .await
            .map_err(BuildError::looked_up)?
        {
            // What was seen before may have been the last glimpse of it.
            return self.look(digest, size).await;
        }
        self.is_there(digest, size).await
    }

    /// Stores a packed layer, unless it is there.
    pub(crate) async fn put_file(
        &self,
        digest: Digest,
        size: u64,
        spool: &Path,
    ) -> Result<(), BuildError> {
        let at = Instant::now();
        let store = async {
            self.uses.hold_before_storing(digest).await?;
            self.storage.put_file(&Key::blob(digest), spool).await
        };
        store.await.map_err(BuildError::stored)?;
        self.stored(digest, size, at);
        Ok(())
    }

    /// Stores a small blob, over a damaged one if need be.
    pub(crate) async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), BuildError> {
        let at = Instant::now();
        let size = bytes.len() as u64;
        let store = async {
            self.uses.hold_before_storing(digest).await?;
            let key = Key::blob(digest);
            self.storage.put(&key, bytes, PutMode::Replace).await
        };
        store.await.map(drop).map_err(BuildError::stored)?;
        self.stored(digest, size, at);
        Ok(())
    }

    /// Whether the blob is in the store with this size.
    pub(crate) async fn is_there(&self, digest: Digest, size: u64) -> Result<bool, BuildError> {
        let fresh = |seen: Instant| seen.elapsed() < self.seen_counts;
        let known = self.known().get(&digest).copied();
        if known.is_some_and(|blob| blob.size == size && blob.seen.is_some_and(fresh)) {
            return Ok(true);
        }
        self.look(digest, size).await
    }

    async fn look(&self, digest: Digest, size: u64) -> Result<bool, BuildError> {
        let at = Instant::now();
        let stat = self.storage.stat(&Key::blob(digest)).await;
        let stat = stat.map_err(BuildError::looked_up)?;
        let there = match stat {
            Some(stat) if stat.size == size => true,
            Some(stat) => {
                tracing::warn!(%digest, expected = size, actual = stat.size, "a stored blob has the wrong size");
                false
            }
            None => false,
        };
        if !there {
            self.uses.forget(&digest);
        }
        let mut known = self.known();
        let mut blob = Blob::seen(known.get(&digest).copied(), size, at, at);
        if !there {
            (blob.seen, blob.verified) = (None, false);
        }
        known.insert(digest, blob);
        Ok(there)
    }

    /// Whether all of them are. Asks for many at once.
    pub(crate) async fn are_there(
        &self,
        blobs: impl IntoIterator<Item = (Digest, u64)>,
    ) -> Result<bool, BuildError> {
        let lookups: Vec<_> = blobs
            .into_iter()
            .map(|(digest, size)| self.is_there(digest, size))
            .collect();
        stream::iter(lookups)
            .buffer_unordered(LOOKUPS)
            .try_all(std::future::ready)
            .await
    }

    /// Notes that the blob was stored, or was there with that size, in a write that began at `at`.
    pub(crate) fn stored(&self, digest: Digest, size: u64, at: Instant) {
        self.uses.stored(digest, at);
        let mut known = self.known();
        let blob = Blob::seen(known.get(&digest).copied(), size, at, Instant::now());
        known.insert(digest, blob);
    }

    /// Notes that the blob was read to its end just now and is what its digest says.
    pub(crate) fn verified(&self, digest: Digest, size: u64) {
        self.known().insert(
            digest,
            Blob {
                size,
                seen: Some(Instant::now()),
                missed: None,
                verified: true,
            },
        );
    }

    /// Whether the blob was read to its end and found right, and not reported missing since.
    pub(crate) fn is_verified(&self, digest: &Digest) -> bool {
        self.known().get(digest).is_some_and(|blob| blob.verified)
    }

    /// Notes the size a manifest gives a blob, seen or not.
    pub(crate) fn expect(&self, digest: Digest, size: u64) {
        let mut known = self.known();
        if known.get(&digest).is_none() {
            known.insert(
                digest,
                Blob {
                    size,
                    seen: None,
                    missed: None,
                    verified: false,
                },
            );
        }
    }

    /// The size the blob must have, if that is known.
    pub(crate) fn expected_size(&self, digest: &Digest) -> Option<u64> {
        self.known().get(digest).map(|blob| blob.size)
    }

    /// Notes that the blob is not there after all; `false` for one that was never heard of.
    pub(crate) fn missing(&self, digest: &Digest) -> bool {
        self.uses.forget(digest);
        let mut known = self.known();
        let Some(mut blob) = known.get_mut(digest) else {
            return false;
        };
        (blob.seen, blob.verified) = (None, false);
        blob.missed = Some(Instant::now());
        true
    }

    /// Waits until nobody else rechecks the blob.
    pub(crate) async fn lock_recheck(&self, digest: Digest) -> OwnedMutexGuard<()> {
        self.rechecks.lock(digest).await
    }

    /// Counts a blob that was found damaged while it was served.
    pub(crate) fn count_damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were counted.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    fn known(&self) -> MutexGuard<'_, Cache<Digest, Blob>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use nixery_storage::{MemoryStorage, PutMode};

    use super::*;
    use nixery_state::testing::faulty::FaultyStorage;

    const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

    #[tokio::test]
    async fn what_was_seen_is_asked_for_again_only_after_a_while() {
        let storage = Arc::new(MemoryStorage::new());
        let digest = Digest::of(b"blob");
        let key = Key::blob(digest);
        let lasting = Blobs::new(storage.clone(), Duration::from_secs(3600), GRACE);
        let forgetful = Blobs::new(storage.clone(), Duration::ZERO, GRACE);
        assert!(!lasting.is_there(digest, 4).await.expect("works"));

        let _ = storage
            .put(&key, "blob".into(), PutMode::Replace)
            .await
            .expect("put");
        for blobs in [&lasting, &forgetful] {
            assert!(blobs.is_there(digest, 4).await.expect("works"));
            assert!(
                !blobs.is_there(digest, 5).await.expect("works"),
                "wrong size"
            );
            assert!(blobs.is_there(digest, 4).await.expect("works"));
        }
        storage.delete(&key).await.expect("delete");
        assert!(lasting.is_there(digest, 4).await.expect("works"));
        assert!(!forgetful.is_there(digest, 4).await.expect("works"));
        lasting.missing(&digest);
        assert!(!lasting.is_there(digest, 4).await.expect("works"));
        assert_eq!(lasting.expected_size(&digest), Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_began_before_a_blob_was_missed_says_nothing_after() {
        let storage = Arc::new(MemoryStorage::new());
        let slow = FaultyStorage::slow(storage.clone(), Duration::from_secs(1), 1);
        let blobs = Blobs::new(slow, Duration::from_secs(3600), GRACE);
        let digest = Digest::of(b"blob");
        let key = Key::blob(digest);
        blobs.put(digest, "blob".into()).await.expect("put");
        blobs.missing(&digest);
        let (there, _) = tokio::join!(blobs.is_there(digest, 4), async {
            // It is there when the store looks, and gone a moment later.
            tokio::task::yield_now().await;
            blobs.missing(&digest)
        });
        assert!(there.expect("works"));
        storage.delete(&key).await.expect("delete");
        assert!(!blobs.is_there(digest, 4).await.expect("works"));
    }

    #[tokio::test]
    async fn a_verified_blob_stays_so_until_it_is_missed() {
        let storage = Arc::new(MemoryStorage::new());
        let blobs = Blobs::new(storage.clone(), Duration::ZERO, GRACE);
        let digest = Digest::of(b"blob");
        let _ = storage
            .put(&Key::blob(digest), "blob".into(), PutMode::Replace)
            .await
            .expect("put");
        blobs.stored(digest, 4, Instant::now());
        assert!(!blobs.is_verified(&digest), "an older copy may be damaged");
        blobs.verified(digest, 4);
        assert!(blobs.is_there(digest, 4).await.expect("works"));
        blobs.stored(digest, 4, Instant::now());
        assert!(blobs.is_verified(&digest));
        blobs.missing(&digest);
        assert!(!blobs.is_verified(&digest));
    }
}
