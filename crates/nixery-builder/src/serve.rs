//! Serves stored blobs and manifests. A client never receives all bytes of a damaged blob.
//!
//! [`Builder::open_blob`] finds a blob, and [`StoredBlob::read`] reads it. They check the size that
//! manifests give, verify the digest at the first reading, and delete damaged blobs.

use std::future::ready;
use std::{fmt, iter, mem};

use bytes::Bytes;
use futures::future::FutureExt;
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use nixery_manifest::{Digest, Digester};
use nixery_storage::{ByteRange, Key, Storage, StorageError, error_chain, verify};

use crate::builder::Builder;
use crate::error::BuildError;
use crate::image::ManifestBlob;
use crate::image_store;

/// Blobs up to this size are verified before their first byte is sent: configs are no larger.
const MAX_IN_MEMORY: u64 = 64 * 1024;
/// Bytes hashed before other tasks run, about a tenth of a millisecond of work.
const SLICE: usize = 64 * 1024;

/// A stored blob: a layer, a config or a manifest. Its size is right if the right size is known.
#[derive(Debug)]
pub struct StoredBlob {
    builder: Builder,
    digest: Digest,
    size: u64,
}

/// The bytes of a blob, or of a part of it.
#[non_exhaustive]
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
#[non_exhaustive]
pub enum BlobBodyError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The bytes do not match the digest. The last ones are withheld.
    #[error("the stored blob is damaged: it does not match its digest")]
    Damaged,
}

impl Builder {
    /// Finds the blob with this digest. Returns `None` if the store does not have it.
    ///
    /// If a blob is missing or damaged, the images that need it are checked, and repaired, at their
    /// next request.
    ///
    /// # Errors
    /// The store failed, or its copy has the wrong size.
    pub async fn open_blob(&self, digest: Digest) -> Result<Option<StoredBlob>, OpenBlobError> {
        let stat = self.storage().stat(&Key::blob(digest)).await;
        let Some(stat) = stat.map_err(|error| self.unreadable(&digest, error))? else {
            self.report_missing(&digest);
            return Ok(None);
        };
        let blob = StoredBlob {
            builder: self.clone(),
            digest,
            size: stat.size,
        };
        blob.check_size(stat.size)?;
        Ok(Some(blob))
    }

    /// Returns the manifest or index with this digest, verified, or `None` if the store does not
    /// have it.
    ///
    /// # Errors
    /// The store failed.
    pub async fn manifest_by_digest(
        &self,
        digest: &Digest,
    ) -> Result<Option<ManifestBlob>, BuildError> {
        image_store::manifest_to_serve(self.engine(), digest).await
    }

    /// Records that an image is being served, by the digest of the manifest that the client gets.
    /// Garbage collection deletes images that have not been used for long.
    ///
    /// Returns at once; sometimes writes a mark in the background.
    pub fn record_use(&self, manifest: &Digest) {
        let uses = self.engine().blobs.uses();
        uses.mark_soon(*manifest, self.runtime());
    }

    /// Returns how many stored blobs this process has found damaged while it served them.
    pub fn damaged_blobs(&self) -> u64 {
        self.engine().blobs.damaged()
    }

    /// Records that a blob is missing or damaged. The images that need it are checked, and
    /// repaired, at their next request.
    pub(crate) fn report_missing(&self, digest: &Digest) {
        // Clients may ask for any digest: one that no image names is not worth the search.
        if self.engine().blobs.report_missing(digest) {
            self.warm_images().invalidate(digest);
        }
    }

    fn unreadable(&self, digest: &Digest, error: StorageError) -> OpenBlobError {
        tracing::error!(%digest, "cannot read a blob: {}", error_chain(&error));
        self.report_missing(digest);
        error.into()
    }

    /// Records that a blob does not match its digest, and deletes it in the background. Later
    /// builds would use it otherwise, as its size is right.
    fn report_damaged(&self, digest: Digest) {
        tracing::error!(%digest, "a stored blob does not match its digest: its last bytes are not sent");
        self.engine().blobs.count_damaged();
        self.report_missing(&digest);
        let builder = self.clone();
        tokio::spawn(async move {
            // Many clients may request one damaged blob at once.
            let blobs = &builder.engine().blobs;
            let _lock = blobs.verify_locks.lock(digest).await;
            match delete_if_damaged(&**builder.storage(), &digest).await {
                Ok(Some(size)) => blobs.record_verified(digest, size),
                // A build may have confirmed the blob before it was deleted.
                Ok(None) => builder.report_missing(&digest),
                Err(error) => {
                    tracing::error!(%digest, "cannot delete a damaged blob: {}. Fix: run `nixery verify --delete-corrupt`", error_chain(&error));
                }
            }
        });
    }
}

impl StoredBlob {
    /// The digest of the blob.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the size of the whole blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads the blob, or a part of it. Returns `None` if it has been deleted since it was opened.
    ///
    /// The first time that this process reads the whole blob, the body withholds the last bytes
    /// until all bytes match the digest.
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
        } else if size <= MAX_IN_MEMORY {
            let bytes = reader.bytes().await.map_err(failed)?;
            if digest.verify(&bytes).is_err() {
                builder.report_damaged(digest);
                return Err(OpenBlobError::WrongDigest { digest });
            }
            blobs.record_verified(digest, size);
            stream::iter([Ok(bytes)]).boxed()
        } else {
            let builder = builder.clone();
            let at_end = move |matches| {
                if matches {
                    builder.engine().blobs.record_verified(digest, size);
                } else {
                    builder.report_damaged(digest);
                }
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
        let expected = blobs.expected_size(&digest).unwrap_or(stored);
        if expected == stored {
            return Ok(());
        }
        tracing::error!(%digest, stored, expected, "a stored blob has the wrong size, so it is not served");
        blobs.count_damaged();
        // The next build that needs the blob replaces it, as its size is wrong.
        self.builder.report_missing(&digest);
        Err(OpenBlobError::WrongSize {
            digest,
            stored,
            expected,
        })
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

/// Reads a whole blob and deletes it if its digest is wrong; returns the size of an undamaged one.
///
/// A blob that cannot be read to its end stays, as nothing is proven. If another process replaces
/// the blob between the reading and the deletion, an undamaged copy is lost, which costs a rebuild.
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
            tracing::error!(%digest, %actual, size, "deleted a damaged blob: the next build that needs it stores it again");
            Ok(None)
        }
    }
}

/// Passes the bytes on, and withholds the last ones until the digest of all of them is right.
///
/// Calls `at_end` with whether the digest is right before the last bytes are passed on, and never
/// if the body fails or is dropped before its end.
fn verified(
    body: BoxStream<'static, Result<Bytes, StorageError>>,
    expected: Digest,
    at_end: impl FnOnce(bool) + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BlobBodyError>> + Send + 'static {
    let slices = body.map_ok(|chunk| stream::iter(slices(chunk)).map(Ok));
    let slices = slices.try_flatten().map_ok(Some);
    let parts = slices.chain(stream::once(ready(Ok(None))));

    let (mut digester, mut withheld) = (Digester::new(), Bytes::new());
    let mut at_end = Some(at_end);
    let passed = parts.then(move |part| {
        let passed = match part {
            Ok(Some(slice)) => {
                digester.update(&slice);
                Ok(mem::replace(&mut withheld, slice))
            }
            Ok(None) => match at_end.take() {
                None => Ok(Bytes::new()),
                Some(at_end) => {
                    let matches = mem::take(&mut digester).finish() == expected;
                    at_end(matches);
                    matches
                        .then(|| mem::take(&mut withheld))
                        .ok_or(BlobBodyError::Damaged)
                }
            },
            Err(error) => {
                at_end = None;
                Err(BlobBodyError::Storage(error))
            }
        };
        tokio::task::yield_now().map(|()| passed)
    });
    passed.try_filter(|bytes| ready(!bytes.is_empty()))
}

fn slices(mut chunk: Bytes) -> impl Iterator<Item = Bytes> {
    iter::from_fn(move || {
        let slice = chunk.split_to(chunk.len().min(SLICE));
        (!slice.is_empty()).then_some(slice)
    })
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
    ) -> (Vec<u8>, Option<BlobBodyError>, Option<bool>) {
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
            prop_assert_eq!(verdict, Some(true));
            prop_assert_eq!(sent, bytes);
        }

        #[test]
        fn the_last_damaged_bytes_are_withheld(
            bytes in proptest::collection::vec(any::<u8>(), 1..3 * SLICE),
            sizes in proptest::collection::vec(0..2 * SLICE, 0..5),
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
