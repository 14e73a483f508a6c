//! Waiting for a build without wearing out clients.
//!
//! containerd gives up on a response 30 s after asking. So a manifest request is held for less than that, then
//! redirected to itself with a count in its query; clients follow ten redirects. After eight they are told to come
//! back later, which containerd does of its own accord for some minutes more.

use std::time::Duration;

use axum::response::Response;
use http::{StatusCode, Uri};
use nixery_builder::{BuildHandle, BuildResult, Phase};

use crate::error::{ApiError, Code};
use crate::query;
use crate::response::redirect;

/// Redirects of one request. Clients follow ten; one more may be needed to tell of a failure, and one for a mirror.
pub const MOST_HOLDS: u32 = 8;
/// Name of the query parameter that counts them.
pub(crate) const PARAMETER: &str = "hold";
/// Time after which a client that was held to the end shall ask again, in seconds.
const RETRY_SECONDS: u64 = 10;

/// The build's result if it ends in time.
///
/// The build goes on whether or not anybody waits.
pub(crate) async fn wait(handle: &BuildHandle, limit: Duration) -> Option<BuildResult> {
    tokio::time::timeout(limit, handle.wait()).await.ok()
}

/// The answer to a request whose build has not ended.
///
/// # Errors
/// The request was redirected often enough: 429 with the time to come back.
pub(crate) fn later(uri: &Uri, handle: &BuildHandle, log: &str) -> Result<Response, ApiError> {
    let count = count(uri.query());
    if count < MOST_HOLDS {
        let next = (count + 1).to_string();
        let query = query::rewrite(uri.query(), &[(PARAMETER, &next)], &[]);
        return Ok(redirect(uri.path(), &query));
    }
    let progress = handle.progress().borrow().clone();
    let doing = match progress.phase {
        Phase::Queued => "it waits for its turn".to_owned(),
        Phase::Waiting => "another server makes it".to_owned(),
        Phase::Pack | Phase::Assemble | Phase::Store => format!(
            "{} of {} layers are stored",
            progress.layers_done, progress.layers_total
        ),
        phase => format!("phase {phase}"),
    };
    let message = format!(
        "the image is still being built ({doing}); pull it again in a while, the build goes on. Its log: {log}"
    );
    Err(ApiError {
        message,
        ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests, "")
            .retry_after(RETRY_SECONDS)
    })
}

/// How often the request was redirected already; what is no number counts as never.
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
