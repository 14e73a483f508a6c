//! Writes one log line for each request, when its last byte has been handed over.

use std::error::Error;
use std::iter::successors;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, USER_AGENT};
use http::request::Parts;
use http::{HeaderValue, Method, Uri};
use http_body::{Frame, SizeHint};
use nixery_storage::error_chain;

use crate::client::client_address;
use crate::downloads::DownloadCancelled;
use crate::metrics::Metrics;
use crate::route::Route;
use crate::state::AppState;

impl Entry {
    /// Returns the entry of a request that begins now.
    pub(crate) fn new(state: &AppState, request: &Parts) -> Self {
        Self {
            metrics: Arc::clone(state.metrics()),
            started: Instant::now(),
            method: request.method.clone(),
            uri: request.uri.clone(),
            address: client_address(request),
            user: None,
            client: request.headers.get(USER_AGENT).cloned(),
            route: "unknown",
            quiet: false,
            status: None,
            sent: 0,
            expected: None,
        }
    }

    /// Sets what the request asks for.
    pub(crate) fn set_route(&mut self, route: &Route) {
        (self.route, self.quiet) = match route {
            Route::Start => ("start", true),
            Route::Build(_) => ("build", true),
            Route::Asset(_) => ("asset", true),
            Route::Live => ("live", true),
            Route::Ready => ("ready", true),
            Route::Metrics => ("metrics", true),
            Route::Token => ("token", true),
            Route::ApiVersion => ("version", true),
            Route::Manifest { .. } => ("manifest", false),
            Route::Blob { .. } => ("blob", false),
            Route::Tags { .. } => ("tags", false),
            Route::Referrers { .. } => ("referrers", false),
        };
    }

    /// Sets the user who sent the request.
    pub(crate) fn set_user(&mut self, user: Option<&str>) {
        self.user = user.map(str::to_owned);
    }

    /// Returns the response with a body that counts its bytes, and writes the line at its end.
    pub(crate) fn follow(mut self, response: Response) -> Response {
        self.status = Some(response.status().as_u16());
        let (parts, inner) = response.into_parts();
        // The length of a stream stands in the header alone. An answer without a body has the exact
        // length 0.
        let announced = parts.headers.get(CONTENT_LENGTH);
        let announced = announced.and_then(|value| value.to_str().ok()?.parse().ok());
        self.expected = http_body::Body::size_hint(&inner).exact().or(announced);
        let entry = self;
        Response::from_parts(parts, Body::new(Counted { inner, entry }))
    }
}

/// Counts the request and writes its line when it is dropped, however the request ended, even if
/// the client disconnects before the answer.
pub(crate) struct Entry {
    metrics: Arc<Metrics>,
    started: Instant,
    method: Method,
    uri: Uri,
    /// The address of the client, where it is known.
    address: Option<IpAddr>,
    /// The user, if there was a login.
    user: Option<String>,
    client: Option<HeaderValue>,
    /// The label in the metrics.
    route: &'static str,
    /// Whether the line is logged at `debug` only.
    quiet: bool,
    status: Option<u16>,
    sent: u64,
    expected: Option<u64>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.metrics.count_bytes(self.sent);
        // 499 is what several servers log for a client that disconnected.
        let status = self.status.unwrap_or(499);
        self.metrics.count_request(self.route, status, took);
        let cut = self.status.is_none() || self.expected.is_some_and(|all| self.sent < all);
        // An absent field is left out of the line.
        let aborted = cut.then_some(true);
        let client = self.client.as_ref().and_then(|value| value.to_str().ok());
        let address = self.address;
        let milliseconds = took.as_secs_f64() * 1000.0;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    status,
                    method = self.method.as_str(),
                    // A path with control characters is not parsed.
                    path = self.uri.path(),
                    ms = (milliseconds * 10.0).round() / 10.0,
                    bytes = self.sent,
                    address = address.as_ref().map(tracing::field::display),
                    user = self.user,
                    client = client.unwrap_or_default(),
                    aborted,
                    "request"
                )
            };
        }
        if self.quiet && status < 500 {
            line!(debug);
        } else {
            line!(info);
        }
    }
}

struct Counted {
    inner: Body,
    entry: Entry,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                self.entry.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Some(Err(error)) => {
                let mut chain = successors(Some(error as &dyn Error), |error| (*error).source());
                let cancelled = chain.any(|error| error.is::<DownloadCancelled>());
                let (path, error) = (self.entry.uri.path(), error_chain(error));
                if cancelled {
                    tracing::debug!(path, error, "an answer was cut short");
                } else {
                    tracing::error!(path, error, "an answer was cut short");
                }
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
