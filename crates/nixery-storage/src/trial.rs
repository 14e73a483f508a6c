//! Trials on a store in use: [`can_create_exclusively`], and the keys that trials write to.

use std::time::SystemTime;

use nixery_manifest::Digest;

use crate::{Contents, Folder, Key, PutMode, PutOutcome, Storage, StorageError};

/// Where trials write: among the leases, because the garbage collector deletes abandoned ones.
pub(crate) const TRIALS: Folder = Folder::new("leases", Contents::Json);

/// A key for a trial that no other process uses.
pub(crate) fn trial_key(purpose: &str) -> Key {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let random = fastrand::u64(..);
    let name = format!("{purpose} {} {random} {now:?}", std::process::id());
    Key::new(TRIALS, Digest::of(name.as_bytes()))
}

/// Tests whether [`PutMode::CreateNew`] leaves an existing object unchanged in this store, which
/// leases depend on.
///
/// Some S3-compatible stores and emulators ignore the condition, others reject it. The test writes
/// one object and deletes it.
///
/// # Errors
/// The store's failure.
pub async fn can_create_exclusively(storage: &dyn Storage) -> Result<bool, StorageError> {
    let key = trial_key("exclusive creation");
    let outcome = create_twice(storage, &key).await;
    let deleted = storage.delete(&key).await;
    let exclusive = outcome?;
    deleted?;
    Ok(exclusive)
}

async fn create_twice(storage: &dyn Storage, key: &Key) -> Result<bool, StorageError> {
    let create = |bytes: &'static str| storage.put(key, bytes.into(), PutMode::CreateNew);
    match create("{\"creator\":1}").await {
        Ok(PutOutcome::Stored) => {}
        // No other process knows the key.
        Ok(PutOutcome::AlreadyExists) => return Ok(false),
        Err(
            error @ StorageError::Failed {
                retryable: false, ..
            },
        ) => {
            // Does the store reject the condition, or every write?
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
    use crate::MemoryStorage;

    #[tokio::test]
    async fn a_store_that_can_is_left_as_it_was() {
        let storage = MemoryStorage::new();
        assert!(
            can_create_exclusively(&storage)
                .await
                .expect("memory does not fail")
        );
        let trials = storage.list(TRIALS).await.expect("list");
        let trials: Vec<_> = trials.try_collect().await.expect("list");
        assert_eq!(trials, []);
    }
}
