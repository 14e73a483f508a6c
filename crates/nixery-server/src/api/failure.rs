//! Answers failed builds so that people can read why.
//!
//! Most clients print the JSON message of an error. containerd prints only the status and the URL
//! of the last request, after redirects. So a failed build is answered by a redirect to a URL that
//! names the reason, and that URL is answered with the complete error.

use std::fmt::Write;

use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use nixery_builder::{BuildError, BuildId, ImageRequest};
use nixery_core::ImageName;
use serde_json::json;

use crate::access::Caller;
use crate::config::HttpSettings;
use crate::error::{ApiError, BuildAnswer};
use crate::host::log_link;
use crate::long_build;
use crate::query;
use crate::redact::redact;
use crate::response::redirect;
use crate::state::AppState;

/// Query parameter with the reason.
const FAILED: &str = "failed";
/// Query parameter with the path of the build's log.
const LOG: &str = "log";
/// Query parameter with the ID of the build, where clients cannot open its log.
const BUILD: &str = "build";
/// Lines of the log in the message; the link leads to the rest.
const MESSAGE_LINES: usize = 12;
/// Limit of a reason that is repeated from a URL.
const MAX_REASON_CHARS: usize = 120;

/// Redirects to the URL that names the reason why the build failed.
pub(super) fn redirect_to_reason(
    settings: &HttpSettings,
    request: &Parts,
    error: &BuildError,
    id: &BuildId,
) -> Response {
    let slug = error.slug();
    let (parameter, build) = if settings.public_pages {
        (LOG, format!("/builds/{id}"))
    } else {
        (BUILD, id.to_string())
    };
    let query = query::rewrite(
        request.uri.query(),
        &[(FAILED, &slug), (parameter, &build)],
        &[long_build::PARAMETER],
    );
    redirect(request.uri.path(), &query)
}

/// Returns the error of a failed build if the request's URL names the reason.
///
/// The error is complete where this server remembers the build. A replica or a restarted server
/// only has the URL.
pub(super) fn error_of_reason(
    state: &AppState,
    request: &Parts,
    caller: &Caller<'_>,
    asked: &ImageRequest,
) -> Option<ApiError> {
    let slug = query::value(request.uri.query(), FAILED)?;
    let log = query::value(request.uri.query(), LOG);
    let id: Option<BuildId> = match &log {
        Some(log) => log.strip_prefix("/builds/").and_then(|id| id.parse().ok()),
        None => query::value(request.uri.query(), BUILD).and_then(|id| id.parse().ok()),
    };
    let remembered = id.and_then(|id| {
        let build = state.builder().find(&id)?;
        let error = build.result()?.err()?;
        let is_of_name = build.request().name == asked.name;
        let is_visible = is_of_name && state.may_see_log(caller, &build, asked);
        is_visible.then_some((id, error))
    });
    Some(match remembered {
        Some((id, error)) => {
            let log = log_link(state.settings(), request, &id);
            complete_error(&error, &id, log.as_deref())
        }
        None => error_from_url(&slug, &asked.name),
    })
}

/// Returns the error with the last lines of the log, and where the rest is.
fn complete_error(error: &BuildError, id: &BuildId, log: Option<&str>) -> ApiError {
    let answer = BuildAnswer::of(error).into_error();
    let mut message = answer.message;
    let tail: Vec<_> = error.log_tail().iter().map(|line| redact(line)).collect();
    if !tail.is_empty() {
        message.push_str("\nThe last lines of the log:");
        for line in &tail[tail.len().saturating_sub(MESSAGE_LINES)..] {
            message.push_str("\n  ");
            message.push_str(line);
        }
    }
    // Writing to a string cannot fail.
    let _ = match log {
        Some(log) => write!(message, "\nThe complete log: {log}"),
        None => write!(
            message,
            "\nThe operator of this registry has the complete log of build {id}"
        ),
    };
    ApiError {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        message,
        detail: json!({
            "kind": error.kind(),
            "reason": error.slug(),
            "package": error.package(),
            "log": log,
            "logTail": tail,
        }),
        ..answer
    }
}

/// Returns the error as far as the URL describes it. The URL is not trusted: only the characters of
/// slugs are repeated.
fn error_from_url(slug: &str, name: &ImageName) -> ApiError {
    let reason: String = slug
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._+:-".contains(*c))
        .take(MAX_REASON_CHARS)
        .collect();
    let reason = if reason.is_empty() {
        "unknown"
    } else {
        &reason
    };
    let message = format!(
        "the image `{name}` could not be built ({reason}), and this server has no log of the build. Fix: pull the image again, which rebuilds it"
    );
    ApiError::failure(message).with_detail(json!({ "reason": reason }))
}
