//! Which blobs are in the store with the right size. A blob that was confirmed recently is not
//! looked up again.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use nixery_manifest::Digest;
use nixery_state::uses::Uses;
use nixery_storage::{Key, PutMode, Storage, StorageError};
use quick_cache::unsync::Cache;
use tokio::time::Instant;

use crate::error::BuildError;
use crate::keyed_lock::KeyedLocks;

/// Look-ups of one image that run at once; an image has about a hundred blobs.
const LOOKUPS_AT_ONCE: usize = 32;

/// Blobs that are remembered, at about 100 bytes each.
const MAX_REMEMBERED: usize = 200_000;

/// The blobs of a store.
#[derive(Debug)]
pub(crate) struct Blobs {
    storage: Arc<dyn Storage>,
    /// How long a confirmed blob needs no look-up.
    confirmed_for: Duration,
    remembered: Mutex<Cache<Digest, BlobFacts>>,
    uses: Uses,
    /// Held while a blob is read again that may be damaged.
    pub(crate) verify_locks: KeyedLocks<Digest>,
    damaged: AtomicU64,
}

/// What this process remembers about a blob.
#[derive(Debug, Clone, Copy, Default)]
struct BlobFacts {
    size: u64,
    /// When the store last had the blob with this size.
    confirmed: Option<Instant>,
    /// When the blob was last reported missing.
    missing: Option<Instant>,
    /// Whether this process has read the whole blob and its digest was right.
    verified: bool,
}

impl BlobFacts {
    /// Returns the facts after a call that began at `begun` and found the blob with `size`.
    fn confirmed(previous: Option<Self>, size: u64, begun: Instant, at: Instant) -> Self {
        let previous = previous.unwrap_or_default();
        // A blob that was reported missing during the call may be gone.
        let counts = previous.missing.is_none_or(|missing| missing < begun);
        Self {
            size,
            confirmed: counts.then_some(at),
            ..previous
        }
    }
}

impl Blobs {
    /// `grace` is at most that of the store's garbage collection, and much more than
    /// `confirmed_for`.
    pub(crate) fn new(storage: Arc<dyn Storage>, confirmed_for: Duration, grace: Duration) -> Self {
        Self {
            uses: Uses::new(Arc::clone(&storage), grace),
            storage,
            confirmed_for,
            remembered: Mutex::new(Cache::new(MAX_REMEMBERED)),
            verify_locks: KeyedLocks::default(),
            damaged: AtomicU64::new(0),
        }
    }

    /// Returns the marks of when blobs were last needed.
    pub(crate) fn uses(&self) -> &Uses {
        &self.uses
    }

    /// Returns whether the store has the blob. If so, no collection deletes it while an image is
    /// built that needs it.
    pub(crate) async fn hold(&self, digest: Digest, size: u64) -> Result<bool, BuildError> {
        let held = self.uses.hold(digest).await;
        if held.map_err(BuildError::looked_up)? {
            // A collection may have deleted the blob before the mark was written.
            return self.look_up(digest, size).await;
        }
        self.is_there(digest, size).await
    }

    /// Stores a packed layer, unless the store has it.
    pub(crate) async fn put_file(
        &self,
        digest: Digest,
        size: u64,
        spool: &Path,
    ) -> Result<(), BuildError> {
        let key = Key::blob(digest);
        self.put_with(digest, size, self.storage.put_file(&key, spool))
            .await
    }

    /// Stores a small blob, and replaces a damaged copy.
    pub(crate) async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), BuildError> {
        let (key, size) = (Key::blob(digest), bytes.len() as u64);
        self.put_with(
            digest,
            size,
            self.storage.put(&key, bytes, PutMode::Replace),
        )
        .await
    }

    async fn put_with<T>(
        &self,
        digest: Digest,
        size: u64,
        put: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<(), BuildError> {
        let begun = Instant::now();
        let held = self.uses.hold_before_storing(digest).await;
        held.map_err(BuildError::stored)?;
        put.await.map_err(BuildError::stored)?;
        self.record_stored(digest, size, begun);
        Ok(())
    }

    /// Returns whether the store has the blob with this size.
    pub(crate) async fn is_there(&self, digest: Digest, size: u64) -> Result<bool, BuildError> {
        let facts = self.remembered().get(&digest).copied();
        let confirmed = facts.filter(|facts| facts.size == size);
        let confirmed = confirmed.and_then(|facts| facts.confirmed);
        if confirmed.is_some_and(|at| at.elapsed() < self.confirmed_for) {
            return Ok(true);
        }
        self.look_up(digest, size).await
    }

    async fn look_up(&self, digest: Digest, size: u64) -> Result<bool, BuildError> {
        let begun = Instant::now();
        let stat = self.storage.stat(&Key::blob(digest)).await;
        let stored = stat.map_err(BuildError::looked_up)?.map(|stat| stat.size);
        if let Some(actual) = stored
            && actual != size
        {
            tracing::warn!(%digest, expected = size, actual, "a stored blob has the wrong size: it is treated as missing");
        }
        let there = stored == Some(size);
        if !there {
            self.uses.forget(&digest);
        }
        let mut remembered = self.remembered();
        let previous = remembered.get(&digest).copied();
        let mut facts = BlobFacts::confirmed(previous, size, begun, begun);
        if !there {
            (facts.confirmed, facts.verified) = (None, false);
        }
        remembered.insert(digest, facts);
        Ok(there)
    }

    /// Returns whether the store has all these blobs. Looks up many at once.
    pub(crate) async fn are_there(
        &self,
        blobs: impl IntoIterator<Item = (Digest, u64)>,
    ) -> Result<bool, BuildError> {
        let lookups = blobs
            .into_iter()
            .map(|(digest, size)| self.is_there(digest, size));
        let lookups: Vec<_> = lookups.collect();
        stream::iter(lookups)
            .buffer_unordered(LOOKUPS_AT_ONCE)
            .try_all(std::future::ready)
            .await
    }

    /// Notes that the blob was stored by a write that began at `begun`.
    fn record_stored(&self, digest: Digest, size: u64, begun: Instant) {
        self.uses.stored(digest, begun);
        let mut remembered = self.remembered();
        let previous = remembered.get(&digest).copied();
        let facts = BlobFacts::confirmed(previous, size, begun, Instant::now());
        remembered.insert(digest, facts);
    }

    /// Notes that the whole blob was read just now and matches its digest.
    pub(crate) fn record_verified(&self, digest: Digest, size: u64) {
        let facts = BlobFacts {
            size,
            confirmed: Some(Instant::now()),
            missing: None,
            verified: true,
        };
        self.remembered().insert(digest, facts);
    }

    /// Returns whether the whole blob was read and matched its digest, and has not been reported
    /// missing since.
    pub(crate) fn is_verified(&self, digest: &Digest) -> bool {
        let remembered = self.remembered();
        remembered.get(digest).is_some_and(|facts| facts.verified)
    }

    /// Notes the size that a manifest gives for a blob.
    pub(crate) fn expect_size(&self, digest: Digest, size: u64) {
        let mut remembered = self.remembered();
        if remembered.get(&digest).is_none() {
            let facts = BlobFacts {
                size,
                ..BlobFacts::default()
            };
            remembered.insert(digest, facts);
        }
    }

    /// Returns the size that the blob must have, if it is known.
    pub(crate) fn expected_size(&self, digest: &Digest) -> Option<u64> {
        self.remembered().get(digest).map(|facts| facts.size)
    }

    /// Notes that the blob is missing or damaged; returns `false` for an unknown blob.
    pub(crate) fn report_missing(&self, digest: &Digest) -> bool {
        self.uses.forget(digest);
        let mut remembered = self.remembered();
        let Some(mut facts) = remembered.get_mut(digest) else {
            return false;
        };
        (facts.confirmed, facts.verified) = (None, false);
        facts.missing = Some(Instant::now());
        true
    }

    /// Counts a blob that was found damaged while it was served.
    pub(crate) fn count_damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many damaged blobs were counted.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    fn remembered(&self) -> MutexGuard<'_, Cache<Digest, BlobFacts>> {
        let remembered = self.remembered.lock();
        remembered.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use nixery_state::testing::faulty::FaultyStorage;
    use nixery_storage::MemoryStorage;

    use super::*;

    const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

    #[tokio::test]
    async fn a_confirmed_blob_is_looked_up_again_only_after_a_while() {
        let storage = Arc::new(MemoryStorage::new());
        let digest = Digest::of(b"blob");
        let key = Key::blob(digest);
        let remembering = Blobs::new(storage.clone(), Duration::from_secs(3600), GRACE);
        let forgetful = Blobs::new(storage.clone(), Duration::ZERO, GRACE);
        assert!(!remembering.is_there(digest, 4).await.expect("works"));

        let _ = storage
            .put(&key, "blob".into(), PutMode::Replace)
            .await
            .expect("put");
        for blobs in [&remembering, &forgetful] {
            assert!(blobs.is_there(digest, 4).await.expect("works"));
            assert!(
                !blobs.is_there(digest, 5).await.expect("works"),
                "wrong size"
            );
            assert!(blobs.is_there(digest, 4).await.expect("works"));
        }
        storage.delete(&key).await.expect("delete");
        assert!(remembering.is_there(digest, 4).await.expect("works"));
        assert!(!forgetful.is_there(digest, 4).await.expect("works"));
        remembering.report_missing(&digest);
        assert!(!remembering.is_there(digest, 4).await.expect("works"));
        assert_eq!(remembering.expected_size(&digest), Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_up_that_began_before_a_report_does_not_confirm_the_blob() {
        let storage = Arc::new(MemoryStorage::new());
        let slow = FaultyStorage::slow(storage.clone(), Duration::from_secs(1), 1);
        let blobs = Blobs::new(slow, Duration::from_secs(3600), GRACE);
        let digest = Digest::of(b"blob");
        let key = Key::blob(digest);
        blobs.put(digest, "blob".into()).await.expect("put");
        blobs.report_missing(&digest);
        let (there, _) = tokio::join!(blobs.is_there(digest, 4), async {
            // The store has it at the look-up, and no longer a moment later.
            tokio::task::yield_now().await;
            blobs.report_missing(&digest)
        });
        assert!(there.expect("works"));
        storage.delete(&key).await.expect("delete");
        assert!(!blobs.is_there(digest, 4).await.expect("works"));
    }

    #[tokio::test]
    async fn a_verified_blob_stays_verified_until_it_is_reported_missing() {
        let storage = Arc::new(MemoryStorage::new());
        let blobs = Blobs::new(storage.clone(), Duration::ZERO, GRACE);
        let digest = Digest::of(b"blob");
        let _ = storage
            .put(&Key::blob(digest), "blob".into(), PutMode::Replace)
            .await
            .expect("put");
        blobs.record_stored(digest, 4, Instant::now());
        assert!(!blobs.is_verified(&digest), "an older copy may be damaged");
        blobs.record_verified(digest, 4);
        assert!(blobs.is_there(digest, 4).await.expect("works"));
        blobs.record_stored(digest, 4, Instant::now());
        assert!(blobs.is_verified(&digest));
        blobs.report_missing(&digest);
        assert!(!blobs.is_verified(&digest));
    }
}
