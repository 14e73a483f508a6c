//! Computes digests beside the threads that answer requests, a few at once.
//!
//! Requests are answered by as many threads as there are cores. A digest of a megabyte takes one of
//! them longer than a hundred answers from memory do.

use std::mem;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::TryStreamExt;
use nixery_manifest::{Digest, Digester};
use nixery_storage::{Key, Operation, Stat, Storage, StorageError};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Bytes of a chunk that has its own digest. Small enough to be held in memory for each reader.
pub(crate) const CHUNK_BYTES: u64 = 256 * 1024;
/// Bytes that are hashed at once by the task that has them: less work than to hand them over.
const MAX_INLINE: usize = 16 * 1024;

/// Hashes on threads that may block, at most one for each core. So answers from memory keep their
/// share of the cores, however much there is to hash.
#[derive(Debug)]
pub(crate) struct Hashing(Arc<Semaphore>);

impl Default for Hashing {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self(Arc::new(Semaphore::new(cores)))
    }
}

impl Hashing {
    /// Runs `work`, which hashes this number of bytes.
    ///
    /// # Errors
    /// The process is stopping.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StorageError> {
        if bytes <= MAX_INLINE {
            return Ok(work());
        }
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let permit = permit.map_err(stopping)?;
        let work = move || {
            // The thread holds the permit, as it goes on when its caller is gone.
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(stopping)
    }

    /// Returns whether the bytes have this digest.
    ///
    /// # Errors
    /// The process is stopping.
    pub(crate) async fn matches(
        &self,
        bytes: &Bytes,
        digest: Digest,
    ) -> Result<bool, StorageError> {
        let (size, bytes) = (bytes.len(), bytes.clone());
        self.run(size, move || digest.verify(&bytes).is_ok()).await
    }
}

fn stopping(error: impl std::error::Error + Send + Sync + 'static) -> StorageError {
    StorageError::Failed {
        backend: "hashing",
        operation: Operation::Read,
        target: "a blob".to_owned(),
        retryable: true,
        source: error.into(),
    }
}

/// The digests of a blob's chunks, from a reading in which the whole blob matched its digest. With
/// them, any part of the blob can be verified alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChunkDigests {
    digests: Arc<[Digest]>,
    size: u64,
}

impl ChunkDigests {
    /// Bytes of the whole blob.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the number of chunks.
    pub(crate) fn len(&self) -> usize {
        self.digests.len()
    }

    /// Returns the digest of the chunk that begins at a multiple of [`CHUNK_BYTES`].
    pub(crate) fn at(&self, start: u64) -> Option<Digest> {
        let index = usize::try_from(start / CHUNK_BYTES).ok()?;
        self.digests.get(index).copied()
    }
}

/// Computes the digest of a blob, and those of its chunks if they are wanted.
pub(crate) struct BlobHasher {
    whole: Digester,
    chunk: Option<Digester>,
    chunks: Vec<Digest>,
}

impl BlobHasher {
    pub(crate) fn new(with_chunks: bool) -> Self {
        Self {
            whole: Digester::new(),
            chunk: with_chunks.then(Digester::new),
            chunks: Vec::new(),
        }
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        let Some(chunk) = &mut self.chunk else {
            return;
        };
        while !bytes.is_empty() {
            let room = usize::try_from(CHUNK_BYTES - chunk.bytes()).unwrap_or(bytes.len());
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            chunk.update(part);
            if chunk.bytes() == CHUNK_BYTES {
                self.chunks.push(mem::take(chunk).finish());
            }
            bytes = rest;
        }
    }

    /// Returns the digest of all bytes, and those of the chunks.
    pub(crate) fn finish(mut self) -> (Digest, Option<ChunkDigests>) {
        let size = self.whole.bytes();
        let chunks = self.chunk.map(|last| {
            if last.bytes() > 0 {
                self.chunks.push(last.finish());
            }
            ChunkDigests {
                digests: self.chunks.into(),
                size,
            }
        });
        (self.whole.finish(), chunks)
    }
}

/// A blob that was read to its end.
#[derive(Debug)]
pub(crate) struct HashedBlob {
    pub(crate) digest: Digest,
    pub(crate) stat: Stat,
    /// When the reading began.
    pub(crate) begun: Instant,
    /// `None` for a blob with an identity, which is not verified again at each reading.
    pub(crate) chunks: Option<ChunkDigests>,
}

/// Reads and hashes a whole blob; `None` if there is none.
///
/// # Errors
/// The blob cannot be read to its end.
pub(crate) async fn hash_blob(
    storage: &dyn Storage,
    hashing: &Hashing,
    digest: &Digest,
) -> Result<Option<HashedBlob>, StorageError> {
    let begun = Instant::now();
    let Some(mut reader) = storage.get(&Key::blob(*digest), None).await? else {
        return Ok(None);
    };
    let stat = reader.stat;
    let mut hasher = BlobHasher::new(stat.identity.is_none());
    while let Some(chunk) = reader.body.try_next().await? {
        hasher = hash_chunk(hashing, hasher, chunk).await?;
    }
    let (digest, chunks) = hasher.finish();
    Ok(Some(HashedBlob {
        digest,
        stat,
        begun,
        chunks,
    }))
}

/// Hashes the next bytes of a blob.
///
/// # Errors
/// The process is stopping.
pub(crate) async fn hash_chunk(
    hashing: &Hashing,
    mut hasher: BlobHasher,
    bytes: Bytes,
) -> Result<BlobHasher, StorageError> {
    let update = move |bytes: &[u8]| {
        hasher.update(bytes);
        hasher
    };
    hashing.run(bytes.len(), move || update(&bytes)).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn chunks_do_not_depend_on_how_the_bytes_arrive(
            size in 0..3 * CHUNK_BYTES as usize,
            cuts in proptest::collection::vec(1..2 * CHUNK_BYTES as usize, 0..5),
        ) {
            let bytes: Vec<u8> = (0..size).map(|at| (at / 1000) as u8).collect();
            let mut hasher = BlobHasher::new(true);
            let mut rest = &bytes[..];
            for cut in cuts {
                let (part, after) = rest.split_at(cut.min(rest.len()));
                hasher.update(part);
                rest = after;
            }
            hasher.update(rest);
            let (digest, chunks) = hasher.finish();
            let chunks = chunks.expect("wanted");
            prop_assert_eq!(digest, Digest::of(&bytes));
            prop_assert_eq!(chunks.size(), size as u64);
            let expected: Vec<_> = bytes.chunks(CHUNK_BYTES as usize).map(Digest::of).collect();
            prop_assert_eq!(&*chunks.digests, &expected[..]);
        }
    }

    /// The permits bound how many threads hash.
    #[tokio::test]
    async fn at_most_one_thread_for_each_core_hashes() {
        let hashing = Hashing::default();
        let cores = hashing.0.available_permits();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..4 * cores + 4).map(|_| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            hashing.run(MAX_INLINE + 1, move || {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
            })
        });
        for done in futures::future::join_all(tasks).await {
            done.expect("runs");
        }
        assert!((1..=cores).contains(&most.load(Ordering::SeqCst)));
    }
}
