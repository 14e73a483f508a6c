//! Which blobs are in the store, whole: what was seen there lately need not be asked for again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use nixery_manifest::Digest;
use nixery_storage::{Key, Storage};

use crate::error::BuildError;

/// Look-ups of one image that run at once; an image has about a hundred blobs.
const LOOKUPS: usize = 32;
/// Blobs remembered per generation, about 100 bytes each.
const GENERATION: usize = 100_000;

/// The blobs of a store.
#[derive(Debug)]
pub(crate) struct Blobs {
    storage: Arc<dyn Storage>,
    /// How long a blob that was seen counts as there.
    recheck_after: Duration,
    known: Mutex<Known>,
}

/// Two generations: when the newer is full it becomes the older one and the older is forgotten, so
/// memory is bounded and what is used stays.
#[derive(Debug, Default)]
struct Known {
    newer: HashMap<Digest, Blob>,
    older: HashMap<Digest, Blob>,
}

#[derive(Debug, Clone, Copy)]
struct Blob {
    size: u64,
    seen: Option<Instant>,
    /// Whether this process read it to its end and its digest was right.
    verified: bool,
}

impl Blobs {
    pub(crate) fn new(storage: Arc<dyn Storage>, recheck_after: Duration) -> Self {
        Self {
            storage,
            recheck_after,
            known: Mutex::default(),
        }
    }

    /// Whether the blob is in the store with this size.
    pub(crate) async fn is_there(&self, digest: Digest, size: u64) -> Result<bool, BuildError> {
        let fresh = |seen: Instant| seen.elapsed() < self.recheck_after;
        let known = self.known().get(&digest);
        if known.is_some_and(|blob| blob.size == size && blob.seen.is_some_and(fresh)) {
            return Ok(true);
        }
        let stat = self.storage.stat(&Key::Blob(digest)).await;
        let stat = stat.map_err(|source| BuildError::Storage {
            doing: "looked up",
            source,
        })?;
        let there = match stat {
            Some(stat) if stat.size == size => true,
            Some(stat) => {
                tracing::warn!(%digest, expected = size, actual = stat.size, "a stored blob has the wrong size");
                false
            }
            None => false,
        };
        let seen = there.then(Instant::now);
        let verified = there && known.is_some_and(|blob| blob.verified);
        self.known().insert(
            digest,
            Blob {
                size,
                seen,
                verified,
            },
        );
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

    /// Notes that the blob was stored just now, or was there with that size.
    pub(crate) fn stored(&self, digest: Digest, size: u64) {
        let mut known = self.known();
        let verified = known.get(&digest).is_some_and(|blob| blob.verified);
        known.insert(
            digest,
            Blob {
                size,
                seen: Some(Instant::now()),
                verified,
            },
        );
    }

    /// Notes that the blob was read to its end just now and is what its digest says.
    pub(crate) fn verified(&self, digest: Digest, size: u64) {
        self.known().insert(
            digest,
            Blob {
                size,
                seen: Some(Instant::now()),
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
                    verified: false,
                },
            );
        }
    }

    /// The size the blob must have, if that is known.
    pub(crate) fn expected_size(&self, digest: &Digest) -> Option<u64> {
        self.known().get(digest).map(|blob| blob.size)
    }

    /// Notes that the blob is not there after all.
    pub(crate) fn missing(&self, digest: &Digest) {
        let mut known = self.known();
        if let Some(blob) = known.get(digest) {
            known.insert(
                *digest,
                Blob {
                    seen: None,
                    verified: false,
                    ..blob
                },
            );
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn get(&mut self, digest: &Digest) -> Option<Blob> {
        if let Some(blob) = self.newer.get(digest) {
            return Some(*blob);
        }
        let blob = self.older.remove(digest)?;
        self.insert(*digest, blob);
        Some(blob)
    }

    fn insert(&mut self, digest: Digest, blob: Blob) {
        if self.newer.len() >= GENERATION {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(digest, blob);
    }
}

#[cfg(test)]
mod tests {
    use nixery_storage::{MemoryStorage, PutMode};

    use super::*;

    #[tokio::test]
    async fn what_was_seen_is_asked_for_again_only_after_a_while() {
        let storage = Arc::new(MemoryStorage::new());
        let digest = Digest::of(b"blob");
        let key = Key::Blob(digest);
        let lasting = Blobs::new(storage.clone(), Duration::from_secs(3600));
        let forgetful = Blobs::new(storage.clone(), Duration::ZERO);
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

    #[tokio::test]
    async fn a_verified_blob_stays_so_until_it_is_missed() {
        let storage = Arc::new(MemoryStorage::new());
        let blobs = Blobs::new(storage.clone(), Duration::ZERO);
        let digest = Digest::of(b"blob");
        let _ = storage
            .put(&Key::Blob(digest), "blob".into(), PutMode::Replace)
            .await
            .expect("put");
        blobs.stored(digest, 4);
        assert!(!blobs.is_verified(&digest), "an older copy may be damaged");
        blobs.verified(digest, 4);
        assert!(blobs.is_there(digest, 4).await.expect("works"));
        blobs.stored(digest, 4);
        assert!(blobs.is_verified(&digest));
        blobs.missing(&digest);
        assert!(!blobs.is_verified(&digest));
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let mut known = Known::default();
        let used = Digest::of(b"used");
        known.insert(
            used,
            Blob {
                size: 1,
                seen: None,
                verified: false,
            },
        );
        for n in 0..5 * GENERATION {
            known.insert(
                Digest::of(&n.to_le_bytes()),
                Blob {
                    size: 1,
                    seen: None,
                    verified: false,
                },
            );
            if n % (GENERATION / 4) == 0 {
                assert!(known.get(&used).is_some(), "{n}");
            }
        }
        assert!(known.newer.len() + known.older.len() <= 2 * GENERATION);
    }
}
