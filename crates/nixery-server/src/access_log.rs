//! One log line for each request, written when its last byte was handed over.

use crate::route::Route;
use crate::state::AppState;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, USER_AGENT};
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// What a request was about, for its log line and the counters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject {
    route: &'static str,
    /// Whether the line is only of interest to those who look for it.
    quiet: bool,
}

impl Subject {
    /// A path that names nothing.
    pub(crate) const UNKNOWN: Self = Self {
        route: "unknown",
        quiet: false,
    };

    pub(crate) fn of(route: &Route) -> Self {
        let (route, quiet) = match route {
            Route::Start => ("start", true),
            Route::Build(_) => ("build", true),
            Route::Asset(_) => ("asset", true),
            Route::Live => ("live", true),
            Route::Ready => ("ready", true),
            Route::Metrics => ("metrics", true),
            Route::ApiVersion => ("version", true),
            Route::Manifest { .. } => ("manifest", false),
            Route::Blob { .. } => ("blob", false),
            Route::Tags { .. } => ("tags", false),
            Route::Referrers { .. } => ("referrers", false),
        };
        Self { route, quiet }
    }
}

/// Middleware that counts and logs.
pub(crate) async fn log_requests(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let mut entry = Entry {
        state,
        started: Instant::now(),
        method: request.method().to_string(),
        // A path holds no control characters, or it would not have been parsed.
        path: request.uri().path().to_owned(),
        client: request
            .headers()
            .get(USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        subject: Subject::UNKNOWN,
        status: None,
        sent: 0,
        expected: None,
    };
    // If the client goes away before the answer, the entry is dropped here, and says so.
    let response = next.run(request).await;
    if let Some(subject) = response.extensions().get::<Subject>() {
        entry.subject = *subject;
    }
    entry.status = Some(response.status().as_u16());
    let (parts, inner) = response.into_parts();
    // A stream does not know its length, the header does. Answers without a body have an exact length of nothing.
    let announced = parts.headers.get(CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse().ok());
    entry.expected = http_body::Body::size_hint(&inner).exact().or(announced);
    Response::from_parts(parts, Body::new(Counted { inner, entry }))
}

/// Writes the log line when it is dropped, however the request ended.
struct Entry {
    state: AppState,
    started: Instant,
    method: String,
    path: String,
    client: String,
    subject: Subject,
    status: Option<u16>,
    sent: u64,
    expected: Option<u64>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let metrics = self.state.metrics();
        metrics.count_bytes(self.sent);
        // 499 is the custom of several servers for a client that went away.
        let status = self.status.unwrap_or(499);
        metrics.count_request(self.subject.route, status);
        let cut = self.status.is_none() || self.expected.is_some_and(|all| self.sent < all);
        // Only there where it says something.
        let aborted = cut.then_some(true);
        let milliseconds = self.started.elapsed().as_secs_f64() * 1000.0;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    status,
                    method = %self.method,
                    path = %self.path,
                    ms = (milliseconds * 10.0).round() / 10.0,
                    bytes = self.sent,
                    client = %self.client,
                    aborted,
                    "request"
                )
            };
        }
        if self.subject.quiet && status < 500 {
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
                let error = crate::api::chain(error);
                tracing::error!(path = self.entry.path, error, "an answer was cut short");
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
