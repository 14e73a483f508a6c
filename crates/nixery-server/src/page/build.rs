//! The page of one build: its state and its log.

use axum::response::Response;
use http::header::{ACCEPT, VARY};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use maud::html;
use nixery_builder::{BuildId, BuildState, BuildSummary, ImageRequest};
use nixery_core::Tag;

use super::start::{requested, state as state_markup};
use super::{REFRESH_RUNNING, page, wants_plain};
use crate::access::Caller;
use crate::error::ApiError;
use crate::host::pull_host;
use crate::redact::redact;
use crate::response::{self, REVALIDATE};
use crate::state::AppState;
use crate::text::{duration, timestamp};

/// `/builds/ID`: a page for browsers, the plain log for everything else.
///
/// # Errors
/// There is no such build that the caller may know of.
pub(crate) fn build(
    state: &AppState,
    request: &Parts,
    caller: &Caller<'_>,
    id: &str,
) -> Result<Response, ApiError> {
    let plain = wants_plain(&request.headers);
    let found = id.parse().ok().and_then(|id: BuildId| {
        let build = state.builder().find(&id)?;
        // A client that pulled `latest` may have joined a build that was started for a version.
        let at_default = ImageRequest {
            name: build.request().name.clone(),
            tag: Tag::latest(),
        };
        if !state.may_see_log(caller, &build, &at_default) {
            return None;
        }
        // Traces of evaluations name the files of the package set.
        let log = redact(&build.log().text());
        Some((build.summary(), log))
    });
    let Some((build, log)) = found else {
        return Err(caller.no_build());
    };
    Ok(if plain {
        plain_log(log)
    } else {
        let host = pull_host(state.settings(), request);
        log_page(&build, &requested(state, &build), &log, &host)
    })
}

fn plain_log(mut text: String) -> Response {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let mut answer = response::page(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        REVALIDATE,
        text,
    );
    answer.headers_mut().insert(VARY, HeaderValue::from(ACCEPT));
    answer
}

/// Returns why the log is empty.
fn empty_log_reason(state: &BuildState) -> &'static str {
    match state {
        BuildState::Running(_) => "The build has printed nothing yet.",
        BuildState::Succeeded {
            from_cache: true, ..
        } => "The image was cached: nothing was built.",
        BuildState::Succeeded { .. } | BuildState::Failed(_) => "The build printed nothing.",
    }
}

fn log_page(build: &BuildSummary, image: &str, log: &str, host: &str) -> Response {
    let running = matches!(build.state, BuildState::Running(_));
    let body = html! {
        h1 { (image) }
        div id="live" {
            dl class="facts" {
                dt { "State" } dd { (state_markup(&build.state)) }
                dt { "Started" } dd { time datetime=(timestamp(build.started)) { (timestamp(build.started)) } }
                dt { @if running { "Running for" } @else { "Took" } } dd { (duration(build.elapsed)) }
                @if let BuildState::Succeeded { digest, .. } = &build.state {
                    dt { "Manifest" } dd { code { (digest) } }
                }
                dt { "Pull" } dd { code { "docker pull " (host) "/" (image) } }
            }
            h2 { "Log" }
            @if log.is_empty() {
                p class="empty" { (empty_log_reason(&build.state)) }
            } @else {
                pre class="log" tabindex="0" role="region" aria-label="Log" { (log) }
            }
        }
    };
    page(
        StatusCode::OK,
        &format!("Build of {image}"),
        running.then_some(REFRESH_RUNNING),
        &body,
    )
}
