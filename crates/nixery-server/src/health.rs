//! Endpoints for programs that start, stop, balance and monitor this process.

use axum::response::Response;
use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::metrics::CONTENT_TYPE;
use crate::response::contents;
use crate::state::AppState;

/// `/healthz`: the process answers.
pub(crate) fn live() -> Response {
    text(StatusCode::OK, "ok\n".to_owned())
}

/// `/readyz`: it can also serve and build.
pub(crate) async fn ready(state: &AppState) -> Response {
    let problems = state.readiness().problems(state.builder()).await;
    if problems.is_empty() {
        text(StatusCode::OK, "ready\n".to_owned())
    } else {
        let lines = problems.join("\n");
        text(StatusCode::SERVICE_UNAVAILABLE, format!("{lines}\n"))
    }
}

/// `/metrics`: the metrics for Prometheus.
pub(crate) fn metrics(state: &AppState) -> Response {
    let builder = state.builder();
    let (running, damaged) = (builder.running(), builder.damaged_blobs());
    let text = state.metrics().render(running, damaged);
    uncached(StatusCode::OK, CONTENT_TYPE, text)
}

fn text(status: StatusCode, text: String) -> Response {
    uncached(status, "text/plain", text)
}

fn uncached(status: StatusCode, media_type: &str, text: String) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut response = contents(media_type, headers, Bytes::from(text));
    *response.status_mut() = status;
    response
}
