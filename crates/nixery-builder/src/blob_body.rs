//! Bodies of blobs that are verified on their way to a client: no body yields all bytes of a
//! damaged blob.

use std::mem;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use nixery_manifest::Digest;
use nixery_storage::{ByteRange, Key, Storage, StorageError};

use crate::hashing::{BlobHasher, CHUNK_BYTES, ChunkDigests, Hashing, hash_chunk};

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobBodyError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The bytes do not match the digest. The last ones are withheld.
    #[error("the stored blob is damaged: it does not match its digest")]
    Damaged,
}

/// The first reading of a whole blob.
struct FirstReading<F> {
    body: BoxStream<'static, Result<Bytes, StorageError>>,
    hashing: Arc<Hashing>,
    expected: Digest,
    /// `None` after the end.
    hasher: Option<BlobHasher>,
    withheld: Bytes,
    at_end: Option<F>,
}

/// What a whole reading shows: the digests of the chunks if they were computed, or damage.
pub(crate) type Verdict = Result<Option<ChunkDigests>, ()>;

/// Passes the bytes on, and withholds the last ones until the digest of all of them is right.
///
/// Calls `at_end` with the verdict before the last bytes are passed on, and never if the body fails
/// or is dropped before its end.
pub(crate) fn verify_whole(
    body: BoxStream<'static, Result<Bytes, StorageError>>,
    hashing: Arc<Hashing>,
    expected: Digest,
    hasher: BlobHasher,
    at_end: impl FnOnce(Verdict) + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BlobBodyError>> + Send + 'static {
    let reading = FirstReading {
        body,
        hashing,
        expected,
        hasher: Some(hasher),
        withheld: Bytes::new(),
        at_end: Some(at_end),
    };
    stream::unfold(reading, |mut reading| async {
        let next = reading.next().await.transpose()?;
        Some((next, reading))
    })
}

impl<F: FnOnce(Verdict)> FirstReading<F> {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobBodyError> {
        // An error, or the end, was the last item.
        while let Some(hasher) = self.hasher.take() {
            let Some(chunk) = self.body.next().await.transpose()? else {
                let (actual, chunks) = hasher.finish();
                let matches = actual == self.expected;
                if let Some(at_end) = self.at_end.take() {
                    at_end(if matches { Ok(chunks) } else { Err(()) });
                }
                let last = mem::take(&mut self.withheld);
                return match matches {
                    true => Ok(Some(last).filter(|last| !last.is_empty())),
                    false => Err(BlobBodyError::Damaged),
                };
            };
            self.hasher = Some(hash_chunk(&self.hashing, hasher, chunk.clone()).await?);
            if chunk.is_empty() {
                continue;
            }
            let passed = mem::replace(&mut self.withheld, chunk);
            if !passed.is_empty() {
                return Ok(Some(passed));
            }
        }
        Ok(None)
    }
}

/// A blob whose chunks are verified one by one.
pub(crate) struct ChunkSource {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) hashing: Arc<Hashing>,
    pub(crate) digest: Digest,
    pub(crate) chunks: ChunkDigests,
}

impl ChunkSource {
    /// Returns the chunk, or the same chunk from another reading, if it is sound.
    async fn sound(&self, chunk: Bytes, at: ByteRange) -> Result<Option<Bytes>, StorageError> {
        let Self {
            storage,
            hashing,
            digest,
            chunks,
        } = self;
        let Some(expected) = chunks.at(at.start) else {
            return Ok(None);
        };
        if hashing.matches(&chunk, expected).await? {
            return Ok(Some(chunk));
        }
        tracing::warn!(%digest, start = at.start, "a part of a blob was damaged: reading it again");
        let Some(again) = storage.get(&Key::blob(*digest), Some(at)).await? else {
            return Ok(None);
        };
        let again = again.bytes().await?;
        let matches = hashing.matches(&again, expected).await?;
        Ok(matches.then_some(again))
    }
}

/// The rest of a part of a blob.
struct ChunkReading<F> {
    source: ChunkSource,
    /// Whole chunks.
    body: BoxStream<'static, Result<Bytes, StorageError>>,
    buffer: BytesMut,
    /// The offset at which `buffer` begins.
    start: u64,
    /// The bytes that are yet to be passed on.
    range: ByteRange,
    on_damage: Option<F>,
}

/// Reads a part of a blob, and passes on each chunk after it was verified. A damaged chunk is read
/// once more. Returns `None` if the blob is gone.
///
/// Calls `on_damage` if a chunk was damaged in both readings.
///
/// # Errors
/// The store failed, or has a blob of another size.
pub(crate) async fn verify_chunks(
    source: ChunkSource,
    range: ByteRange,
    on_damage: impl FnOnce() + Send + 'static,
) -> Result<Option<impl Stream<Item = Result<Bytes, BlobBodyError>> + Send + 'static>, StorageError>
{
    let start = range.start - range.start % CHUNK_BYTES;
    let end = range.end.next_multiple_of(CHUNK_BYTES);
    let whole_chunks = ByteRange::new(start, end.min(source.chunks.size()));
    let key = Key::blob(source.digest);
    let Some(reader) = source.storage.get(&key, Some(whole_chunks)).await? else {
        return Ok(None);
    };
    let reading = ChunkReading {
        source,
        body: reader.body,
        buffer: BytesMut::new(),
        start,
        range,
        on_damage: Some(on_damage),
    };
    Ok(Some(stream::try_unfold(reading, |mut reading| async {
        let next = reading.next().await?;
        Ok(next.map(|chunk| (chunk, reading)))
    })))
}

impl<F: FnOnce()> ChunkReading<F> {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobBodyError> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let size = CHUNK_BYTES.min(self.source.chunks.size() - self.start);
        let end = self.start + size;
        while (self.buffer.len() as u64) < size {
            match self.body.try_next().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                // A body yields all promised bytes, unless the object is smaller than it was.
                None => return self.damaged(),
            }
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let chunk = self.buffer.split_to(size).freeze();
        let at = ByteRange::new(self.start, end);
        let Some(chunk) = self.source.sound(chunk, at).await? else {
            return self.damaged();
        };
        let wanted = |offset: u64| usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let (first, last) = (wanted(self.range.start), wanted(self.range.end.min(end)));
        let passed = chunk.slice(first..last);
        (self.start, self.range.start) = (end, end.min(self.range.end));
        Ok(Some(passed))
    }

    fn damaged<T>(&mut self) -> Result<T, BlobBodyError> {
        if let Some(on_damage) = self.on_damage.take() {
            on_damage();
        }
        Err(BlobBodyError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use nixery_storage::{MemoryStorage, PutMode};
    use proptest::prelude::*;

    use super::*;

    const CHUNK: usize = CHUNK_BYTES as usize;

    /// What came out, whether it ended well, and the verdict.
    fn run(
        chunks: Vec<Result<Bytes, StorageError>>,
        digest: Digest,
    ) -> (Vec<u8>, Option<BlobBodyError>, Option<bool>) {
        let verdict = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&verdict);
        let at_end = move |verdict: Verdict| {
            *seen.lock().expect("not poisoned") = Some(verdict.is_ok());
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let (bytes, error) = runtime.block_on(async {
            let body = stream::iter(chunks).boxed();
            let hasher = BlobHasher::new(true);
            let mut body = Box::pin(verify_whole(body, Arc::default(), digest, hasher, at_end));
            let mut bytes = Vec::new();
            while let Some(chunk) = body.next().await {
                match chunk {
                    Ok(chunk) => {
                        assert!(!chunk.is_empty());
                        bytes.extend_from_slice(&chunk);
                    }
                    Err(error) => return (bytes, Some(error)),
                }
            }
            (bytes, None)
        });
        let verdict = *verdict.lock().expect("not poisoned");
        (bytes, error, verdict)
    }

    fn cut(bytes: &[u8], sizes: &[usize]) -> Vec<Result<Bytes, StorageError>> {
        let mut rest = Bytes::copy_from_slice(bytes);
        let mut chunks: Vec<_> = sizes
            .iter()
            .map(|size| Ok(rest.split_to((*size).min(rest.len()))))
            .collect();
        chunks.push(Ok(rest));
        chunks
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn sound_bytes_pass_however_they_are_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..3 * CHUNK),
            sizes in proptest::collection::vec(0..2 * CHUNK, 0..5),
        ) {
            let (sent, error, verdict) = run(cut(&bytes, &sizes), Digest::of(&bytes));
            prop_assert!(error.is_none());
            prop_assert_eq!(verdict, Some(true));
            prop_assert_eq!(sent, bytes);
        }

        #[test]
        fn the_last_damaged_bytes_are_withheld(
            bytes in proptest::collection::vec(any::<u8>(), 1..3 * CHUNK),
            sizes in proptest::collection::vec(0..2 * CHUNK, 0..5),
        ) {
            let (sent, error, verdict) = run(cut(&bytes, &sizes), Digest::of(b"other"));
            prop_assert!(matches!(error, Some(BlobBodyError::Damaged)));
            prop_assert_eq!(verdict, Some(false));
            prop_assert!(sent.len() < bytes.len());
            prop_assert!(bytes.starts_with(&sent));
        }
    }

    #[test]
    fn a_body_that_fails_gets_no_verdict() {
        let truncated = StorageError::Truncated {
            backend: "memory",
            target: "layers/x".into(),
            expected: 9,
            actual: 4,
        };
        let chunks = vec![Ok(Bytes::from_static(b"half")), Err(truncated)];
        let (sent, error, verdict) = run(chunks, Digest::of(b"half"));
        assert!(sent.is_empty());
        assert!(matches!(error, Some(BlobBodyError::Storage(_))));
        assert_eq!(verdict, None);
    }

    /// The part of a blob in memory that is sent, how it ends, and how often damage was reported.
    async fn part(
        stored: Bytes,
        sound: &[u8],
        range: ByteRange,
    ) -> (Vec<u8>, Option<BlobBodyError>, usize) {
        let storage = Arc::new(MemoryStorage::new());
        let digest = Digest::of(sound);
        let key = Key::blob(digest);
        let put = storage.put(&key, stored, PutMode::Replace);
        let _ = put.await.expect("put");
        let mut hasher = BlobHasher::new(true);
        hasher.update(sound);
        let source = ChunkSource {
            storage,
            hashing: Arc::default(),
            digest,
            chunks: hasher.finish().1.expect("wanted"),
        };
        let reports = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reports);
        let on_damage = move || {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let body = verify_chunks(source, range, on_damage).await;
        let mut body = Box::pin(body.expect("opens").expect("is there"));
        let (mut bytes, mut error) = (Vec::new(), None);
        while error.is_none()
            && let Some(chunk) = body.next().await
        {
            match chunk {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(failure) => error = Some(failure),
            }
        }
        (bytes, error, reports.load(Ordering::SeqCst))
    }

    fn blob(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at / 251) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_part_of_a_sound_blob_is_sent_and_no_wrong_chunk(
            size in 1..3 * CHUNK,
            (from, to, flipped) in (any::<u32>(), any::<u32>(), any::<u32>()),
        ) {
            let sound = blob(size);
            let start = from as usize % size;
            let end = start + 1 + to as usize % (size - start);
            let range = ByteRange::new(start as u64, end as u64);
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let (sent, error, reports) =
                runtime.block_on(part(Bytes::from(sound.clone()), &sound, range));
            prop_assert!(error.is_none(), "{error:?}");
            prop_assert_eq!(reports, 0);
            prop_assert_eq!(&sent[..], &sound[start..end]);

            let flipped = flipped as usize % size;
            let mut damaged = sound.clone();
            damaged[flipped] ^= 1;
            let (sent, error, reports) = runtime.block_on(part(damaged.into(), &sound, range));
            prop_assert!(sound[start..end].starts_with(&sent));
            let is_read = (start / CHUNK..=(end - 1) / CHUNK).contains(&(flipped / CHUNK));
            prop_assert_eq!(matches!(error, Some(BlobBodyError::Damaged)), is_read, "{:?}", error);
            prop_assert_eq!(reports, usize::from(is_read));
        }
    }
}
