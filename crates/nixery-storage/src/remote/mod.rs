//! What the S3 and the GCS backend share: everything but how a store is addressed and signed for.
//!
//! opendal builds, signs and parses the requests. Sending them is ours ([`transport`]): one place
//! decides about retries and time-outs, streams a spool file without holding it in memory, and
//! sees every answer, so that errors can be told apart by status and code ([`errors`]).

mod backoff;
mod body;
mod call;
mod check;
mod errors;
mod fault;
#[cfg(feature = "gcs")]
mod gcs;
mod limits;
mod list;
mod location;
#[cfg(feature = "gcs")]
mod one_request;
#[cfg(feature = "s3")]
mod parts;
mod read;
#[cfg(feature = "s3")]
mod s3;
mod storage;
mod transport;
mod write;

#[cfg(all(test, feature = "s3", feature = "gcs"))]
mod tests;

#[cfg(feature = "gcs")]
pub use gcs::{GcsConfig, GcsStorage};
pub use limits::RemoteLimits;
#[cfg(feature = "s3")]
pub use s3::{S3Addressing, S3Config, S3Credentials, S3Storage};

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opendal::Operator;

use crate::{Key, StorageError};

/// How long an answer that only a bucket can give is taken as a proof that it still exists.
const BUCKET_PROOF: Duration = Duration::from_secs(30);

/// A bucket, and how to speak with it. Cheap to clone.
#[derive(Clone)]
struct Remote {
    shared: Arc<Shared>,
}

struct Shared {
    backend: &'static str,
    /// The bucket and its host, for messages of start-up.
    location: String,
    bucket: String,
    /// Talks to the store.
    operator: Operator,
    /// Signs URLs for clients, under the host they know. `None` where the store cannot sign.
    signer: Option<Operator>,
    /// What every public URL starts with, up to and with the slash before the key.
    public_base: String,
    client: reqwest::Client,
    limits: RemoteLimits,
    upload: Upload,
    bucket_seen: Mutex<Option<Instant>>,
}

/// How a spool file is uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    /// In parts, several at once.
    #[cfg(feature = "s3")]
    Parts,
    /// As the body of one request, its media type in the request's header.
    #[cfg(feature = "gcs")]
    OneRequest,
}

/// What a backend's `open` finds out.
struct Parts {
    backend: &'static str,
    location: String,
    bucket: String,
    operator: Operator,
    signer: Option<Operator>,
    public_base: String,
    limits: RemoteLimits,
    upload: Upload,
}

impl Remote {
    /// Does no I/O.
    fn new(parts: Parts) -> Result<Self, StorageError> {
        let client = transport::client().map_err(|error| StorageError::Open {
            backend: parts.backend,
            location: parts.location.clone(),
            problem: format!("the HTTP client cannot be set up: {error}"),
            source: None,
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                backend: parts.backend,
                location: parts.location,
                bucket: parts.bucket,
                operator: parts.operator,
                signer: parts.signer,
                public_base: parts.public_base,
                client,
                limits: parts.limits.sane(),
                upload: parts.upload,
                bucket_seen: Mutex::new(None),
            }),
        })
    }

    fn public_url(&self, key: &Key) -> String {
        format!("{}{}", self.shared.public_base, key.path())
    }

    /// Notes an answer that only an existing bucket gives.
    fn saw_bucket(&self) {
        *self.bucket_seen() = Some(Instant::now());
    }

    fn has_seen_bucket(&self) -> bool {
        self.bucket_seen()
            .is_some_and(|seen| seen.elapsed() < BUCKET_PROOF)
    }

    fn bucket_seen(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.shared
            .bucket_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("location", &self.shared.location)
            .field("limits", &self.shared.limits)
            .finish_non_exhaustive()
    }
}

/// [`Storage`](crate::Storage) for a newtype around [`Remote`].
#[cfg(any(feature = "s3", feature = "gcs"))]
macro_rules! implement_storage {
    ($storage:ty, $backend:expr) => {
        #[async_trait::async_trait]
        impl $crate::Storage for $storage {
            fn backend(&self) -> &'static str {
                $backend
            }

            async fn put_file(
                &self,
                key: &$crate::Key,
                spool: &std::path::Path,
            ) -> Result<(), StorageError> {
                self.remote.put_file(key, spool).await
            }

            async fn put(
                &self,
                key: &$crate::Key,
                bytes: bytes::Bytes,
                mode: $crate::PutMode,
            ) -> Result<$crate::PutOutcome, StorageError> {
                self.remote.put(key, bytes, mode).await
            }

            async fn get(
                &self,
                key: &$crate::Key,
                range: Option<$crate::ByteRange>,
            ) -> Result<Option<$crate::BlobReader>, StorageError> {
                self.remote.get(key, range).await
            }

            async fn stat(&self, key: &$crate::Key) -> Result<Option<$crate::Stat>, StorageError> {
                self.remote.stat(key).await
            }

            async fn list(
                &self,
                kind: $crate::KeyKind,
            ) -> Result<
                futures::stream::BoxStream<'static, Result<$crate::Entry, StorageError>>,
                StorageError,
            > {
                self.remote.list(kind).await
            }

            async fn delete(&self, key: &$crate::Key) -> Result<bool, StorageError> {
                self.remote.delete(key).await
            }

            async fn presign_get(
                &self,
                key: &$crate::Key,
                ttl: std::time::Duration,
            ) -> Result<Option<String>, StorageError> {
                self.remote.presign_get(key, ttl).await
            }

            fn public_url(&self, key: &$crate::Key) -> Option<String> {
                Some(self.remote.public_url(key))
            }

            async fn check(&self) -> Result<(), StorageError> {
                self.remote.check().await
            }
        }
    };
}
#[cfg(any(feature = "s3", feature = "gcs"))]
use implement_storage;
