//! Whether a store can be used, answered quickly and in words.

use std::error::Error;
use std::time::Duration;

use super::Remote;
use super::call::Patience;
use super::transport::Media;
use crate::{Operation, PutMode, StorageError, scratch};

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
        let listing = quick(Operation::List, "the bucket");
        listing
            .find_bucket()
            .await
            .map_err(|error| listing.error(&error))?;
        self.saw_bucket();
        let key = scratch::key("check");
        let _ = self
            .put_with(&key, "{}".into(), PutMode::Replace, Patience::Little)
            .await?;
        let deleting = quick(Operation::Delete, &key.path());
        let deleted = deleting.operator.delete(&key.path()).await;
        deleted.map_err(|error| deleting.error(&error))
    }
}
