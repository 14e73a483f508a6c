//! One operation on a store, and the requests that it consists of.
//!
//! opendal builds the requests and parses the answers. The [`Transport`] sends them: it repeats
//! failed attempts, limits how long they take, and records the outcomes for the [`Call`].

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use opendal::raw::{Operation as RequestPurpose, ServiceOperation};
use opendal::{
    Buffer, Error, ErrorKind, HttpBody, HttpTransport, HttpTransporter, OperationContext, Operator,
};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::errors::{Answer, CallLog, Fault, RequestOutcome, diagnose};
use super::{BACKOFF, RemoteLimits, RemoteStorage};
use crate::error::Class;
use crate::trial::TRIALS;
use crate::{Operation, StorageError, error_chain};

/// A connection is made in milliseconds or not at all; the rest is for distant regions.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts that may time out: a store that never answers must not cost ten time-outs.
const MAX_TIMEOUTS: u32 = 3;
/// Attempts to fetch credentials: most machines have no service for them.
const CREDENTIAL_ATTEMPTS: u32 = 2;
/// Bytes of an answer that is read whole: a page of a listing or an error. A page of 1,000 entries
/// has less than 1 MB.
const MAX_ANSWER: usize = 32 << 20;
/// Bytes handed to the connection at once: few, so that progress shows on a slow line.
const CHUNK: usize = 64 << 10;
/// Bytes of a file read at once, each on a blocking thread.
const READ: usize = 512 << 10;

/// One operation on one object or folder.
pub(super) struct Call {
    remote: RemoteStorage,
    operation: Operation,
    target: String,
    /// Sends its requests through this call's transport.
    pub(super) operator: Operator,
    log: Arc<Mutex<CallLog>>,
}

/// What the transport changes in the request that writes an object.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteOverride {
    /// The `Content-Type`.
    pub(super) content_type: Option<&'static str>,
    /// A file, and its size in bytes, that is sent instead of the request's own body.
    pub(super) file: Option<(PathBuf, u64)>,
}

impl RemoteStorage {
    pub(super) fn call(&self, operation: Operation, target: impl fmt::Display) -> Call {
        let limits = self.shared.limits.clone();
        self.call_with(operation, target, limits, WriteOverride::default())
    }

    pub(super) fn call_with(
        &self,
        operation: Operation,
        target: impl fmt::Display,
        limits: RemoteLimits,
        write: WriteOverride,
    ) -> Call {
        let operator = match (operation, &self.shared.signer) {
            (Operation::Sign, Some(signer)) => signer,
            _ => &self.shared.operator,
        };
        let log = Arc::default();
        let transport = HttpTransporter::new(Transport {
            client: self.shared.client.clone(),
            limits,
            log: Arc::clone(&log),
            write,
        });
        let context = OperationContext::new().with_http_transport(transport);
        Call {
            remote: self.clone(),
            operation,
            target: target.to_string(),
            operator: operator.clone().with_context(context),
            log,
        }
    }
}

impl Call {
    /// What happened to the requests so far.
    pub(super) fn log(&self) -> MutexGuard<'_, CallLog> {
        lock(&self.log)
    }

    /// Classifies a failure. Outcomes recorded later belong to another failure.
    pub(super) fn error(&self, error: &Error) -> StorageError {
        let mut log = self.log();
        let outcome = log.outcome.take();
        if let Some(RequestOutcome {
            result: Err(Fault::Spool(source)),
            ..
        }) = outcome
        {
            return StorageError::spool(&self.target, Path::new(""), source);
        }
        let bucket = &self.remote.shared.bucket;
        let no_credentials = log.no_credentials.as_deref();
        let (class, text) = diagnose(error, outcome.as_ref(), no_credentials, bucket);
        self.failure(class, text)
    }

    /// A retryable failure that opendal does not recognise.
    pub(super) fn broken(&self, why: impl Into<String>) -> StorageError {
        self.failure(Class::Failed { retryable: true }, why.into())
    }

    fn failure(&self, class: Class, text: String) -> StorageError {
        let backend = self.remote.shared.backend;
        class.error(backend, self.operation, &self.target, text.into())
    }

    /// Whether the failure means that the object does not exist, in a bucket that does.
    ///
    /// # Errors
    /// The bucket does not exist.
    pub(super) async fn is_missing(&self, error: &Error) -> Result<bool, StorageError> {
        let (status, no_such_key) = {
            let log = self.log();
            let answer = log.answer();
            let no_such_key = answer.is_some_and(|answer| answer.has_code(&["NoSuchKey"]));
            (log.status(), no_such_key)
        };
        if error.kind() != ErrorKind::NotFound || status != Some(StatusCode::NOT_FOUND) {
            return Ok(false);
        }
        if no_such_key {
            self.remote.saw_bucket();
        }
        // The answer to a HEAD request has no body that would say what is missing.
        if !self.remote.has_seen_bucket() {
            let probe = self.remote.call(self.operation, &self.target);
            let found = probe.find_bucket().await;
            found.map_err(|error| probe.error(&error))?;
            self.remote.saw_bucket();
        }
        Ok(true)
    }

    /// Asks for something that only an existing bucket can answer.
    pub(super) async fn find_bucket(&self) -> opendal::Result<()> {
        let folder = format!("{TRIALS}/");
        let mut listing = self.operator.lister_with(&folder).limit(1).await?;
        listing.try_next().await.map(drop)
    }
}

fn lock(log: &Mutex<CallLog>) -> MutexGuard<'_, CallLog> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The HTTP client of one store. It follows no redirect, because a signature is for one URL.
pub(super) fn client() -> Result<reqwest::Client, String> {
    crate::install_tls_provider();
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("nixery/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(text)
}

/// Sends the requests of one call.
struct Transport {
    client: reqwest::Client,
    limits: RemoteLimits,
    log: Arc<Mutex<CallLog>>,
    write: WriteOverride,
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        // opendal marks the requests to the store; those for credentials go to other services.
        if request.extensions().get::<ServiceOperation>().is_none() {
            return self.fetch_credentials(request).await;
        }
        let mut timeouts = 0;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut pause = BACKOFF.wait(attempt);
            let (result, received, temporary) = match self.attempt(&request).await {
                Ok((answer, received)) => {
                    pause = pause.max(retry_after(&answer.headers));
                    let temporary = answer.is_temporary();
                    (Ok(answer), Some(received), temporary)
                }
                Err(fault) => {
                    timeouts += u32::from(matches!(fault, Fault::TimedOut(_)));
                    let temporary = matches!(fault, Fault::TimedOut(_) | Fault::Disconnected(_));
                    (Err(fault), None, temporary)
                }
            };
            if !temporary || attempt >= self.limits.attempts || timeouts >= MAX_TIMEOUTS {
                lock(&self.log).record(RequestOutcome {
                    attempts: attempt,
                    exhausted: temporary || received.is_none(),
                    result,
                });
                // The log has the cause.
                return received
                    .ok_or_else(|| Error::new(ErrorKind::Unexpected, "the store did not answer"));
            }
            tracing::debug!(attempt, ?pause, "retrying a failed request to the store");
            tokio::time::sleep(pause).await;
        }
    }
}

impl Transport {
    /// Sends a request to a metadata or token service. Its answers are not the store's.
    async fn fetch_credentials(
        &self,
        request: Request<Buffer>,
    ) -> opendal::Result<Response<HttpBody>> {
        let attempts = self.limits.attempts.min(CREDENTIAL_ATTEMPTS);
        for attempt in 1..=attempts {
            let why = match self.attempt(&request).await {
                Ok((answer, _)) if answer.is_temporary() => answer.status.to_string(),
                Ok((_, received)) => return Ok(received),
                Err(Fault::TimedOut(why) | Fault::Disconnected(why) | Fault::Invalid(why)) => why,
                Err(Fault::Spool(error)) => error.to_string(),
            };
            lock(&self.log).no_credentials = Some(why);
            if attempt < attempts {
                tokio::time::sleep(BACKOFF.wait(attempt)).await;
            }
        }
        Err(Error::new(
            ErrorKind::Unexpected,
            "no credentials could be fetched",
        ))
    }

    /// Sends the request once. Only the body of an object is left to be streamed.
    async fn attempt(
        &self,
        request: &Request<Buffer>,
    ) -> Result<(Answer, Response<HttpBody>), Fault> {
        let progress = UploadProgress::new();
        let sending = self.build(request, &progress)?.send();
        let response = tokio::select! {
            response = sending => response.map_err(fault)?,
            () = progress.stalled(&self.limits) => {
                return Err(Fault::TimedOut("no answer in time".to_owned()));
            }
        };
        let (status, headers) = (response.status(), response.headers().clone());
        let purpose = request.extensions().get::<RequestPurpose>();
        let is_object = purpose == Some(&RequestPurpose::Read) && request.method() == Method::GET;
        let (answer, body) = if status.is_success() && is_object {
            let chunks = response
                .bytes_stream()
                .map_ok(Buffer::from)
                .map_err(|error| Error::new(ErrorKind::Unexpected, text(error)));
            // Reading the object checks its length.
            (
                Answer::success(status, headers),
                HttpBody::new(chunks, None),
            )
        } else {
            let body = self.whole(response).await?;
            let answer = match status.is_success() {
                true => Answer::success(status, headers),
                false => Answer::failure(status, headers, &body),
            };
            let body = stream::iter([Ok(Buffer::from(body))]);
            (answer, HttpBody::new(body, None))
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = answer.headers.clone();
        Ok((answer, response))
    }

    fn build(
        &self,
        request: &Request<Buffer>,
        progress: &Arc<UploadProgress>,
    ) -> Result<reqwest::RequestBuilder, Fault> {
        let url = reqwest::Url::parse(&request.uri().to_string())
            .map_err(|error| Fault::Invalid(format!("the store's URL is malformed: {error}")))?;
        let mut headers = request.headers().clone();
        let mut body = None;
        if request.extensions().get::<RequestPurpose>() == Some(&RequestPurpose::Write) {
            if let Some(content_type) = self.write.content_type {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            }
            if let Some((path, size)) = &self.write.file {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(*size));
                let progress = Arc::clone(progress);
                body = Some(UploadBody::file(path.clone(), *size, progress));
            }
        }
        let body = body.unwrap_or_else(|| {
            let bytes = Iterator::collect(request.body().clone());
            UploadBody::bytes(bytes, Arc::clone(progress))
        });
        let builder = self
            .client
            .request(request.method().clone(), url)
            .headers(headers);
        Ok(if http_body::Body::is_end_stream(&body) {
            builder
        } else {
            builder.body(reqwest::Body::wrap(body))
        })
    }

    /// Reads an answer that is not an object. This is part of the attempt, so an answer that ends
    /// early is requested again.
    async fn whole(&self, response: reqwest::Response) -> Result<Bytes, Fault> {
        let mut chunks = response.bytes_stream();
        let mut whole = BytesMut::new();
        loop {
            match tokio::time::timeout(self.limits.stall_timeout, chunks.next()).await {
                Ok(None) => return Ok(whole.freeze()),
                Ok(Some(Ok(chunk))) if whole.len() + chunk.len() <= MAX_ANSWER => {
                    whole.extend_from_slice(&chunk);
                }
                Ok(Some(Ok(_))) => {
                    let why = format!("the store's answer has more than {MAX_ANSWER} bytes");
                    return Err(Fault::Invalid(why));
                }
                Ok(Some(Err(error))) => return Err(fault(error)),
                Err(_) => {
                    let why = "the answer stopped in the middle".to_owned();
                    return Err(Fault::TimedOut(why));
                }
            }
        }
    }
}

/// The pause that the store asks for, up to the longest of our own.
fn retry_after(headers: &HeaderMap) -> Duration {
    headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map_or(Duration::ZERO, Duration::from_secs)
        .min(BACKOFF.longest())
}

fn fault(error: reqwest::Error) -> Fault {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(spool) = cause.downcast_ref::<SpoolUnreadable>() {
            return Fault::Spool(io::Error::new(spool.0, "the file changed or vanished"));
        }
        source = cause.source();
    }
    if error.is_timeout() {
        Fault::TimedOut(text(error))
    } else if error.is_builder() {
        Fault::Invalid(text(error))
    } else {
        Fault::Disconnected(text(error))
    }
}

/// The error and its causes without the URL, which may contain a signature.
fn text(error: reqwest::Error) -> String {
    error_chain(&error.without_url())
}

/// Marks, among the causes of a failed request, that the file to upload caused it.
#[derive(Debug, thiserror::Error)]
#[error("the file to upload cannot be read")]
struct SpoolUnreadable(io::ErrorKind);

/// When the last chunk of a request body was sent, and whether it was the end.
#[derive(Debug)]
struct UploadProgress(Mutex<(Instant, bool)>);

impl UploadProgress {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((Instant::now(), false))))
    }

    fn sent(&self, finished: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), finished);
    }

    /// Completes when no chunk was sent for too long, or no answer began in time after the last.
    async fn stalled(&self, limits: &RemoteLimits) {
        loop {
            let (sent, finished) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let allowed = match finished {
                true => limits.call_timeout,
                false => limits.stall_timeout,
            };
            if sent.elapsed() >= allowed {
                return;
            }
            tokio::time::sleep_until(sent + allowed).await;
        }
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, SpoolUnreadable>> + Send + Sync>>;

/// A request body of known length, which reports its progress.
struct UploadBody {
    chunks: Chunks,
    remaining: u64,
    progress: Arc<UploadProgress>,
}

impl UploadBody {
    /// A body in memory.
    fn bytes(bytes: Vec<Bytes>, progress: Arc<UploadProgress>) -> Self {
        let size = bytes.iter().map(|bytes| bytes.len() as u64).sum();
        let chunks = bytes.into_iter().flat_map(in_chunks).map(Ok);
        Self::new(Box::pin(stream::iter(chunks)), size, progress)
    }

    /// The first `size` bytes of a file, read while they are sent.
    fn file(path: PathBuf, size: u64, progress: Arc<UploadProgress>) -> Self {
        let blocks = stream::try_unfold((None, size), move |(file, remaining)| {
            let path = path.clone();
            async move {
                if remaining == 0 {
                    return Ok::<_, io::Error>(None);
                }
                let mut file = match file {
                    Some(file) => file,
                    None => tokio::fs::File::open(path).await?,
                };
                let size = READ.min(usize::try_from(remaining).unwrap_or(READ));
                let block = read_block(&mut file, size).await?;
                let remaining = remaining - block.len() as u64;
                Ok(Some((block, (Some(file), remaining))))
            }
        });
        let chunks = blocks.flat_map(|block| {
            let (block, error) = match block {
                Ok(block) => (block, None),
                Err(error) => (Bytes::new(), Some(Err(SpoolUnreadable(error.kind())))),
            };
            stream::iter(in_chunks(block).map(Ok).chain(error))
        });
        Self::new(Box::pin(chunks), size, progress)
    }

    fn new(chunks: Chunks, remaining: u64, progress: Arc<UploadProgress>) -> Self {
        progress.sent(remaining == 0);
        Self {
            chunks,
            remaining,
            progress,
        }
    }
}

fn in_chunks(mut block: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || (!block.is_empty()).then(|| block.split_to(block.len().min(CHUNK))))
}

/// Reads exactly `size` bytes.
pub(super) async fn read_block(file: &mut tokio::fs::File, size: usize) -> io::Result<Bytes> {
    let mut block = BytesMut::with_capacity(size);
    while block.len() < size {
        let missing = (size - block.len()) as u64;
        // `take`: a buffer may have more capacity than requested.
        if file.take(missing).read_buf(&mut block).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(block.freeze())
}

impl http_body::Body for UploadBody {
    type Data = Bytes;
    type Error = SpoolUnreadable;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, SpoolUnreadable>>> {
        let this = self.get_mut();
        let chunk = std::task::ready!(this.chunks.poll_next_unpin(context));
        if let Some(Ok(chunk)) = &chunk {
            this.remaining = this.remaining.saturating_sub(chunk.len() as u64);
        }
        this.progress.sent(this.remaining == 0);
        Poll::Ready(chunk.map(|chunk| chunk.map(http_body::Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.remaining)
    }
}
