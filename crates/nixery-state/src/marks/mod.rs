//! Use marks and the collector's note: how those who need a blob and the one who deletes it see
//! each other.
//!
//! `uses/<digest>` is an object whose age says when the blob was last needed.

pub(crate) mod note;

use bytes::Bytes;
use nixery_manifest::Digest;
use nixery_storage::{Contents, Folder, Key, PutMode, Storage, StorageError};

/// Marks whose age says when a blob was last needed, each named by the SHA-256 of the blob.
pub const USES: Folder = Folder::new("uses", Contents::Json);

/// What a mark holds: its age is all that counts.
const MARK: &[u8] = b"{}\n";
/// What the mark of a collector holds, which keeps a blob though nobody used it. Told from others
/// by its size, which listings tell.
const DROPPED: &[u8] = b"{\"dropped\":true}\n";

/// Marks a blob as used.
///
/// # Errors
/// The store failed.
pub(crate) async fn put_mark(storage: &dyn Storage, digest: Digest) -> Result<(), StorageError> {
    put(storage, digest, MARK).await
}

/// Keeps a blob of an image that is being dropped for one more grace.
///
/// # Errors
/// The store failed.
pub(crate) async fn keep_dropped(
    storage: &dyn Storage,
    digest: Digest,
) -> Result<(), StorageError> {
    put(storage, digest, DROPPED).await
}

/// Whether a mark of this size tells of a use, and not only of a collector.
pub(crate) fn is_use(size: u64) -> bool {
    size != DROPPED.len() as u64
}

async fn put(
    storage: &dyn Storage,
    digest: Digest,
    mark: &'static [u8],
) -> Result<(), StorageError> {
    let (key, mark) = (Key::new(USES, digest), Bytes::from_static(mark));
    storage.put(&key, mark, PutMode::Replace).await.map(drop)
}
