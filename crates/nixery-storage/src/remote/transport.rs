//! [`Transport`]: sends the requests that opendal builds, with time-outs and retries.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response};
use opendal::raw::{Operation, ServiceOperation};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport};

use super::RemoteLimits;
use super::backoff;
use super::body::{Progress, Sending};
use super::fault::{Answer, End, Fault, Met, Seen};

/// A connection is made in milliseconds or not at all; the rest is for far regions.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts that may run into a time-out: a store that swallows requests is not waited for ten
/// times over.
const MAX_TIMEOUTS: u32 = 3;
/// Attempts to fetch credentials: most machines have no service that gives some.
const CREDENTIAL_ATTEMPTS: u32 = 2;
/// Answers that are read whole are pages of listings and errors. A page of 1000 is below 1 MB.
const MAX_ANSWER: usize = 32 << 20;

/// The HTTP client of one store. Follows no redirect: a signature is for one URL.
pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("nixery/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Sends the requests of one call.
pub(super) struct Transport {
    pub(super) client: reqwest::Client,
    pub(super) limits: RemoteLimits,
    pub(super) seen: Arc<Seen>,
    pub(super) media: Media,
}

/// What the request that writes an object gets from us and not from opendal.
#[derive(Clone, Debug, Default)]
pub(super) struct Media {
    /// Its `Content-Type`.
    pub(super) content_type: Option<&'static str>,
    /// A file that is sent in place of the request's own body.
    pub(super) file: Option<(PathBuf, u64)>,
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        // opendal marks the requests to the store; those for credentials go elsewhere.
        if request.extensions().get::<ServiceOperation>().is_none() {
            return self.fetch_credentials(request).await;
        }
        let mut timeouts = 0;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut pause = backoff::wait(attempt);
            let (end, received) = match self.attempt(&request).await {
                Ok((answer, received)) => {
                    let headers = received.headers().clone();
                    pause = pause.max(asked_pause(&headers));
                    (End::Answered(answer, headers), Some(received))
                }
                Err(fault) => {
                    timeouts += u32::from(matches!(fault, Fault::TimedOut(_)));
                    (End::Unanswered(fault), None)
                }
            };
            let temporary = match &end {
                End::Answered(answer, _) => answer.is_temporary(),
                End::Unanswered(Fault::Impossible(_) | Fault::Spool(_)) => false,
                End::Unanswered(_) => true,
            };
            if !temporary || attempt >= self.limits.attempts || timeouts >= MAX_TIMEOUTS {
                self.seen.met(Met {
                    attempts: attempt,
                    exhausted: temporary || received.is_none(),
                    end,
                });
                // What it was stands in `seen`.
                return received
                    .ok_or_else(|| Error::new(ErrorKind::Unexpected, "the store gave no answer"));
            }
            tracing::debug!(
                attempt,
                ?pause,
                "a request to the store failed and is sent again"
            );
            tokio::time::sleep(pause).await;
        }
    }
}

impl Transport {
    /// Asks a metadata or token service. Its answers are not the store's, and where there is no
    /// such service, that shows soon.
    async fn fetch_credentials(
        &self,
        request: Request<Buffer>,
    ) -> opendal::Result<Response<HttpBody>> {
        let attempts = self.limits.attempts.min(CREDENTIAL_ATTEMPTS);
        for attempt in 1..=attempts {
            let why = match self.attempt(&request).await {
                Ok((answer, _)) if answer.is_temporary() => answer.status.to_string(),
                Ok((_, received)) => return Ok(received),
                Err(Fault::TimedOut(why) | Fault::Broken(why) | Fault::Impossible(why)) => why,
                Err(Fault::Spool(error)) => error.to_string(),
            };
            self.seen.no_credentials(why);
            if attempt < attempts {
                tokio::time::sleep(backoff::wait(attempt)).await;
            }
        }
        Err(Error::new(
            ErrorKind::Unexpected,
            "no credentials could be fetched",
        ))
    }

    /// Sends the request once. Only a successful read's body is left to be streamed.
    async fn attempt(
        &self,
        request: &Request<Buffer>,
    ) -> Result<(Answer, Response<HttpBody>), Fault> {
        let progress = Progress::new();
        let sending = self.build(request, &progress)?.send();
        let response = tokio::select! {
            response = sending => response.map_err(fault)?,
            () = progress.stalled(&self.limits) => {
                return Err(Fault::TimedOut("no answer in time".to_owned()));
            }
        };
        let (status, headers) = (response.status(), response.headers().clone());
        let operation = request.extensions().get::<Operation>();
        if status.is_success()
            && operation == Some(&Operation::Read)
            && request.method() == Method::GET
        {
            let chunks = response
                .bytes_stream()
                .map_ok(Buffer::from)
                .map_err(|error| Error::new(ErrorKind::Unexpected, text(error)));
            // The length is checked where the body is read.
            let received = respond(status, headers, HttpBody::new(chunks, None));
            return Ok((Answer::success(status), received));
        }
        let body = self.whole(response).await?;
        let answer = if status.is_success() {
            Answer::success(status)
        } else {
            Answer::parse(status, &body)
        };
        let body = HttpBody::new(stream::iter([Ok(Buffer::from(body))]), None);
        Ok((answer, respond(status, headers, body)))
    }

    fn build(
        &self,
        request: &Request<Buffer>,
        progress: &Arc<Progress>,
    ) -> Result<reqwest::RequestBuilder, Fault> {
        let url = reqwest::Url::parse(&request.uri().to_string())
            .map_err(|error| Fault::Impossible(format!("the store's URL is malformed: {error}")))?;
        let mut headers = request.headers().clone();
        let mut body = None;
        if request.extensions().get::<Operation>() == Some(&Operation::Write) {
            if let Some(content_type) = self.media.content_type {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            }
            if let Some((path, size)) = &self.media.file {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(*size));
                body = Some(Sending::file(path.clone(), *size, Arc::clone(progress)));
            }
        }
        let body = body.unwrap_or_else(|| {
            let bytes = Iterator::collect(request.body().clone());
            Sending::bytes(bytes, Arc::clone(progress))
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

    /// Reads an answer that is no object: within the attempt, so that a broken one is asked for
    /// again.
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
                    return Err(Fault::Impossible(
                        "the store's answer is absurdly long".to_owned(),
                    ));
                }
                Ok(Some(Err(error))) => return Err(fault(error)),
                Err(_) => {
                    return Err(Fault::TimedOut(
                        "the answer stopped in the middle".to_owned(),
                    ));
                }
            }
        }
    }
}

fn respond(status: http::StatusCode, headers: HeaderMap, body: HttpBody) -> Response<HttpBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The store's wish, as far as it is modest.
fn asked_pause(headers: &HeaderMap) -> Duration {
    headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map_or(Duration::ZERO, Duration::from_secs)
        .min(backoff::LONGEST)
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
        Fault::Impossible(text(error))
    } else {
        Fault::Broken(text(error))
    }
}

/// Marks, within a failed request's reasons, that our own file was at fault.
#[derive(Debug, thiserror::Error)]
#[error("the file to upload cannot be read")]
pub(super) struct SpoolUnreadable(pub(super) io::ErrorKind);

/// The error and its reasons without the URL, which may carry a signature.
fn text(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
