//! Probes for whatever starts, stops and balances this process.

use crate::response::contents;
use crate::state::AppState;
use axum::response::Response;
use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, StatusCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// How long one look at Nix and the store counts, so that probes cost next to nothing.
const FRESH: Duration = Duration::from_secs(10);
/// Longer than a healthy store and Nix take, shorter than most probes wait.
const PATIENCE: Duration = Duration::from_secs(8);

/// What is known about whether the registry can work.
#[derive(Debug, Default)]
pub struct Readiness {
    stopping: AtomicBool,
    last: Mutex<Option<(Instant, Vec<&'static str>)>>,
}

impl Readiness {
    /// From now on the registry is not ready, so that no new work is sent to it.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// What is in the way of serving and building; empty when all is well.
    ///
    /// Names no paths and quotes no messages: the details are in the log.
    pub async fn problems(&self, state: &AppState) -> Vec<&'static str> {
        if self.stopping.load(Ordering::Relaxed) {
            return vec!["the server is stopping"];
        }
        let mut last = self.last.lock().await;
        if let Some((at, problems)) = &*last
            && at.elapsed() < FRESH
        {
            return problems.clone();
        }
        let (store, nix) = tokio::join!(look_at_store(state), look_at_nix(state));
        let problems: Vec<_> = store.into_iter().chain(nix).collect();
        *last = Some((Instant::now(), problems.clone()));
        problems
    }
}

async fn look_at_store(state: &AppState) -> Option<&'static str> {
    match timeout(PATIENCE, state.builder().storage().check()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            tracing::warn!(error = %crate::text::explain(&error), "the blob store does not work");
            Some("the blob store does not work")
        }
        Err(_) => {
            tracing::warn!(after = ?PATIENCE, "the blob store does not answer");
            Some("the blob store does not answer")
        }
    }
}

async fn look_at_nix(state: &AppState) -> Option<&'static str> {
    let Ok(findings) = timeout(PATIENCE, state.builder().nix().preflight()).await else {
        tracing::warn!(after = ?PATIENCE, "Nix does not answer");
        return Some("Nix does not answer");
    };
    let fatal = findings.into_iter().find(|finding| finding.fatal)?;
    let (problem, remedy) = (fatal.problem, fatal.remedy);
    tracing::warn!(problem, remedy, "Nix does not work");
    Some("Nix does not work")
}

/// `/healthz`: the process answers.
pub(crate) fn live() -> Response {
    text(StatusCode::OK, "ok\n".to_owned())
}

/// `/readyz`: it can also serve and build.
pub(crate) async fn ready(state: &AppState) -> Response {
    let problems = state.readiness().problems(state).await;
    if problems.is_empty() {
        text(StatusCode::OK, "ready\n".to_owned())
    } else {
        let lines = problems.join("\n");
        text(StatusCode::SERVICE_UNAVAILABLE, format!("{lines}\n"))
    }
}

fn text(status: StatusCode, text: String) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut response = contents("text/plain", headers, Bytes::from(text));
    *response.status_mut() = status;
    response
}
