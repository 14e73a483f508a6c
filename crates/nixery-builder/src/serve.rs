//! Serves stored blobs and manifests. A client never receives all bytes of a damaged blob.
//!
//! [`Builder::open_blob`] finds a blob, and [`StoredBlob::read`] reads it. Small blobs are verified
//! before their first byte is sent. The first reading of a large blob withholds the last bytes
//! until its digest is right. Later readings of a local file are sent as they are, as long as the
//! file is the same. Later readings of a remote blob, and parts of it, are verified chunk by chunk.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use nixery_manifest::Digest;
use nixery_storage::{BlobReader, ByteRange, Key, Stat, Storage, StorageError, error_chain};
use tokio::time::{Instant, timeout};

use crate::blob_body::{BlobBodyError, ChunkSource, verify_chunks, verify_whole};
use crate::builder::Builder;
use crate::error::BuildError;
use crate::hashing::{BlobHasher, CHUNK_BYTES, ChunkDigests, HashedBlob, Hashing, hash_blob};
use crate::image::ManifestBlob;
use crate::image_store;

/// Blobs up to this size are verified in memory, before their first byte is sent.
const MAX_IN_MEMORY: u64 = CHUNK_BYTES;
/// How often a blob is read until it counts as damaged: wrong bytes may come from a bad connection
/// or bad memory.
const READINGS: usize = 2;
/// How long the request for a part of a blob waits until the blob is verified.
const VERIFY_PATIENCE: Duration = Duration::from_secs(20);

/// A stored blob: a layer, a config or a manifest. Its size is right if the right size is known.
#[derive(Debug)]
pub struct StoredBlob {
    builder: Builder,
    digest: Digest,
    stat: Stat,
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
    /// The blob is large and has not been verified yet, which goes on in the background.
    #[error("the stored copy of {digest} is still being verified. Fix: ask for it again later")]
    NotVerified {
        /// The blob.
        digest: Digest,
    },
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
            stat,
        };
        blob.check_size(stat.size)?;
        Ok(Some(blob))
    }

    /// Returns the manifest or index with this digest, verified, or `None` if the store does not
    /// have it.
    ///
    /// # Errors
    /// The store failed, or its copy is damaged.
    pub async fn manifest_by_digest(
        &self,
        digest: &Digest,
    ) -> Result<Option<ManifestBlob>, BuildError> {
        let found = image_store::manifest_to_serve(self.engine(), digest).await;
        if let Err(BuildError::Damaged { digest }) = &found {
            self.report_damaged(*digest);
        }
        found
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
        tracing::error!(%digest, "a stored blob does not match its digest: it is not sent to its end");
        self.engine().blobs.count_damaged();
        self.report_missing(&digest);
        let builder = self.clone();
        tokio::spawn(async move {
            // Many clients may request one damaged blob at once.
            let blobs = &builder.engine().blobs;
            let _lock = blobs.verify_locks.lock(digest).await;
            match delete_if_damaged(&**builder.storage(), &blobs.hashing, &digest).await {
                Ok(Some(sound)) => {
                    blobs.record_verified(digest, &sound.stat, sound.begun, sound.chunks)
                }
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
        self.stat.size
    }

    /// Reads the blob, or a part of it. Returns `None` if it has been deleted since it was opened.
    ///
    /// The first time that this process reads a large blob, the body withholds the last bytes until
    /// all bytes match the digest. A part of a large blob is read after the whole blob was
    /// verified, which may take a while.
    ///
    /// # Errors
    /// The store failed, its copy is damaged, or the blob is still being verified.
    pub async fn read(&self, range: Option<ByteRange>) -> Result<Option<BlobBody>, OpenBlobError> {
        if self.size() <= MAX_IN_MEMORY {
            return self.read_in_memory(range).await;
        }
        let part = ByteRange::resolve(range, self.size(), &Key::blob(self.digest))?;
        if self.stat.identity.is_some() {
            match range {
                None => self.read_file(part).await,
                Some(_) => self.read_part_of_file(part).await,
            }
        } else {
            match (self.chunk_digests(), range) {
                (Some(chunks), _) => self.read_chunks(chunks, part).await,
                (None, None) => self.read_first(part).await,
                (None, Some(_)) => {
                    if !self.verify().await? {
                        return Ok(None);
                    }
                    let chunks = self.chunk_digests();
                    let chunks = chunks.ok_or_else(|| self.not_verified())?;
                    self.read_chunks(chunks, part).await
                }
            }
        }
    }

    /// Reads a small blob, and verifies it before the first byte is sent.
    async fn read_in_memory(
        &self,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobBody>, OpenBlobError> {
        let (digest, blobs) = (self.digest, &self.builder.engine().blobs);
        for _ in 0..READINGS {
            let begun = Instant::now();
            let Some(reader) = self.get(None).await? else {
                return Ok(None);
            };
            let stat = reader.stat;
            let bytes = reader.bytes().await;
            let bytes = bytes.map_err(|error| self.unreadable(error))?;
            if blobs.hashing.matches(&bytes, digest).await? {
                blobs.record_verified(digest, &stat, begun, None);
                let part = ByteRange::resolve(range, stat.size, &Key::blob(digest))?;
                let bytes = bytes.slice(part.start as usize..part.end as usize);
                return Ok(Some(self.body(part, stream::iter([Ok(bytes)]).boxed())));
            }
        }
        Err(self.damaged())
    }

    /// Reads a whole local file, and verifies it unless it is known to be sound.
    async fn read_file(&self, whole: ByteRange) -> Result<Option<BlobBody>, OpenBlobError> {
        let begun = Instant::now();
        let Some(reader) = self.get(None).await? else {
            return Ok(None);
        };
        let blobs = &self.builder.engine().blobs;
        if !blobs.is_verified(&self.digest, &reader.stat) {
            return Ok(Some(self.body(whole, self.verifying(reader, begun))));
        }
        let body = reader.body.map_err(BlobBodyError::from).boxed();
        Ok(Some(self.body(whole, body)))
    }

    /// Reads a part of a local file that is known to be sound, or is found to be.
    async fn read_part_of_file(&self, part: ByteRange) -> Result<Option<BlobBody>, OpenBlobError> {
        for _ in 0..READINGS {
            let Some(reader) = self.get(Some(part)).await? else {
                return Ok(None);
            };
            let blobs = &self.builder.engine().blobs;
            if blobs.is_verified(&self.digest, &reader.stat) {
                let body = reader.body.map_err(BlobBodyError::from).boxed();
                return Ok(Some(self.body(part, body)));
            }
            drop(reader);
            if !self.verify().await? {
                return Ok(None);
            }
        }
        // The file was replaced just now, again and again.
        Err(self.not_verified())
    }

    /// Reads a whole remote blob for the first time.
    async fn read_first(&self, whole: ByteRange) -> Result<Option<BlobBody>, OpenBlobError> {
        let begun = Instant::now();
        let reader = self.get(None).await?;
        Ok(reader.map(|reader| self.body(whole, self.verifying(reader, begun))))
    }

    /// Reads a blob, or a part of it, whose chunks have known digests. The first chunk is verified
    /// before this returns.
    async fn read_chunks(
        &self,
        chunks: ChunkDigests,
        part: ByteRange,
    ) -> Result<Option<BlobBody>, OpenBlobError> {
        let (builder, digest) = (self.builder.clone(), self.digest);
        let source = ChunkSource {
            storage: Arc::clone(builder.storage()),
            hashing: Arc::clone(&builder.engine().blobs.hashing),
            digest,
            chunks,
        };
        let on_damage = move || builder.report_damaged(digest);
        let body = verify_chunks(source, part, on_damage).await;
        let Some(body) = body.map_err(|error| self.unreadable(error))? else {
            self.builder.report_missing(&digest);
            return Ok(None);
        };
        let mut body = body.boxed();
        let first = match body.next().await {
            Some(Err(BlobBodyError::Damaged)) => return Err(OpenBlobError::WrongDigest { digest }),
            Some(Err(BlobBodyError::Storage(error))) => return Err(self.unreadable(error)),
            first => first,
        };
        let body = stream::iter(first).chain(body).boxed();
        Ok(Some(self.body(part, body)))
    }

    /// Opens the object, and checks its size.
    async fn get(&self, range: Option<ByteRange>) -> Result<Option<BlobReader>, OpenBlobError> {
        let key = Key::blob(self.digest);
        let reader = self.builder.storage().get(&key, range);
        let reader = reader.await.map_err(|error| self.unreadable(error))?;
        let Some(reader) = reader else {
            self.builder.report_missing(&self.digest);
            return Ok(None);
        };
        self.check_size(reader.stat.size)?;
        Ok(Some(reader))
    }

    /// Returns the body of a first reading that began at `begun`, which notes the result for later
    /// ones.
    fn verifying(
        &self,
        reader: BlobReader,
        begun: Instant,
    ) -> BoxStream<'static, Result<Bytes, BlobBodyError>> {
        let (builder, digest, stat) = (self.builder.clone(), self.digest, reader.stat);
        let hashing = Arc::clone(&builder.engine().blobs.hashing);
        let hasher = BlobHasher::new(stat.identity.is_none());
        let at_end = move |verdict| match verdict {
            Ok(chunks) => builder
                .engine()
                .blobs
                .record_verified(digest, &stat, begun, chunks),
            Err(()) => builder.report_damaged(digest),
        };
        verify_whole(reader.body, hashing, digest, hasher, at_end).boxed()
    }

    /// Verifies the whole blob, unless this process has done it. Returns `false` if it is gone.
    ///
    /// The reading goes on if the caller does not wait for it.
    async fn verify(&self) -> Result<bool, OpenBlobError> {
        let verified = async {
            let blobs = &self.builder.engine().blobs;
            let lock = blobs.verify_locks.lock(self.digest).await;
            let permit = Arc::clone(&blobs.verifications).acquire_owned().await;
            let (builder, digest) = (self.builder.clone(), self.digest);
            let verification = tokio::spawn(async move {
                let _held = (lock, permit);
                verify(&builder, digest).await
            });
            verification
                .await
                .unwrap_or_else(|_| Err(self.not_verified()))
        };
        timeout(VERIFY_PATIENCE, verified)
            .await
            .unwrap_or_else(|_| Err(self.not_verified()))
    }

    fn chunk_digests(&self) -> Option<ChunkDigests> {
        let chunks = self.builder.engine().blobs.chunk_digests(&self.digest);
        // A blob has one size, so that an object of another size is damaged.
        chunks.filter(|chunks| chunks.size() == self.size())
    }

    fn body(
        &self,
        range: ByteRange,
        body: BoxStream<'static, Result<Bytes, BlobBodyError>>,
    ) -> BlobBody {
        BlobBody {
            size: self.size(),
            range,
            body,
        }
    }

    fn unreadable(&self, error: StorageError) -> OpenBlobError {
        self.builder.unreadable(&self.digest, error)
    }

    fn not_verified(&self) -> OpenBlobError {
        let digest = self.digest;
        OpenBlobError::NotVerified { digest }
    }

    fn damaged(&self) -> OpenBlobError {
        let digest = self.digest;
        self.builder.report_damaged(digest);
        OpenBlobError::WrongDigest { digest }
    }

    /// Refuses a copy that is known to have the wrong size, or another one than when it was opened:
    /// half a layer must not look like a whole one.
    fn check_size(&self, stored: u64) -> Result<(), OpenBlobError> {
        let (digest, blobs) = (self.digest, &self.builder.engine().blobs);
        let expected = blobs.expected_size(&digest).unwrap_or(self.stat.size);
        if expected == stored && stored == self.stat.size {
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

/// Reads a whole blob to verify it, and notes the result. Returns `false` if it is gone.
async fn verify(builder: &Builder, digest: Digest) -> Result<bool, OpenBlobError> {
    let (storage, blobs) = (builder.storage(), &builder.engine().blobs);
    for _ in 0..READINGS {
        let stat = storage.stat(&Key::blob(digest)).await;
        let stat = stat.map_err(|error| builder.unreadable(&digest, error))?;
        // Another request may have had it verified.
        if let Some(stat) = &stat
            && (blobs.is_verified(&digest, stat) || blobs.chunk_digests(&digest).is_some())
        {
            return Ok(true);
        }
        let hashed = hash_blob(&**storage, &blobs.hashing, &digest).await;
        match hashed.map_err(|error| builder.unreadable(&digest, error))? {
            None => {
                builder.report_missing(&digest);
                return Ok(false);
            }
            Some(hashed) if hashed.digest == digest => {
                blobs.record_verified(digest, &hashed.stat, hashed.begun, hashed.chunks);
                return Ok(true);
            }
            Some(_) => tracing::warn!(%digest, "a blob was damaged: reading it again"),
        }
    }
    builder.report_damaged(digest);
    Err(OpenBlobError::WrongDigest { digest })
}

/// Reads a whole blob again, and deletes it if two readings give the same wrong digest; returns an
/// undamaged one. Wrong bytes that change come from the connection or from memory, not from the
/// stored copy.
///
/// A blob that cannot be read to its end stays, as nothing is proven. If another process replaces
/// the blob between the reading and the deletion, an undamaged copy is lost, which costs a rebuild.
async fn delete_if_damaged(
    storage: &dyn Storage,
    hashing: &Hashing,
    digest: &Digest,
) -> Result<Option<HashedBlob>, StorageError> {
    let mut wrong = None;
    for _ in 0..READINGS {
        match hash_blob(storage, hashing, digest).await? {
            None => return Ok(None),
            Some(sound) if sound.digest == *digest => return Ok(Some(sound)),
            Some(damaged) if wrong.is_none() => wrong = Some(damaged.digest),
            Some(damaged) => {
                if wrong != Some(damaged.digest) {
                    tracing::error!(%digest, "the store returns other bytes of a blob at each reading: it is not deleted. Fix: check the connection to the store, and the memory of this machine");
                    return Ok(None);
                }
                storage.delete(&Key::blob(*digest)).await?;
                tracing::error!(%digest, actual = %damaged.digest, size = damaged.stat.size, "deleted a damaged blob: the next build that needs it stores it again");
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use nixery_storage::{MemoryStorage, PutMode};
    use rstest::rstest;

    use super::*;

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
        let found = delete_if_damaged(&storage, &Hashing::default(), &digest).await;
        let found = found.expect("works").map(|found| found.stat.size);
        assert_eq!(found, sound);
        let there = storage.stat(&key).await.expect("works").is_some();
        assert_eq!(there, stays);
    }
}
