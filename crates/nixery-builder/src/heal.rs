//! Getting rid of a blob that is not what its digest says.

use nixery_manifest::Digest;
use nixery_storage::{Key, Storage, StorageError, verify};

/// What a second look at a blob showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recheck {
    /// It is what its digest says: the first reading was disturbed, or somebody replaced it.
    Sound {
        /// Bytes.
        size: u64,
    },
    /// Somebody has deleted it already.
    Gone,
    /// It was damaged, and is deleted.
    Deleted,
}

/// Reads a blob to its end and deletes it if its digest is wrong.
///
/// One that cannot be read to its end stays: only whole readings prove anything. If another
/// process replaces it between the reading and the deletion, a sound copy is lost, which costs a
/// rebuild and nothing else.
///
/// # Errors
/// The store failed.
pub(crate) async fn recheck(
    storage: &dyn Storage,
    digest: &Digest,
) -> Result<Recheck, StorageError> {
    let key = Key::blob(*digest);
    match verify::hash(storage, &key).await? {
        None => Ok(Recheck::Gone),
        Some((actual, size)) if actual == *digest => Ok(Recheck::Sound { size }),
        Some((actual, size)) => {
            storage.delete(&key).await?;
            tracing::error!(%digest, %actual, size, "a damaged blob is deleted; the next build that needs it makes it anew");
            Ok(Recheck::Deleted)
        }
    }
}

#[cfg(test)]
mod tests {
    use nixery_storage::{MemoryStorage, PutMode};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::right(Some("blob"), Recheck::Sound { size: 4 })]
    #[case::of_the_same_size(Some("blab"), Recheck::Deleted)]
    #[case::cut(Some("bl"), Recheck::Deleted)]
    #[case::gone(None, Recheck::Gone)]
    #[tokio::test]
    async fn only_what_is_damaged_is_deleted(
        #[case] stored: Option<&'static str>,
        #[case] expected: Recheck,
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
        assert_eq!(recheck(&storage, &digest).await.expect("works"), expected);
        let there = storage.stat(&key).await.expect("works").is_some();
        assert_eq!(there, matches!(expected, Recheck::Sound { .. }));
    }
}
