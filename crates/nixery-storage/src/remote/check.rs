//! Whether a store can be used, answered quickly and in words.

use std::error::Error;
use std::time::{Duration, SystemTime};

use nixery_manifest::Digest;

use super::Remote;
use super::call::Patience;
use super::transport::Media;
use crate::{Key, Operation, PutMode, StorageError};

/// A check takes no longer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

impl Remote {
    /// Lists, writes and deletes.
    pub(super) async fn check(&self) -> Result<(), StorageError> {
        let checked = tokio::time::timeout(CHECK_TIMEOUT, self.try_all()).await;
        let problem = match checked {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => {
                // The reason says what to do; the error around it, what failed.
                let reason = error.source().map(ToString::to_string);
                format!("{error}: {}", reason.unwrap_or_default())
            }
            Err(_) => format!(
                "it did not answer within {} s: see that it runs, and that its address and this machine's network are right",
                CHECK_TIMEOUT.as_secs()
            ),
        };
        Err(StorageError::Open {
            backend: self.shared.backend,
            location: self.shared.location.clone(),
            problem,
            source: None,
        })
    }

    async fn try_all(&self) -> Result<(), StorageError> {
        let quick = |operation, target: &str| {
            self.call_with(operation, target, Patience::Little, Media::default())
        };
        let listing = quick(Operation::List, "itself");
        listing
            .find_bucket()
            .await
            .map_err(|error| listing.error(&error))?;
        self.saw_bucket();
        let key = scratch_key("check");
        let _ = self
            .put_with(&key, "{}".into(), PutMode::Replace, Patience::Little)
            .await?;
        let deleting = quick(Operation::Delete, &key.path());
        let deleted = deleting.operator.delete(&key.path()).await;
        deleted.map_err(|error| deleting.error(&error))
    }
}

/// A key that nobody else uses, among the leases, which are collected when they are forgotten.
pub(crate) fn scratch_key(purpose: &str) -> Key {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), purpose);
    let name = format!("{purpose} {} {random} {now:?}", std::process::id());
    Key::Lease(Digest::of(name.as_bytes()))
}
