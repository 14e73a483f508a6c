//! Reading objects: exactly the requested bytes, or an error at the end.
//!
//! A read that breaks is resumed where it broke, if the object still is in the same state.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG};
use http::{HeaderMap, StatusCode};
use opendal::{BufferStream, ErrorKind, Metadata};

use super::request::Call;
use super::{BACKOFF, RemoteStorage, UploadMethod};
use crate::{BlobReader, ByteRange, Key, Operation, Stat, Storage, StorageError};

/// The largest chunk that a body yields.
const MAX_CHUNK: usize = 1 << 20;

const REPLACED: &str = "the object was replaced while it was read";
const DELETED: &str = "the object was deleted while it was read";

/// What distinguishes one state of an object from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ObjectState {
    size: u64,
    etag: Option<String>,
    /// GCS numbers the states of an object.
    generation: Option<String>,
}

/// An open object, from some byte on.
struct OpenObject {
    stat: Stat,
    state: ObjectState,
    stream: BufferStream,
    call: Call,
}

enum OpenOutcome {
    Opened(Box<OpenObject>),
    Missing,
    /// The range contains no byte of the object.
    OutOfRange,
}

impl RemoteStorage {
    pub(super) async fn open_range(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        if range.is_some_and(|range| range.is_empty()) {
            return self.out_of_range(key, range).await;
        }
        let start = range.map_or(0, |range| range.start);
        let end = range.map(|range| range.end);
        let object = match self.open(key, start, end, None).await? {
            OpenOutcome::Opened(object) => *object,
            OpenOutcome::Missing => return Ok(None),
            OpenOutcome::OutOfRange => return self.out_of_range(key, range).await,
        };
        let range = ByteRange::resolve(range, object.stat.size, key)?;
        let stat = object.stat;
        let reading = Reading {
            remote: self.clone(),
            key: *key,
            range,
            at: range.start,
            resumptions: 0,
            pending: Bytes::new(),
            object,
        };
        Ok(Some(BlobReader {
            stat,
            range,
            body: reading.body(),
        }))
    }

    /// The error of a range without a byte of the object: it states the object's size.
    async fn out_of_range(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        let Some(stat) = self.stat(key).await? else {
            return Ok(None);
        };
        ByteRange::resolve(range, stat.size, key)?;
        // A longer object replaced it between the two requests.
        Err(self.call(Operation::Read, key).broken(REPLACED))
    }

    /// Opens an object, and only in the state `expected` where that is given.
    async fn open(
        &self,
        key: &Key,
        start: u64,
        end: Option<u64>,
        expected: Option<&ObjectState>,
    ) -> Result<OpenOutcome, StorageError> {
        let call = self.call(Operation::Read, key);
        let path = key.path();
        let mut reader = call.operator.reader_with(&path);
        if let Some(expected) = expected {
            reader = match (self.shared.upload, &expected.generation, &expected.etag) {
                #[cfg(feature = "gcs")]
                (UploadMethod::OneRequest, Some(generation), _) => {
                    reader.if_version_match(generation)
                }
                #[cfg(feature = "s3")]
                (UploadMethod::Parts, _, Some(etag)) => reader.if_match(etag),
                _ => reader,
            };
        }
        // Stores use signed 64-bit numbers; no object reaches their limit.
        let end = end.filter(|end| i64::try_from(*end).is_ok());
        let opening = async {
            let reader = reader.await?;
            let mut stream = match end {
                Some(end) => reader.into_stream(start..end).await?,
                None => reader.into_stream(start..).await?,
            };
            // This sends the request.
            Ok::<_, opendal::Error>((stream.metadata().await?, stream))
        };
        let (metadata, stream) = match opening.await {
            Ok(opened) => opened,
            Err(error) => return not_opened(&call, &error).await,
        };
        self.saw_bucket();
        let answer = call.log().answer().cloned().unwrap_or_default();
        let size = object_size(&answer.headers, answer.status, start);
        let size = size.map_err(|why| call.broken(why))?;
        let text = |name: &str| Some(answer.headers.get(name)?.to_str().ok()?.to_owned());
        let state = ObjectState {
            size,
            etag: text(ETAG.as_str()),
            generation: text("x-goog-generation"),
        };
        if expected.is_some_and(|expected| *expected != state) {
            return Err(call.broken(REPLACED));
        }
        let stat = Stat {
            size,
            ..stat(&metadata)
        };
        Ok(OpenOutcome::Opened(Box::new(OpenObject {
            stat,
            state,
            stream,
            call,
        })))
    }
}

async fn not_opened(call: &Call, error: &opendal::Error) -> Result<OpenOutcome, StorageError> {
    let status = call.log().status();
    if status == Some(StatusCode::RANGE_NOT_SATISFIABLE)
        || error.kind() == ErrorKind::RangeNotSatisfied
    {
        return Ok(OpenOutcome::OutOfRange);
    }
    if error.kind() == ErrorKind::ConditionNotMatch {
        return Err(call.broken(REPLACED));
    }
    if call.is_missing(error).await? {
        return Ok(OpenOutcome::Missing);
    }
    Err(call.error(error))
}

/// The size of the whole object, from the answer to a request for its bytes from `start` on.
fn object_size(headers: &HeaderMap, status: StatusCode, start: u64) -> Result<u64, &'static str> {
    if status == StatusCode::PARTIAL_CONTENT {
        let range = content_range(headers).filter(|(first, _)| *first == start);
        let (_, size) = range.ok_or("the store sent other bytes than requested")?;
        return Ok(size);
    }
    if start > 0 {
        return Err("the store ignores ranges");
    }
    let length = headers.get(CONTENT_LENGTH);
    length
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .ok_or("the store's answer does not state the object's size")
}

/// First byte and whole size of `bytes 5-9/100`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (bytes, size) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = bytes.split_once('-')?;
    Some((first.parse().ok()?, size.parse().ok()?))
}

/// Size and age, with whole seconds as in every request: GCS sends milliseconds in some.
pub(super) fn stat(metadata: &Metadata) -> Stat {
    let modified = metadata.last_modified().map(SystemTime::from);
    let seconds = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    Stat {
        size: metadata.content_length(),
        modified: seconds
            .map(|since| SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())),
        identity: None,
    }
}

/// The bytes of a range of an object.
struct Reading {
    remote: RemoteStorage,
    key: Key,
    range: ByteRange,
    at: u64,
    resumptions: u32,
    pending: Bytes,
    object: OpenObject,
}

impl Reading {
    fn body(self) -> BoxStream<'static, Result<Bytes, StorageError>> {
        stream::unfold(Some(self), |reading| async move {
            let mut reading = reading?;
            match reading.next().await {
                Ok(None) => None,
                Ok(Some(chunk)) => Some((Ok(chunk), Some(reading))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        loop {
            let remaining = self.range.end - self.at;
            if remaining == 0 {
                return Ok(None);
            }
            if !self.pending.is_empty() {
                let most = usize::try_from(remaining)
                    .unwrap_or(MAX_CHUNK)
                    .min(MAX_CHUNK);
                let chunk = self.pending.split_to(self.pending.len().min(most));
                self.at += chunk.len() as u64;
                return Ok(Some(chunk));
            }
            let stall = self.remote.shared.limits.stall_timeout;
            let why = match tokio::time::timeout(stall, self.object.stream.next()).await {
                Ok(Some(Ok(buffer))) => {
                    self.pending = buffer.to_bytes();
                    continue;
                }
                Ok(Some(Err(_))) => "the connection broke",
                Ok(None) => "the body ended early",
                Err(_) => "no byte arrived in time",
            };
            self.resume(why).await?;
        }
    }

    /// Opens the rest of the object, in the state that it had at first.
    async fn resume(&mut self, why: &str) -> Result<(), StorageError> {
        let state = self.object.state.clone();
        let has_identity = state.etag.is_some() || state.generation.is_some();
        self.resumptions += 1;
        if !has_identity || self.resumptions >= self.remote.shared.limits.attempts {
            return Err(StorageError::Truncated {
                backend: self.remote.shared.backend,
                target: self.key.to_string(),
                expected: self.range.len(),
                actual: self.at - self.range.start,
            });
        }
        tracing::debug!(key = %self.key, at = self.at, why, "resuming a read");
        tokio::time::sleep(BACKOFF.wait(self.resumptions)).await;
        let end = Some(self.range.end);
        match self
            .remote
            .open(&self.key, self.at, end, Some(&state))
            .await?
        {
            OpenOutcome::Opened(object) => {
                self.object = *object;
                Ok(())
            }
            OpenOutcome::Missing => Err(self.object.call.broken(DELETED)),
            OpenOutcome::OutOfRange => Err(self.object.call.broken(REPLACED)),
        }
    }
}
