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
use nixery_storage::{Key, ObjectIdentity, PutMode, Stat, Storage, StorageError};
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::error::BuildError;
use crate::hashing::{ChunkDigests, Hashing};
use crate::keyed_lock::KeyedLocks;

/// Look-ups of one image that run at once; an image has about a hundred blobs.
const LOOKUPS_AT_ONCE: usize = 32;

/// Blobs that are remembered, at about 100 bytes each.
const MAX_REMEMBERED: usize = 200_000;

/// How long a local file that was read whole counts as undamaged. A disk may change a bit without a
/// trace in the file's metadata.
pub(crate) const VERIFIED_FOR: Duration = Duration::from_secs(60 * 60);

/// Blobs that are read at once only to verify them, before a part of them is sent.
const VERIFICATIONS_AT_ONCE: usize = 4;

/// Digests of chunks in memory, at 32 bytes: 16 MiB, for 128 GiB of blobs.
const MAX_CHUNKS: u64 = 512 * 1024;
/// Chunks of a usual layer, to estimate how many layers fit.
const USUAL_CHUNKS: u64 = 32;

/// The blobs of a store.
#[derive(Debug)]
pub(crate) struct Blobs {
    storage: Arc<dyn Storage>,
    /// How long a confirmed blob needs no look-up.
    confirmed_for: Duration,
    remembered: Mutex<Cache<Digest, BlobFacts>>,
    chunks: Mutex<Cache<Digest, ChunkDigests, ByChunks>>,
    /// The blob of each layer, by the key of the layer, that this process has packed or looked
    /// into.
    layers: Mutex<Cache<Digest, Digest>>,
    uses: Uses,
    /// Held while a blob is read whole to verify it.
    pub(crate) verify_locks: KeyedLocks<Digest>,
    pub(crate) verifications: Arc<Semaphore>,
    pub(crate) hashing: Arc<Hashing>,
    damaged: AtomicU64,
}

/// Bounds the chunks in memory.
#[derive(Debug, Clone)]
struct ByChunks;

impl Weighter<Digest, ChunkDigests> for ByChunks {
    fn weight(&self, _: &Digest, chunks: &ChunkDigests) -> u64 {
        chunks.len().max(1) as u64
    }
}

/// What this process remembers about a blob.
#[derive(Debug, Clone, Copy, Default)]
struct BlobFacts {
    size: u64,
    /// When the store last had the blob with this size.
    confirmed: Option<Instant>,
    /// When the blob was last reported missing.
    missing: Option<Instant>,
    /// The local file that this process has read whole with the right digest, and when.
    verified: Option<(ObjectIdentity, Instant)>,
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
            chunks: Mutex::new(Cache::with_weighter(
                (MAX_CHUNKS / USUAL_CHUNKS) as usize,
                MAX_CHUNKS,
                ByChunks,
            )),
            layers: Mutex::new(Cache::new(MAX_REMEMBERED)),
            verify_locks: KeyedLocks::default(),
            verifications: Arc::new(Semaphore::new(VERIFICATIONS_AT_ONCE)),
            hashing: Arc::default(),
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
            (facts.confirmed, facts.verified) = (None, None);
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

    /// Notes that the whole blob was read, from `begun` until now, and matches its digest. `chunks`
    /// are the digests of its chunks, if it has no identity.
    pub(crate) fn record_verified(
        &self,
        digest: Digest,
        stat: &Stat,
        begun: Instant,
        chunks: Option<ChunkDigests>,
    ) {
        let now = Instant::now();
        {
            let mut remembered = self.remembered();
            let previous = remembered.get(&digest).copied();
            let mut facts = BlobFacts::confirmed(previous, stat.size, begun, now);
            // A report during the reading may be about another reading, whose bytes were wrong.
            let counts = facts.confirmed.is_some();
            facts.verified = stat.identity.filter(|_| counts).map(|id| (id, now));
            remembered.insert(digest, facts);
        }
        if let Some(chunks) = chunks {
            self.chunks().insert(digest, chunks);
        }
    }

    /// Returns whether this process has read the blob whole with the right digest, not long ago,
    /// and the blob is still the same local file.
    pub(crate) fn is_verified(&self, digest: &Digest, stat: &Stat) -> bool {
        let remembered = self.remembered();
        let verified = remembered.get(digest).and_then(|facts| facts.verified);
        verified.is_some_and(|(identity, at)| {
            stat.identity == Some(identity) && at.elapsed() < VERIFIED_FOR
        })
    }

    /// Returns the digests of the blob's chunks, if this process has read it whole.
    pub(crate) fn chunk_digests(&self, digest: &Digest) -> Option<ChunkDigests> {
        self.chunks().get(digest).cloned()
    }

    /// Notes that the blob is the layer with this key, as far as this process can see.
    pub(crate) fn record_layer(&self, key: Digest, blob: Digest) {
        self.layers().insert(key, blob);
    }

    /// Returns whether the blob was noted to be the layer with this key.
    pub(crate) fn is_layer(&self, key: &Digest, blob: &Digest) -> bool {
        self.layers().get(key) == Some(blob)
    }

    fn layers(&self) -> MutexGuard<'_, Cache<Digest, Digest>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
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
        (facts.confirmed, facts.verified) = (None, None);
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

    fn chunks(&self) -> MutexGuard<'_, Cache<Digest, ChunkDigests, ByChunks>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self) -> MutexGuard<'_, Cache<Digest, BlobFacts>> {
        let remembered = self.remembered.lock();
        remembered.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use nixery_state::testing::faulty::FaultyStorage;
    use nixery_storage::{FilesystemStorage, MemoryStorage};

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

    /// A client may take minutes to read a blob that a collection deletes meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_reading_that_began_before_a_report_does_not_confirm_the_blob() {
        const SECOND: Duration = Duration::from_secs(1);
        let storage = Arc::new(MemoryStorage::new());
        let blobs = Blobs::new(storage.clone(), Duration::from_secs(3600), GRACE);
        let digest = Digest::of(b"blob");
        let key = Key::blob(digest);
        blobs.put(digest, "blob".into()).await.expect("put");
        let stat = storage.stat(&key).await.expect("works").expect("is there");
        let begun = Instant::now();
        storage.delete(&key).await.expect("delete");
        tokio::time::advance(SECOND).await;
        assert!(blobs.report_missing(&digest));
        tokio::time::advance(SECOND).await;
        blobs.record_verified(digest, &stat, begun, None);
        assert!(!blobs.is_there(digest, 4).await.expect("works"));
        // A reading that begins after the report counts.
        tokio::time::advance(SECOND).await;
        blobs.record_verified(digest, &stat, Instant::now(), None);
        assert!(blobs.is_there(digest, 4).await.expect("works"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_verified_file_stays_verified_until_it_changes_or_an_hour_has_passed() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Arc::new(FilesystemStorage::open(folder.path()).expect("a store"));
        let blobs = Blobs::new(storage.clone(), Duration::ZERO, GRACE);
        let digest = Digest::of(b"blob");
        let key = Key::blob(digest);
        let stat = async || {
            let stat = storage.stat(&key).await;
            stat.expect("works").expect("is there")
        };
        let store = || storage.put(&key, "blob".into(), PutMode::Replace);
        let _ = store().await.expect("put");
        let first = stat().await;
        blobs.record_stored(digest, 4, Instant::now());
        let copy_may_be_older = blobs.is_verified(&digest, &first);
        assert!(!copy_may_be_older);
        blobs.record_verified(digest, &first, Instant::now(), None);
        assert!(blobs.is_there(digest, 4).await.expect("works"));
        blobs.record_stored(digest, 4, Instant::now());
        assert!(blobs.is_verified(&digest, &first));

        let _ = store().await.expect("put");
        let second = stat().await;
        assert!(!blobs.is_verified(&digest, &second), "it was replaced");
        blobs.record_verified(digest, &second, Instant::now(), None);
        tokio::time::advance(VERIFIED_FOR).await;
        assert!(!blobs.is_verified(&digest, &second), "it is long ago");
        blobs.record_verified(digest, &second, Instant::now(), None);
        assert!(blobs.is_verified(&digest, &second));
        blobs.report_missing(&digest);
        assert!(!blobs.is_verified(&digest, &second));
    }
}
