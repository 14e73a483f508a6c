//! Storing objects: as the body of one request, or in parts, and whole in the end.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::StatusCode;
use opendal::ErrorKind;

use super::request::{Call, WriteOverride};
use super::{RemoteLimits, RemoteStorage, UploadMethod};
use crate::{Key, Operation, PutMode, PutOutcome, Storage, StorageError};

/// How often a file is uploaded from its beginning, when the store loses parts of it or the object
/// has another size. Failed requests are repeated besides.
const UPLOADS: u32 = 3;

/// S3 accepts 10,000 parts. <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
#[cfg(feature = "s3")]
const MAX_PARTS: u64 = 10_000;

impl RemoteStorage {
    pub(super) async fn upload_file(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        // A task of its own: when the caller goes away, the upload is still completed or aborted.
        let (remote, key, spool) = (self.clone(), *key, spool.to_owned());
        let task = tokio::spawn(async move { remote.put_spool(&key, &spool).await });
        task.await.unwrap_or_else(|error| {
            let call = self.call(Operation::Write, key);
            Err(call.broken(format!("the upload was interrupted: {error}")))
        })
    }

    async fn put_spool(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        let unreadable = |source| StorageError::spool(key, spool, source);
        // Opening shows that the file can be read, before anything is sent.
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
            // After a failure too: its last request may have had its effect.
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
                    "an upload is incomplete and is repeated"
                ),
            }
        }
        Err(self
            .call(Operation::Write, key)
            .broken("the object vanished after it was stored"))
    }

    async fn upload(&self, key: &Key, spool: &Path, size: u64) -> Result<(), UploadFailure> {
        match self.shared.upload {
            #[cfg(feature = "gcs")]
            UploadMethod::OneRequest => self.upload_in_one_request(key, spool, size).await,
            #[cfg(feature = "s3")]
            UploadMethod::Parts => self.upload_in_parts(key, spool, size).await,
        }
    }

    /// Uploads a file as the body of one request. opendal builds the request with a placeholder,
    /// which the transport replaces with the file.
    #[cfg(feature = "gcs")]
    async fn upload_in_one_request(
        &self,
        key: &Key,
        spool: &Path,
        size: u64,
    ) -> Result<(), UploadFailure> {
        let write = WriteOverride {
            content_type: Some(key.content_type()),
            file: Some((spool.to_owned(), size)),
        };
        let call = self.call_with(Operation::Write, key, self.shared.limits.clone(), write);
        let placeholder = Bytes::from_static(b"-");
        let written = call.operator.write(&key.path(), placeholder).await;
        written.map_err(|error| UploadFailure::new(&call, &error, spool))?;
        self.saw_bucket();
        Ok(())
    }

    /// Uploads a file in parts, several at once.
    #[cfg(feature = "s3")]
    async fn upload_in_parts(
        &self,
        key: &Key,
        spool: &Path,
        size: u64,
    ) -> Result<(), UploadFailure> {
        let unreadable = |source| UploadFailure {
            error: StorageError::spool(key, spool, source),
            is_final: true,
        };
        let limits = &self.shared.limits;
        let part = limits.part_size.max(size.div_ceil(MAX_PARTS));
        let call = self.call(Operation::Write, key);
        let failed = |error| UploadFailure::new(&call, &error, spool);
        let mut writer = call
            .operator
            .writer_with(&key.path())
            .content_type(key.content_type())
            .concurrent(limits.parts_at_once)
            .await
            .map_err(failed)?;
        let mut file = tokio::fs::File::open(spool).await.map_err(unreadable)?;
        let sent = async {
            let mut remaining = size;
            while remaining > 0 {
                // A part fits in memory, and so in a usize.
                let length = usize::try_from(remaining.min(part)).unwrap_or(usize::MAX);
                let block = super::request::read_block(&mut file, length).await;
                let block = block.map_err(unreadable)?;
                remaining -= block.len() as u64;
                writer.write(block).await.map_err(failed)?;
            }
            writer.close().await.map_err(failed)
        };
        let sent: Result<_, UploadFailure> = sent.await;
        if let Err(failure) = sent {
            if let Err(error) = writer.abort().await {
                // The parts stay until the bucket's lifecycle rule removes them.
                let error = call.error(&error);
                tracing::warn!(%key, %error, "cannot remove the parts of a failed upload");
            }
            return Err(failure);
        }
        self.saw_bucket();
        Ok(())
    }

    pub(super) async fn put_within(
        &self,
        key: &Key,
        bytes: Bytes,
        mode: PutMode,
        limits: RemoteLimits,
    ) -> Result<PutOutcome, StorageError> {
        let write = WriteOverride {
            content_type: Some(key.content_type()),
            file: None,
        };
        let call = self.call_with(Operation::Write, key, limits, write);
        let path = key.path();
        let writing = call.operator.write_with(&path, bytes.clone());
        let written = match mode {
            PutMode::Replace => writing.await,
            PutMode::CreateNew => writing.if_not_exists(true).await,
        };
        let Err(error) = written else {
            self.saw_bucket();
            return Ok(PutOutcome::Stored);
        };
        if mode != PutMode::CreateNew || !is_taken(&call, &error) {
            return Err(call.error(&error));
        }
        self.saw_bucket();
        // If the answer to an earlier attempt was lost, that attempt may have stored the object.
        let repeated = call.log().repeated;
        let is_ours = repeated && self.has_bytes(key, &bytes).await?;
        Ok(match is_ours {
            true => PutOutcome::Stored,
            false => PutOutcome::AlreadyExists,
        })
    }

    async fn has_bytes(&self, key: &Key, bytes: &Bytes) -> Result<bool, StorageError> {
        match self.get(key, None).await? {
            Some(reader) if reader.stat.size == bytes.len() as u64 => {
                Ok(reader.bytes().await? == *bytes)
            }
            _ => Ok(false),
        }
    }
}

fn is_taken(call: &Call, error: &opendal::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists
    ) || call.log().status() == Some(StatusCode::PRECONDITION_FAILED)
}

/// Why an upload failed.
struct UploadFailure {
    error: StorageError,
    /// Another upload would fail as well.
    is_final: bool,
}

impl UploadFailure {
    fn new(call: &Call, error: &opendal::Error, spool: &Path) -> Self {
        let (exhausted, lost) = {
            let log = call.log();
            let exhausted = log
                .outcome
                .as_ref()
                .is_some_and(|outcome| outcome.exhausted);
            // The store answers 400 or 404 when it lost a part or the upload.
            let lost = log.answer().is_some_and(|answer| {
                answer.has_code(&[
                    "InvalidPart",
                    "InvalidPartOrder",
                    "NoSuchUpload",
                    "IncompleteBody",
                ])
            });
            (exhausted, lost)
        };
        let mut error = call.error(error);
        if let StorageError::Spool { path, .. } = &mut error {
            *path = PathBuf::from(spool);
        }
        let is_final = !lost && (exhausted || !error.is_retryable());
        Self { error, is_final }
    }
}
