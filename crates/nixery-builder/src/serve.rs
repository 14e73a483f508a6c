//! Serves stored blobs: a client never receives all bytes of a wrong blob.
//!
//! [`Builder::open_blob`] finds a blob, and [`StoredBlob::read`] reads it. Behind them stand the
//! sizes that manifests give, the digests that this process has verified, and the deletion of
//! damaged blobs.

use std::fmt;

use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use nixery_manifest::{Digest, Digester};
use nixery_storage::{ByteRange, Key, Storage, StorageError, error_causes, verify};

use crate::builder::Builder;
use crate::error::BuildError;
use crate::image::ManifestBlob;

/// Blobs up to this size are verified before their first byte is sent: configs are no larger.
const MOST_IN_MEMORY: u64 = 64 * 1024;
/// Bytes hashed before other tasks run: a tenth of a millisecond's work.
const SLICE: usize = 64 * 1024;

/// What the store has under a digest.
#[derive(Debug)]
pub enum OpenBlob {
    /// A layer or config.
    Stored(StoredBlob),
    /// A manifest, which the store keeps apart from other blobs.
    Manifest(ManifestBlob),
}

/// A blob of the store whose size is right as far as the right one is known.
#[derive(Debug)]
pub struct StoredBlob {
    builder: Builder,
    digest: Digest,
    size: u64,
}

/// The bytes of a blob, or of a part of it.
pub struct BlobBody {
    /// The size of the whole blob in bytes.
    pub size: u64,
    /// The bytes that `body` yields.
    pub range: ByteRange,
    /// Yields exactly `range.len()` bytes, or ends with an error.
    pub body: BoxStream<'static, Result<Bytes, BlobBodyError>>,
}

/// Why a blob cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenBlobError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The store failed to read a manifest.
    #[error(transparent)]
    Manifest(BuildError),
    /// The stored copy has the wrong size. The next build that needs the blob stores it again.
    #[error("the stored copy of {digest} is damaged: it has {stored} of {expected} bytes")]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// Bytes in the store.
        stored: u64,
        /// Bytes of the undamaged blob.
        expected: u64,
    },
    /// The stored copy does not match its digest. It is deleted in the background.
    #[error("the stored copy of {digest} is damaged: it does not match its digest")]
    WrongDigest {
        /// The blob.
        digest: Digest,
    },
}

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
pub enum BlobBodyError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The bytes do not match the digest; the last ones are withheld.
    #[error("the stored blob is damaged: it does not match its digest")]
    Damaged,
}

impl Builder {
    /// Finds the blob with this digest, be it a layer, a config or a manifest; `None` where the
    /// store has none.
    ///
    /// An image that needs a blob that is missing or damaged is checked, and repaired, at its next
    /// request.
    ///
    /// # Errors
    /// The store failed, or its copy has the wrong size.
    pub async fn open_blob(&self, digest: Digest) -> Result<Option<OpenBlob>, OpenBlobError> {
        let stat = self.storage().stat(&Key::blob(digest)).await;
        let Some(stat) = stat.map_err(|error| self.unreadable(&digest, error))? else {
            let manifest = self.manifest_by_digest(&digest).await;
            let manifest = manifest.map_err(OpenBlobError::Manifest)?;
            if manifest.is_none() {
                self.report_missing(&digest);
            }
            return Ok(manifest.map(OpenBlob::Manifest));
        };
        let blob = StoredBlob {
            builder: self.clone(),
            digest,
            size: stat.size,
        };
        blob.check_size(stat.size)?;
        Ok(Some(OpenBlob::Stored(blob)))
    }

    /// How many stored blobs this process has found damaged while it served them.
    pub fn damaged_blobs(&self) -> u64 {
        self.engine().blobs.damaged()
    }

    fn unreadable(&self, digest: &Digest, error: StorageError) -> OpenBlobError {
        tracing::error!(%digest, cause = error_causes(&error), "cannot read a blob: {error}");
        self.report_missing(digest);
        error.into()
    }

    /// Records that a blob does not match its digest, and deletes it in the background.
    fn report_damaged(&self, digest: Digest) {
        tracing::error!(%digest, "a stored blob does not match its digest: it is not sent to its end");
        self.engine().blobs.count_damaged();
        let builder = self.clone();
        tokio::spawn(async move {
            if let Err(error) = builder.recheck(&digest).await {
                tracing::error!(%digest, cause = error_causes(&error), "cannot delete a damaged blob; `nixery verify --delete-corrupt` can do it later: {error}");
            }
        });
    }

    /// Reads a blob again that was found damaged, and deletes it if it is: with the right size,
    /// every later build would use it.
    async fn recheck(&self, digest: &Digest) -> Result<(), StorageError> {
        self.report_missing(digest);
        let blobs = &self.engine().blobs;
        // Many clients may ask for one damaged blob at once.
        let _lock = blobs.lock_recheck(*digest).await;
        match delete_if_damaged(&**self.storage(), digest).await? {
            Some(size) => blobs.verified(*digest, size),
            // Again: a build may have seen it since.
            None => self.report_missing(digest),
        }
        Ok(())
    }
}

impl StoredBlob {
    /// Bytes of the whole blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads the blob, or a part of it; `None` where it has been deleted since it was opened.
    ///
    /// The first time that this process reads the whole blob, the body withholds its last bytes
    /// until all of them match the digest.
    ///
    /// # Errors
    /// The store failed, or its copy is damaged.
    pub async fn read(&self, range: Option<ByteRange>) -> Result<Option<BlobBody>, OpenBlobError> {
        let (builder, digest) = (&self.builder, self.digest);
        let failed = |error| builder.unreadable(&digest, error);
        let reader = builder.storage().get(&Key::blob(digest), range).await;
        let Some(reader) = reader.map_err(failed)? else {
            builder.report_missing(&digest);
            return Ok(None);
        };
        let (size, sent) = (reader.stat.size, reader.range);
        self.check_size(size)?;
        let blobs = &builder.engine().blobs;
        let body = if range.is_some() || blobs.is_verified(&digest) {
            reader.body.map_err(BlobBodyError::from).boxed()
        } else if size <= MOST_IN_MEMORY {
            let bytes = reader.bytes().await.map_err(failed)?;
            if digest.verify(&bytes).is_err() {
                builder.report_damaged(digest);
                return Err(OpenBlobError::WrongDigest { digest });
            }
            blobs.verified(digest, size);
            stream::iter([Ok(bytes)]).boxed()
        } else {
            let builder = builder.clone();
            let at_end = move |verdict| match verdict {
                Verdict::Sound(size) => builder.engine().blobs.verified(digest, size),
                Verdict::Damaged => builder.report_damaged(digest),
            };
            verified(reader.body, digest, at_end).boxed()
        };
        Ok(Some(BlobBody {
            size,
            range: sent,
            body,
        }))
    }

    /// Refuses a copy that is known to have the wrong size: half a layer must not look like a whole
    /// one.
    fn check_size(&self, stored: u64) -> Result<(), OpenBlobError> {
        let (digest, blobs) = (self.digest, &self.builder.engine().blobs);
        match blobs.expected_size(&digest) {
            Some(expected) if expected != stored => {
                tracing::error!(%digest, stored, expected, "a stored blob has the wrong size and is not served");
                blobs.count_damaged();
                // The next build stores it again, as its size is wrong.
                self.builder.report_missing(&digest);
                Err(OpenBlobError::WrongSize {
                    digest,
                    stored,
                    expected,
                })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody")
            .field("size", &self.size)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Reads a blob to its end and deletes it if its digest is wrong; returns the size of one that is
/// right.
///
/// A blob that cannot be read to its end stays: only a whole reading proves anything. If another
/// process replaces the blob between the reading and the deletion, a sound copy is lost, which
/// costs a rebuild and nothing else.
async fn delete_if_damaged(
    storage: &dyn Storage,
    digest: &Digest,
) -> Result<Option<u64>, StorageError> {
    let key = Key::blob(*digest);
    match verify::hash(storage, &key).await? {
        None => Ok(None),
        Some((actual, size)) if actual == *digest => Ok(Some(size)),
        Some((actual, size)) => {
            storage.delete(&key).await?;
            tracing::error!(%digest, %actual, size, "deleted a damaged blob; the next build that needs it makes it again");
            Ok(None)
        }
    }
}

/// What the end of a body showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The bytes match the digest; with their number.
    Sound(u64),
    /// They do not.
    Damaged,
}

/// Passes the bytes on, and withholds the last ones until the digest of all of them is right.
///
/// Calls `at_end` before the last bytes are passed on, and never if the body fails or is dropped
/// before its end.
fn verified(
    body: BoxStream<'static, Result<Bytes, StorageError>>,
    expected: Digest,
    at_end: impl FnOnce(Verdict) + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BlobBodyError>> + Send + 'static {
    let start = VerifiedBody {
        body,
        unhashed: Bytes::new(),
        withheld: Bytes::new(),
        digester: Digester::new(),
        expected,
        at_end: Some(at_end),
    };
    stream::try_unfold(start, VerifiedBody::next)
}

struct VerifiedBody<F> {
    body: BoxStream<'static, Result<Bytes, StorageError>>,
    unhashed: Bytes,
    /// Hashed, and not passed on.
    withheld: Bytes,
    digester: Digester,
    expected: Digest,
    /// `None` at the end.
    at_end: Option<F>,
}

impl<F: FnOnce(Verdict)> VerifiedBody<F> {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, BlobBodyError> {
        if self.at_end.is_none() {
            return Ok(None);
        }
        loop {
            while self.unhashed.is_empty() {
                let Some(chunk) = self.body.try_next().await? else {
                    return self.end();
                };
                self.unhashed = chunk;
            }
            let slice = self.unhashed.split_to(self.unhashed.len().min(SLICE));
            self.digester.update(&slice);
            tokio::task::yield_now().await;
            let passed = std::mem::replace(&mut self.withheld, slice);
            if !passed.is_empty() {
                return Ok(Some((passed, self)));
            }
        }
    }

    fn end(mut self) -> Result<Option<(Bytes, Self)>, BlobBodyError> {
        let digester = std::mem::take(&mut self.digester);
        let size = digester.bytes();
        let sound = digester.finish() == self.expected;
        if let Some(at_end) = self.at_end.take() {
            at_end(if sound {
                Verdict::Sound(size)
            } else {
                Verdict::Damaged
            });
        }
        if !sound {
            return Err(BlobBodyError::Damaged);
        }
        let last = std::mem::take(&mut self.withheld);
        Ok((!last.is_empty()).then_some((last, self)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use nixery_storage::{MemoryStorage, PutMode};
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// What came out, whether it ended well, and the verdict.
    fn run(
        chunks: Vec<Result<Bytes, StorageError>>,
        digest: Digest,
    ) -> (Vec<u8>, Option<BlobBodyError>, Option<Verdict>) {
        let verdict = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&verdict);
        let at_end = move |verdict| *seen.lock().expect("not poisoned") = Some(verdict);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let (bytes, error) = runtime.block_on(async {
            let mut body = Box::pin(verified(stream::iter(chunks).boxed(), digest, at_end));
            let mut bytes = Vec::new();
            while let Some(chunk) = body.next().await {
                match chunk {
                    Ok(chunk) => {
                        assert!(!chunk.is_empty() && chunk.len() <= SLICE);
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
            bytes in proptest::collection::vec(any::<u8>(), 0..3 * SLICE),
            sizes in proptest::collection::vec(0..2 * SLICE, 0..5),
        ) {
            let (sent, error, verdict) = run(cut(&bytes, &sizes), Digest::of(&bytes));
            prop_assert!(error.is_none());
            prop_assert_eq!(verdict, Some(Verdict::Sound(bytes.len() as u64)));
            prop_assert_eq!(sent, bytes);
        }

        #[test]
        fn the_last_damaged_bytes_are_withheld(
            bytes in proptest::collection::vec(any::<u8>(), 1..3 * SLICE),
            sizes in proptest::collection::vec(0..2 * SLICE, 0..5),
        ) {
            let (sent, error, verdict) = run(cut(&bytes, &sizes), Digest::of(b"other"));
            prop_assert!(matches!(error, Some(BlobBodyError::Damaged)));
            prop_assert_eq!(verdict, Some(Verdict::Damaged));
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

    #[rstest]
    #[case::right(Some("blob"), Some(4), true)]
    #[case::of_the_same_size(Some("blab"), None, false)]
    #[case::cut(Some("bl"), None, false)]
    #[case::absent(None, None, false)]
    #[tokio::test]
    async fn only_a_damaged_blob_is_deleted(
        #[case] stored: Option<&'static str>,
        #[case] sound: Option<u64>,
        #[case] stays: bool,
    ) {
        let storage = MemoryStorage::new();
        let digest = Digest::of(b"blob");
        let key = Key::blob(digest);
        if let Some(bytes) = stored {
            let _ = storage
                .put(&key, bytes.into(), PutMode::Replace)
                .await
                .expect("put");
        }
        let found = delete_if_damaged(&storage, &digest).await;
        assert_eq!(found.expect("works"), sound);
        let there = storage.stat(&key).await.expect("works").is_some();
        assert_eq!(there, stays);
    }
}
