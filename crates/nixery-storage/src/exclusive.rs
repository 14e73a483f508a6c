//! [`can_create_exclusively`]: what leases stand on.

use crate::{Key, PutMode, PutOutcome, Storage, StorageError, scratch};

/// Whether [`PutMode::CreateNew`] leaves an existing object alone here, found out by trying.
///
/// Some S3-compatible stores and emulators ignore the condition, others refuse it. The object of
/// the trial is deleted again; one that is left behind is a forgotten lease.
///
/// # Errors
/// The store's failure.
pub async fn can_create_exclusively(storage: &dyn Storage) -> Result<bool, StorageError> {
    let key = scratch::key("exclusive creation");
    let outcome = probe(storage, &key).await;
    let deleted = storage.delete(&key).await;
    let exclusive = outcome?;
    deleted?;
    Ok(exclusive)
}

async fn probe(storage: &dyn Storage, key: &Key) -> Result<bool, StorageError> {
    let create = |bytes: &'static str| storage.put(key, bytes.into(), PutMode::CreateNew);
    match create("{\"creator\":1}").await {
        Ok(PutOutcome::Stored) => {}
        // Nobody else knows the key.
        Ok(PutOutcome::AlreadyExists) => return Ok(false),
        Err(
            error @ StorageError::Failed {
                retryable: false, ..
            },
        ) => {
            // Refused: for the condition, or at all?
            let plain = storage.put(key, "{}".into(), PutMode::Replace).await;
            return plain.map(|_| false).map_err(|_| error);
        }
        Err(error) => return Err(error),
    }
    Ok(create("{\"creator\":2}").await? == PutOutcome::AlreadyExists)
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;
    use crate::{KeyKind, MemoryStorage};

    #[tokio::test]
    async fn a_store_that_can_is_left_as_it_was() {
        let storage = MemoryStorage::new();
        assert!(
            can_create_exclusively(&storage)
                .await
                .expect("memory does not fail")
        );
        let leases = storage.list(KeyKind::Lease).await.expect("list");
        let leases: Vec<_> = leases.try_collect().await.expect("list");
        assert_eq!(leases, []);
    }
}
