//! The rest of [`Storage`](crate::Storage): looking up, deleting, signing.

use std::time::Duration;

use http::StatusCode;

use super::{Remote, read};
use crate::{Key, Operation, Stat, StorageError};

/// The longest that a signature of AWS version 4 or of GCS may be valid.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>
const LONGEST_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

impl Remote {
    pub(super) async fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError> {
        self.look_up(key, Operation::Stat).await
    }

    async fn look_up(&self, key: &Key, operation: Operation) -> Result<Option<Stat>, StorageError> {
        let call = self.call(operation, key);
        match call.operator.stat(&key.path()).await {
            Ok(metadata) => {
                self.saw_bucket();
                Ok(Some(read::stat(&metadata)))
            }
            Err(error) if call.is_missing(&error).await? => Ok(None),
            Err(error) => Err(call.error(&error)),
        }
    }

    pub(super) async fn delete(&self, key: &Key) -> Result<bool, StorageError> {
        // S3 does not tell whether there was something to delete.
        if self.look_up(key, Operation::Delete).await?.is_none() {
            return Ok(false);
        }
        let call = self.call(Operation::Delete, key);
        let deleted = call.operator.delete(&key.path()).await;
        deleted.map_err(|error| call.error(&error))?;
        // GCS does. A repeated request may find that the first one did it.
        Ok(call.seen.status() != Some(StatusCode::NOT_FOUND) || call.seen.repeated())
    }

    pub(super) async fn presign_get(
        &self,
        key: &Key,
        ttl: Duration,
    ) -> Result<Option<String>, StorageError> {
        if self.shared.signer.is_none() {
            return Ok(None);
        }
        let call = self.call(Operation::Sign, key);
        let path = key.path();
        let signed = call
            .operator
            .presign_read(&path, ttl.clamp(Duration::from_secs(1), LONGEST_TTL));
        let request = signed.await.map_err(|error| call.error(&error))?;
        Ok(Some(request.uri().to_string()))
    }
}
