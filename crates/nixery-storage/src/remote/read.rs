//! Reading objects: what is promised comes, or an error at the end.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG};
use http::{HeaderMap, StatusCode};
use opendal::{BufferStream, ErrorKind, Metadata};

use super::call::Call;
use super::{Remote, Upload, backoff};
use crate::{BlobReader, ByteRange, Key, Operation, Stat, StorageError};

/// No chunk that is handed on is larger.
const MAX_CHUNK: usize = 1 << 20;

const REPLACED: &str = "the object was replaced while it was read";

/// What tells one state of an object from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    size: u64,
    etag: Option<String>,
    /// GCS counts the states of an object.
    generation: Option<String>,
}

/// An object from some byte on.
struct Opened {
    stat: Stat,
    identity: Identity,
    stream: BufferStream,
    call: Call,
}

impl Remote {
    pub(super) async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        if range.is_some_and(|range| range.is_empty()) {
            return self.refuse(key, range).await;
        }
        let start = range.map_or(0, |range| range.start);
        let end = range.map(|range| range.end);
        let opened = match self.open(key, start, end, None).await? {
            Found::Object(opened) => *opened,
            Found::Nothing => return Ok(None),
            Found::Refused => return self.refuse(key, range).await,
        };
        let range = ByteRange::resolve(range, opened.stat.size, key)?;
        Ok(Some(BlobReader {
            stat: opened.stat,
            range,
            body: self.body(*key, range, opened),
        }))
    }

    /// For ranges that hold nothing: their error needs the size.
    async fn refuse(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<Option<BlobReader>, StorageError> {
        let Some(stat) = self.stat(key).await? else {
            return Ok(None);
        };
        ByteRange::resolve(range, stat.size, key)?;
        // It was replaced by a longer one between the two requests.
        Err(self.call(Operation::Read, key).broken(REPLACED))
    }

    /// Opens an object; where `same` is given, only in that state.
    async fn open(
        &self,
        key: &Key,
        start: u64,
        end: Option<u64>,
        same: Option<&Identity>,
    ) -> Result<Found, StorageError> {
        let call = self.call(Operation::Read, key);
        let path = key.path();
        let mut reader = call.operator.reader_with(&path);
        if let Some(same) = same {
            reader = match (self.shared.upload, &same.generation, &same.etag) {
                #[cfg(feature = "gcs")]
                (Upload::OneRequest, Some(generation), _) => reader.if_version_match(generation),
                #[cfg(feature = "s3")]
                (Upload::Parts, _, Some(etag)) => reader.if_match(etag),
                _ => reader,
            };
        }
        // Stores count in signed 64 bits; no object reaches that.
        let end = end.filter(|end| i64::try_from(*end).is_ok());
        let opening = async {
            let reader = reader.await?;
            let mut stream = match end {
                Some(end) => reader.into_stream(start..end).await?,
                None => reader.into_stream(start..).await?,
            };
            // Sends the request. The range's headers are looked at below.
            Ok::<_, opendal::Error>((stream.metadata().await?, stream))
        };
        let (metadata, stream) = match opening.await {
            Ok(opened) => opened,
            Err(error) => {
                let refused = call.seen.status() == Some(StatusCode::RANGE_NOT_SATISFIABLE);
                if refused || error.kind() == ErrorKind::RangeNotSatisfied {
                    return Ok(Found::Refused);
                }
                if error.kind() == ErrorKind::ConditionNotMatch {
                    return Err(call.broken(REPLACED));
                }
                if call.is_missing(&error).await? {
                    return Ok(Found::Nothing);
                }
                return Err(call.error(&error));
            }
        };
        self.saw_bucket();
        let headers = call.seen.headers();
        let size = match call.seen.status() {
            Some(StatusCode::PARTIAL_CONTENT) => match content_range(&headers) {
                Some((first, size)) if first == start => size,
                _ => return Err(call.broken("the store sent other bytes than were asked for")),
            },
            _ if start > 0 => return Err(call.broken("the store ignores ranges")),
            _ => match number(&headers, CONTENT_LENGTH) {
                Some(size) => size,
                None => return Err(call.broken("the store does not tell the object's size")),
            },
        };
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let identity = Identity {
            size,
            etag: text(ETAG.as_str()),
            generation: text("x-goog-generation"),
        };
        if same.is_some_and(|same| *same != identity) {
            return Err(call.broken(REPLACED));
        }
        Ok(Found::Object(Box::new(Opened {
            stat: Stat {
                size,
                ..stat(&metadata)
            },
            identity,
            stream,
            call,
        })))
    }

    fn body(
        &self,
        key: Key,
        range: ByteRange,
        opened: Opened,
    ) -> BoxStream<'static, Result<Bytes, StorageError>> {
        let body = Body {
            remote: self.clone(),
            key,
            range,
            at: range.start,
            resumptions: 0,
            pending: Bytes::new(),
            opened,
        };
        stream::unfold(Some(body), |body| async move {
            let mut body = body?;
            match body.next().await {
                Ok(None) => None,
                Ok(Some(chunk)) => Some((Ok(chunk), Some(body))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }
}

enum Found {
    Object(Box<Opened>),
    Nothing,
    /// The range holds no byte of it.
    Refused,
}

/// The bytes of a range, read anew from where a connection broke.
struct Body {
    remote: Remote,
    key: Key,
    range: ByteRange,
    at: u64,
    resumptions: u32,
    pending: Bytes,
    opened: Opened,
}

impl Body {
    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        loop {
            let left = self.range.end - self.at;
            if left == 0 {
                return Ok(None);
            }
            if !self.pending.is_empty() {
                let most = usize::try_from(left).unwrap_or(MAX_CHUNK).min(MAX_CHUNK);
                let chunk = self.pending.split_to(self.pending.len().min(most));
                self.at += chunk.len() as u64;
                return Ok(Some(chunk));
            }
            let stall = self.remote.shared.limits.stall_timeout;
            let why = match tokio::time::timeout(stall, self.opened.stream.next()).await {
                Ok(Some(Ok(buffer))) => {
                    self.pending = buffer.to_bytes();
                    continue;
                }
                Ok(Some(Err(_))) => "the connection broke",
                Ok(None) => "it ended early",
                Err(_) => "it stood still",
            };
            self.resume(why).await?;
        }
    }

    /// Opens the rest, in the state the object had at first.
    async fn resume(&mut self, why: &str) -> Result<(), StorageError> {
        let identity = &self.opened.identity;
        let known = identity.etag.is_some() || identity.generation.is_some();
        self.resumptions += 1;
        if !known || self.resumptions >= self.remote.shared.limits.attempts {
            return Err(StorageError::Truncated {
                backend: self.remote.shared.backend,
                target: self.key.to_string(),
                expected: self.range.len(),
                actual: self.at - self.range.start,
            });
        }
        tracing::debug!(key = %self.key, at = self.at, why, "reading is resumed");
        tokio::time::sleep(backoff::wait(self.resumptions)).await;
        let (key, at, end) = (self.key, self.at, self.range.end);
        let same = self.opened.identity.clone();
        match self.remote.open(&key, at, Some(end), Some(&same)).await? {
            Found::Object(opened) => {
                self.opened = *opened;
                Ok(())
            }
            Found::Nothing => Err(self
                .opened
                .call
                .broken("the object was deleted while it was read")),
            Found::Refused => Err(self.opened.call.broken(REPLACED)),
        }
    }
}

/// Size and age as every request tells them: GCS gives milliseconds here and seconds there.
pub(super) fn stat(metadata: &Metadata) -> Stat {
    let modified = metadata.last_modified().map(SystemTime::from);
    let seconds = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    Stat {
        size: metadata.content_length(),
        modified: seconds
            .map(|since| SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())),
    }
}

fn number(headers: &HeaderMap, name: http::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// First byte and whole size of `bytes 5-9/100`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (bytes, size) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = bytes.split_once('-')?;
    Some((first.parse().ok()?, size.parse().ok()?))
}
