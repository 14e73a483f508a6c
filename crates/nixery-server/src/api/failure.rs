//! Failures people can read.
//!
//! Most clients print the JSON message of an error. containerd prints only the status and the URL of the last
//! request, after redirects. So a failed build is answered by a redirect to a URL that says why in words, and that URL
//! answers with the whole story.

use std::fmt::Write;

use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use nixery_builder::{BuildError, BuildId};
use nixery_core::ImageName;
use serde_json::json;

use crate::error::{ApiError, BuildAnswer};
use crate::hold;
use crate::host::absolute;
use crate::query;
use crate::redact::redact;
use crate::response::redirect;
use crate::state::AppState;

/// Query parameter with the reason in words.
const FAILED: &str = "failed";
/// Query parameter with the path of the build's log.
const LOG: &str = "log";
/// Lines of the log in the message; the rest is behind the link.
const MESSAGE_LINES: usize = 12;
/// The longest reason that is repeated from a URL.
const LONGEST_REASON: usize = 120;

/// The redirect to the URL that says why the build failed. `log` is a path of this server.
pub(super) fn tell(request: &Parts, error: &BuildError, log: &str) -> Response {
    let slug = error.slug();
    let query = query::rewrite(
        request.uri.query(),
        &[(FAILED, &slug), (LOG, log)],
        &[hold::PARAMETER],
    );
    redirect(request.uri.path(), &query)
}

/// The error of a URL that says why a build failed, if this is one.
///
/// The build's memory knows best; a replica or a restarted server only has what the URL says.
pub(super) fn told(state: &AppState, request: &Parts, name: &ImageName) -> Option<ApiError> {
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
        Some((id, error)) => whole_story(&error, &link(&id)),
        None => from_words(&slug, name),
    })
}

fn whole_story(error: &BuildError, log: &str) -> ApiError {
    let answer = BuildAnswer::of(error).into_error();
    let mut message = answer.message;
    let tail: Vec<_> = error.log_tail().iter().map(|line| redact(line)).collect();
    if !tail.is_empty() {
        message.push_str("\nThe last lines of its log:");
        for line in &tail[tail.len().saturating_sub(MESSAGE_LINES)..] {
            message.push_str("\n  ");
            message.push_str(line);
        }
    }
    // Writing to a string cannot fail.
    let _ = write!(message, "\nThe whole log: {log}");
    let package = match error {
        BuildError::NotDerivation { package, .. } | BuildError::Failed { package, .. } => {
            Some(package)
        }
        BuildError::Evaluation { package, .. } => package.as_ref(),
        _ => None,
    };
    ApiError {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        message,
        detail: json!({
            "kind": error.kind(),
            "reason": error.slug(),
            "package": package,
            "log": log,
            "logTail": tail,
        }),
        ..answer
    }
}

/// The error as far as the URL tells it. What it says is not trusted: only the characters of slugs are repeated.
fn from_words(slug: &str, name: &ImageName) -> ApiError {
    let reason: String = slug
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._+:-".contains(*c))
        .take(LONGEST_REASON)
        .collect();
    let reason = if reason.is_empty() {
        "unknown"
    } else {
        &reason
    };
    let message = format!(
        "the image `{name}` could not be built ({reason}). This server does not remember the build; pull the image again to build it again"
    );
    ApiError::failure(message).with_detail(json!({ "reason": reason }))
}
