//! What the S3 and the GCS backend share: everything but addresses and credentials.
//!
//! opendal builds and signs the requests and parses the answers. This module sends them
//! ([`request`]): one place decides about retries and time-outs, streams a spool file without
//! holding it in memory, and records every answer, so that errors are classified by status and
//! code ([`errors`]). Reading is in [`get`], storing in [`put`].

mod errors;
#[cfg(feature = "gcs")]
mod gcs;
mod get;
mod location;
mod put;
mod request;
#[cfg(feature = "s3")]
mod s3;

#[cfg(all(test, feature = "s3", feature = "gcs"))]
mod tests;

#[cfg(feature = "gcs")]
pub use gcs::GcsConfig;
#[cfg(feature = "s3")]
pub use s3::{S3Addressing, S3Config, S3Credentials};

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use http::StatusCode;
use opendal::Operator;

use crate::trial::trial_key;
use crate::{
    Backoff, BlobReader, ByteRange, Entry, Folder, Key, Operation, PutMode, PutOutcome, Stat,
    Storage, StorageError, error_chain,
};
use request::WriteOverride;

/// The waits between the attempts of a request: 12 attempts outlast an outage of 30 s.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// How long an answer that only an existing bucket can give proves that it exists.
const BUCKET_PROOF: Duration = Duration::from_secs(30);

/// The time that a check takes at most.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest validity of a signature of AWS version 4 or of GCS.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>
const LONGEST_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// The smallest part that S3 accepts, except for the last one.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const MIN_PART: u64 = 5 << 20;

/// Retries, time-outs and upload sizes of a remote store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteLimits {
    /// Attempts per request; 0 counts as 1. The waits between them grow from 0.2 s to 5 s: 12
    /// attempts outlast an outage of 30 s.
    pub attempts: u32,
    /// How long an answer may take to begin after the request was sent.
    pub call_timeout: Duration,
    /// How long a body may stand still while it is sent or received.
    pub stall_timeout: Duration,
    /// Bytes of a part, at least 5 MiB. Larger files are uploaded to S3 in parts.
    pub part_size: u64,
    /// Parts of one file that are sent at once; 0 counts as 1. Each is held in memory.
    pub parts_at_once: usize,
}

impl Default for RemoteLimits {
    fn default() -> Self {
        Self {
            // SeaweedFS, killed and started again after 10 s, takes 20 s more to answer.
            attempts: 12,
            call_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(20),
            part_size: 8 << 20,
            parts_at_once: 4,
        }
    }
}

impl RemoteLimits {
    /// The same limits, with values too small replaced as their documentation says.
    fn corrected(self) -> Self {
        Self {
            attempts: self.attempts.max(1),
            part_size: self.part_size.max(MIN_PART),
            parts_at_once: self.parts_at_once.max(1),
            ..self
        }
    }

    /// Limits for questions that are asked again soon, such as those of readiness probes.
    fn quick(&self) -> Self {
        Self {
            attempts: self.attempts.min(2),
            call_timeout: self.call_timeout.min(Duration::from_secs(2)),
            stall_timeout: self.stall_timeout.min(Duration::from_secs(2)),
            ..self.clone()
        }
    }
}

/// A store in a bucket of S3 or of Google Cloud Storage. Cheap to clone.
///
/// A store in S3 uploads files larger than a part in parts. It aborts a failed upload, but when the
/// process dies, the parts remain: give the bucket a lifecycle rule that aborts incomplete
/// multipart uploads. A store in GCS can sign URLs only with the key file of a service account.
#[derive(Clone)]
pub struct RemoteStorage {
    shared: Arc<Shared>,
}

struct Shared {
    backend: &'static str,
    /// The bucket and its host, for messages at start-up.
    location: String,
    bucket: String,
    /// Builds the requests to the store.
    operator: Operator,
    /// Signs URLs for clients, under the host they know. `None` where the store cannot sign.
    signer: Option<Operator>,
    /// The start of every public URL, including the slash before the key.
    public_base: String,
    client: reqwest::Client,
    limits: RemoteLimits,
    upload: UploadMethod,
    bucket_seen: Mutex<Option<Instant>>,
    /// Whether the last check could read but not write.
    read_only: AtomicBool,
}

/// How a spool file is uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UploadMethod {
    /// In parts, several at once.
    #[cfg(feature = "s3")]
    Parts,
    /// As the body of one request, its media type in the request's header.
    #[cfg(feature = "gcs")]
    OneRequest,
}

impl RemoteStorage {
    fn new(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        Self { shared }
    }

    /// Records an answer that only an existing bucket can give.
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

#[async_trait]
impl Storage for RemoteStorage {
    fn backend(&self) -> &'static str {
        self.shared.backend
    }

    async fn put_file(&self, key: &Key, spool: &Path) -> Result<(), StorageError> {
        self.upload_file(key, spool).await
    }

    async fn put(
        &self,
        key: &Key,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<PutOutcome, StorageError> {
        let limits = self.shared.limits.clone();
        self.put_within(key, bytes, mode, limits).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        self.open_range(key, range).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError> {
        self.look_up(key, Operation::Stat).await
    }

    async fn list(
        &self,
        folder: Folder,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        self.list_prefix(folder, "").await
    }

    /// Lists a folder page by page. A page that does not arrive whole is requested again.
    async fn list_prefix(
        &self,
        folder: Folder,
        prefix: &str,
    ) -> Result<BoxStream<'static, Result<Entry, StorageError>>, StorageError> {
        let call = self.call(Operation::List, folder);
        let folder_path = format!("{folder}/");
        let path = format!("{folder_path}{prefix}");
        let lister = call.operator.lister(&path).await;
        let lister = lister.map_err(|error| call.error(&error))?;
        let entries = lister.filter_map(move |entry| {
            let entry = match entry {
                // Some stores have an object that represents the folder.
                Ok(entry) if entry.path() == folder_path || entry.path() == "/" => None,
                Ok(entry) => Some(Ok(to_entry(&entry, folder))),
                Err(error) => Some(Err(call.error(&error))),
            };
            std::future::ready(entry)
        });
        Ok(entries.boxed())
    }

    async fn delete(&self, key: &Key) -> Result<bool, StorageError> {
        // S3 does not report whether there was an object.
        if self.look_up(key, Operation::Delete).await?.is_none() {
            return Ok(false);
        }
        let call = self.call(Operation::Delete, key);
        let deleted = call.operator.delete(&key.path()).await;
        deleted.map_err(|error| call.error(&error))?;
        // GCS reports it. After a repeated request, 404 may mean that the first attempt deleted it.
        let log = call.log();
        Ok(log.status() != Some(StatusCode::NOT_FOUND) || log.repeated)
    }

    async fn presign_get(&self, key: &Key, ttl: Duration) -> Result<Option<String>, StorageError> {
        if self.shared.signer.is_none() {
            return Ok(None);
        }
        let call = self.call(Operation::Sign, key);
        let path = key.path();
        let ttl = ttl.clamp(Duration::from_secs(1), LONGEST_TTL);
        let signed = call.operator.presign_read(&path, ttl).await;
        let request = signed.map_err(|error| call.error(&error))?;
        Ok(Some(request.uri().to_string()))
    }

    fn public_url(&self, key: &Key) -> Option<String> {
        Some(format!("{}{}", self.shared.public_base, key.path()))
    }

    fn is_read_only(&self) -> bool {
        self.shared.read_only.load(Ordering::Relaxed)
    }

    /// Tests listing, writing and deleting.
    async fn check(&self) -> Result<(), StorageError> {
        let checked = tokio::time::timeout(CHECK_TIMEOUT, self.try_all()).await;
        let problem = match checked {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error_chain(&error),
            Err(_) => format!(
                "it did not answer within {} s. Fix: check that it runs, its address, and this \
                 machine's network",
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
}

impl RemoteStorage {
    async fn look_up(&self, key: &Key, operation: Operation) -> Result<Option<Stat>, StorageError> {
        let call = self.call(operation, key);
        match call.operator.stat(&key.path()).await {
            Ok(metadata) => {
                self.saw_bucket();
                Ok(Some(get::stat(&metadata)))
            }
            Err(error) if call.is_missing(&error).await? => Ok(None),
            Err(error) => Err(call.error(&error)),
        }
    }

    async fn try_all(&self) -> Result<(), StorageError> {
        let limits = self.shared.limits.quick();
        let quick = |operation, target: &str| {
            self.call_with(operation, target, limits.clone(), WriteOverride::default())
        };
        let listing = quick(Operation::List, "the bucket");
        let found = listing.find_bucket().await;
        found.map_err(|error| listing.error(&error))?;
        self.saw_bucket();
        let key = trial_key("check");
        let writing = self.put_within(&key, "{}".into(), PutMode::Replace, limits.clone());
        let written = writing.await;
        let refused = matches!(written, Err(StorageError::Denied { .. }));
        let was_refused = self.shared.read_only.swap(refused, Ordering::Relaxed);
        match written {
            Err(refusal) if refused => {
                if !was_refused {
                    tracing::warn!(
                        "the {} store at {} is read-only: its images are served, and others cannot be built: {}",
                        self.shared.backend,
                        self.shared.location,
                        error_chain(&refusal)
                    );
                }
                return Ok(());
            }
            written => drop(written?),
        }
        let deleting = quick(Operation::Delete, &key.path());
        let deleted = deleting.operator.delete(&key.path()).await;
        deleted.map_err(|error| deleting.error(&error))
    }
}

fn to_entry(entry: &opendal::Entry, folder: Folder) -> Entry {
    // A name with a slash is a folder within the folder, which is foreign.
    let path = entry.path().trim_end_matches('/').to_owned();
    let name = path
        .strip_prefix(folder.name())
        .and_then(|rest| rest.strip_prefix('/'));
    let key = name
        .filter(|_| entry.metadata().is_file())
        .and_then(|name| Key::from_name(folder, name));
    Entry {
        key,
        stat: get::stat(entry.metadata()),
        path,
    }
}

impl fmt::Debug for RemoteStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteStorage")
            .field("location", &self.shared.location)
            .field("limits", &self.shared.limits)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests_of_limits {
    use super::*;

    #[test]
    fn the_default_attempts_outlast_a_restart() {
        let waits = 1..RemoteLimits::default().attempts;
        let mean: Duration = waits.map(|attempt| BACKOFF.wait_with(attempt, 0.5)).sum();
        // The sum of eleven random waits is within a sixth of its mean, practically always.
        assert!(
            mean.mul_f64(5.0 / 6.0) > Duration::from_secs(30),
            "{mean:?}"
        );
        assert!(mean < Duration::from_secs(46), "{mean:?}");
    }
}
