//! Lets clients wait for long builds.
//!
//! containerd gives up 30 s after a request. So a request for a manifest waits for less than that,
//! and is then redirected to itself with a count in its query; clients follow ten redirects. After
//! eight, the answer is 429 with the time to ask again. containerd does so for some minutes.

use std::time::Duration;

use axum::response::Response;
use http::{StatusCode, Uri};
use nixery_builder::{BuildHandle, BuildResult, Phase};

use crate::error::{ApiError, Code, RETRY_SECONDS};
use crate::query;
use crate::response::redirect;

/// Limit of redirects of one request. Clients follow ten; one may be needed for the reason of a
/// failure, and one for a mirror.
pub const MAX_HOLDS: u32 = 8;
/// Name of the query parameter that counts the redirects.
pub(crate) const PARAMETER: &str = "hold";

/// Waits for the build, and returns its result if it ends in time. A build continues without a
/// waiting client.
pub(crate) async fn wait_for_build(handle: &BuildHandle, limit: Duration) -> Option<BuildResult> {
    tokio::time::timeout(limit, handle.wait()).await.ok()
}

/// Redirects a request whose build has not ended to itself.
///
/// # Errors
/// The request was redirected [`MAX_HOLDS`] times: 429 with the time to ask again.
pub(crate) fn redirect_to_self(
    uri: &Uri,
    handle: &BuildHandle,
    log: &str,
) -> Result<Response, ApiError> {
    let count = count(uri.query());
    if count < MAX_HOLDS {
        let next = (count + 1).to_string();
        let query = query::rewrite(uri.query(), &[(PARAMETER, &next)], &[]);
        return Ok(redirect(uri.path(), &query));
    }
    let progress = handle.progress().borrow().clone();
    let doing = match progress.phase {
        Phase::Pack | Phase::Assemble | Phase::Store => format!(
            "{} of {} layers are stored",
            progress.layers_done, progress.layers_total
        ),
        phase => phase.describe().to_owned(),
    };
    let message = format!(
        "the image is still being built ({doing}). Fix: pull it again in a few minutes; the build continues. Its log: {log}"
    );
    let (status, code) = (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests);
    Err(ApiError::new(status, code, message).retry_after(RETRY_SECONDS))
}

/// Returns how often the request was redirected already; an invalid count is 0.
fn count(query: Option<&str>) -> u32 {
    query::value(query, PARAMETER)
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, 0)]
    #[case(Some("hold=8"), 8)]
    #[case(Some("hold=many"), 0)]
    #[case(Some("hold=-1"), 0)]
    #[case(Some("hold=4000000000"), 4_000_000_000)]
    fn the_count_is_read_leniently(#[case] query: Option<&str>, #[case] expected: u32) {
        assert_eq!(count(query), expected);
    }
}
