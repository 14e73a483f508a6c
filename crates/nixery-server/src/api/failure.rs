//! Answers failed builds so that people can read why.
//!
//! Most clients print the JSON message of an error. containerd prints only the status and the URL
//! of the last request, after redirects. So a failed build is answered by a redirect to a URL that
//! names the reason, and that URL is answered with the complete error.

use std::fmt::Write;

use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use nixery_builder::{BuildError, BuildId};
use nixery_core::ImageName;
use serde_json::json;

use crate::error::{ApiError, BuildAnswer};
use crate::host::absolute;
use crate::long_build;
use crate::query;
use crate::redact::redact;
use crate::response::redirect;
use crate::state::AppState;

/// Query parameter with the reason.
const FAILED: &str = "failed";
/// Query parameter with the path of the build's log.
const LOG: &str = "log";
/// Lines of the log in the message; the link leads to the rest.
const MESSAGE_LINES: usize = 12;
/// Limit of a reason that is repeated from a URL.
const MAX_REASON_CHARS: usize = 120;

/// Redirects to the URL that names the reason why the build failed. `log` is a path of this server.
pub(super) fn redirect_to_reason(request: &Parts, error: &BuildError, log: &str) -> Response {
    let slug = error.slug();
    let query = query::rewrite(
        request.uri.query(),
        &[(FAILED, &slug), (LOG, log)],
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
    name: &ImageName,
) -> Option<ApiError> {
    let slug = query::value(request.uri.query(), FAILED)?;
    let id: Option<BuildId> = query::value(request.uri.query(), LOG)
        .and_then(|log| log.strip_prefix("/builds/")?.parse().ok());
    let link = |id: &BuildId| {
        let path = format!("/builds/{id}");
        absolute(state.settings(), request, &path)
    };
    let remembered = id.and_then(|id| {
        let build = state.builder().find(&id)?;
        let error = build.result()?.err()?;
        (build.request().name == *name).then_some((id, error))
    });
    Some(match remembered {
        Some((id, error)) => complete_error(&error, &link(&id)),
        None => error_from_url(&slug, name),
    })
}

fn complete_error(error: &BuildError, log: &str) -> ApiError {
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
    let _ = write!(message, "\nThe complete log: {log}");
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
