//! Uploading a file in parts, several at once.

use std::path::Path;

use super::Remote;
use super::body::read_block;
use super::write::Failure;
use crate::{Key, Operation, StorageError};

/// S3 takes 10,000 parts. <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const MAX_PARTS: u64 = 10_000;

impl Remote {
    pub(super) async fn upload_in_parts(
        &self,
        key: &Key,
        spool: &Path,
        size: u64,
    ) -> Result<(), Failure> {
        let unreadable = |source| Failure {
            error: StorageError::spool(key, spool, source),
            is_final: true,
        };
        let limits = &self.shared.limits;
        let part = limits.part_size.max(size.div_ceil(MAX_PARTS));
        let call = self.call(Operation::Write, key);
        let mut writer = call
            .operator
            .writer_with(&key.path())
            .content_type(key.content_type())
            .concurrent(limits.parts_at_once)
            .await
            .map_err(|error| Failure::of(&call, &error, spool))?;
        let mut file = tokio::fs::File::open(spool).await.map_err(unreadable)?;
        let mut left = size;
        let sent = async {
            while left > 0 {
                // A part fits in memory, and so in a usize.
                let length = usize::try_from(left.min(part)).unwrap_or(usize::MAX);
                let block = read_block(&mut file, length).await.map_err(unreadable)?;
                left -= block.len() as u64;
                let written = writer.write(block).await;
                written.map_err(|error| Failure::of(&call, &error, spool))?;
            }
            let closed = writer.close().await;
            closed.map_err(|error| Failure::of(&call, &error, spool))
        };
        let result: Result<_, Failure> = sent.await;
        if let Err(failure) = result {
            if let Err(error) = writer.abort().await {
                // The parts stay until the bucket's lifecycle rule removes them.
                let error = call.error(&error);
                tracing::warn!(%key, %error, "the parts of a failed upload could not be removed");
            }
            return Err(failure);
        }
        self.saw_bucket();
        Ok(())
    }
}
