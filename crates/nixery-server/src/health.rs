//! Endpoints for programs that start, stop and monitor this process.

use axum::response::Response;
use http::StatusCode;

use crate::metrics::CONTENT_TYPE;
use crate::response::{NO_STORE, page};
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
    page(StatusCode::OK, CONTENT_TYPE, NO_STORE, text)
}

fn text(status: StatusCode, text: String) -> Response {
    page(status, "text/plain", NO_STORE, text)
}
