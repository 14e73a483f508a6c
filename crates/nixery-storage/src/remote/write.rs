//! Storing objects.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::StatusCode;
use opendal::ErrorKind;

use super::call::{Call, Patience};
use super::transport::Media;
use super::{Remote, Upload};
use crate::{Key, Operation, PutMode, PutOutcome, StorageError};

/// How often a file is uploaded from its beginning, when the store loses parts of it or what
/// arrived has another size. Requests that fail are repeated besides.
const UPLOADS: u32 = 3;

impl Remote {
    pub(super) async fn put_file(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        // A task of its own: an upload whose caller goes away is finished or aborted, not left.
        let (remote, key, spool) = (self.clone(), *key, spool.to_owned());
        let task = tokio::spawn(async move { remote.put_spool(&key, &spool).await });
        task.await.unwrap_or_else(|error| {
            Err(self
                .call(Operation::Write, key)
                .broken(format!("the upload was cut off: {error}")))
        })
    }

    async fn put_spool(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        let unreadable = |source| StorageError::spool(key, spool, source);
        // Opened, too: that it cannot be read shows before anything is sent.
        let file = tokio::fs::File::open(spool).await.map_err(unreadable)?;
        let metadata = file.metadata().await.map_err(unreadable)?;
        if !metadata.is_file() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(unreadable(source));
        }
        drop(file);
        let size = metadata.len();
        if self.stat(key).await?.is_some_and(|stat| stat.size == size) {
            return Ok(());
        }
        for upload in 1..=UPLOADS {
            let failure = match self.upload(key, spool, size).await {
                Ok(()) => None,
                Err(failure) if failure.is_final || upload == UPLOADS => return Err(failure.error),
                Err(failure) => Some(failure.error),
            };
            // Also after a failure: its last request may have done its work unseen.
            match self.stat(key).await? {
                Some(stat) if stat.size == size => return Ok(()),
                Some(stat) if upload == UPLOADS => {
                    self.delete(key).await?;
                    return Err(StorageError::Truncated {
                        backend: self.shared.backend,
                        target: key.to_string(),
                        expected: size,
                        actual: stat.size,
                    });
                }
                _ => tracing::warn!(
                    %key,
                    upload,
                    error = failure.as_ref().map(tracing::field::display),
                    "an upload did not arrive whole and is made again"
                ),
            }
        }
        Err(self
            .call(Operation::Write, key)
            .broken("the object vanished after it was stored"))
    }

    async fn upload(&self, key: &Key, spool: &Path, size: u64) -> Result<(), Failure> {
        match self.shared.upload {
            #[cfg(feature = "gcs")]
            Upload::OneRequest => self.upload_in_one_request(key, spool, size).await,
            #[cfg(feature = "s3")]
            Upload::Parts => self.upload_in_parts(key, spool, size).await,
        }
    }

    pub(super) async fn put(
        &self,
        key: &Key,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<PutOutcome, StorageError> {
        self.put_with(key, bytes, mode, Patience::Full).await
    }

    pub(super) async fn put_with(
        &self,
        key: &Key,
        bytes: Bytes,
        mode: PutMode,
        patience: Patience,
    ) -> Result<PutOutcome, StorageError> {
        let media = Media {
            content_type: Some(key.content_type()),
            file: None,
        };
        let call = self.call_with(Operation::Write, key, patience, media);
        let path = key.path();
        let write = call.operator.write_with(&path, bytes.clone());
        let written = match mode {
            PutMode::Replace => write.await,
            PutMode::CreateNew => write.if_not_exists(true).await,
        };
        match written {
            Ok(_) => {
                self.saw_bucket();
                Ok(PutOutcome::Stored)
            }
            Err(error) if mode == PutMode::CreateNew && is_taken(&call, &error) => {
                self.saw_bucket();
                // An attempt whose answer was lost may have stored it: then it is ours.
                let ours = call.seen.repeated()
                    && self
                        .get_whole(key, bytes.len())
                        .await?
                        .is_some_and(|found| found == bytes);
                Ok(if ours {
                    PutOutcome::Stored
                } else {
                    PutOutcome::AlreadyExists
                })
            }
            Err(error) => Err(call.error(&error)),
        }
    }

    /// The object if it has exactly this size.
    async fn get_whole(&self, key: &Key, size: usize) -> Result<Option<Bytes>, StorageError> {
        match self.get(key, None).await? {
            Some(reader) if reader.stat.size == size as u64 => reader.bytes().await.map(Some),
            _ => Ok(None),
        }
    }
}

fn is_taken(call: &Call, error: &opendal::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists
    ) || call.seen.status() == Some(StatusCode::PRECONDITION_FAILED)
}

/// Why an upload failed.
pub(super) struct Failure {
    pub(super) error: StorageError,
    /// Another upload would fail as well.
    pub(super) is_final: bool,
}

impl Failure {
    pub(super) fn of(call: &Call, error: &opendal::Error, spool: &Path) -> Self {
        let exhausted = call.seen.exhausted();
        // Parts that a store lost and uploads it forgot are refused with a 400 or 404.
        let lost = call.seen.answer().is_some_and(|answer| {
            answer.has_code(&[
                "InvalidPart",
                "InvalidPartOrder",
                "NoSuchUpload",
                "IncompleteBody",
            ])
        });
        let mut error = call.error(error);
        if let StorageError::Spool { path, .. } = &mut error {
            *path = PathBuf::from(spool);
        }
        let is_final = !lost && (exhausted || !error.is_retryable());
        Self { error, is_final }
    }
}
