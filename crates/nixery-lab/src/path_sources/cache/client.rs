//! Fetching narinfo files over HTTP.

use std::error::Error;
use std::time::Duration;

use nixery_core::StorePath;
use nixery_storage::{Backoff, install_tls_provider};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response, Url};

use crate::path_sources::PathSourceError;

/// Limit of the size of a narinfo file. Most have a few hundred bytes; one with ten thousand
/// references has half of this limit.
const MAX_NARINFO: usize = 1 << 20;
/// Limit of one attempt, from connecting to the last byte.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Wait after the first failure; doubled after each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Limit of each wait, even if a server asks for more.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The waits between attempts.
const BACKOFF: Backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);

/// Why an attempt failed.
struct AttemptError {
    source: Box<dyn Error + Send + Sync>,
    /// Time until another attempt, if it may succeed.
    retry: Option<Duration>,
}

#[derive(Debug, Clone)]
pub(super) struct NarinfoClient {
    base: String,
    client: Client,
}

impl NarinfoClient {
    pub(super) fn new(url: &str) -> Result<Self, PathSourceError> {
        let is_http = url.starts_with("http://") || url.starts_with("https://");
        if !is_http || Url::parse(url).is_err() {
            return Err(PathSourceError::BadUrl { url: url.into() });
        }
        install_tls_provider();
        let client = Client::builder()
            .timeout(ATTEMPT_TIMEOUT)
            .user_agent(concat!("nixery/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client.map_err(|error| PathSourceError::Fetch {
            url: url.into(),
            attempts: 0,
            source: format!("the HTTP client cannot be set up: {error}").into(),
        })?;
        let base = url.trim_end_matches('/').to_owned();
        Ok(Self { base, client })
    }

    /// Returns a path's narinfo with its URL; `None` if the cache does not have it.
    pub(super) async fn narinfo(
        &self,
        path: &StorePath,
        attempts: u32,
    ) -> Result<Option<(String, String)>, PathSourceError> {
        let url = format!("{}/{}.narinfo", self.base, path.hash_part());
        let mut attempt = 1;
        loop {
            let AttemptError { source, retry } = match self.attempt(&url, attempt).await {
                Ok(narinfo) => return Ok(narinfo.map(|text| (url, text))),
                Err(error) => error,
            };
            let Some(wait) = retry.filter(|_| attempt < attempts) else {
                return Err(PathSourceError::Fetch {
                    url,
                    attempts: attempt,
                    source,
                });
            };
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, url: &str, attempt: u32) -> Result<Option<String>, AttemptError> {
        let soon = BACKOFF.wait(attempt);
        let broken = |error: reqwest::Error| AttemptError {
            source: error.without_url().into(),
            retry: Some(soon),
        };
        let refused = |source: String, retry| AttemptError {
            source: source.into(),
            retry,
        };
        let mut response = self.client.get(url).send().await.map_err(broken)?;
        let status = response.status();
        // Caches on S3 answer 403 for a missing object.
        if matches!(status.as_u16(), 403 | 404 | 410) {
            return Ok(None);
        }
        if !status.is_success() {
            let is_transient = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
            let retry = is_transient.then(|| retry_after(&response).unwrap_or(soon));
            return Err(refused(
                format!("the cache answers {}", status.as_u16()),
                retry,
            ));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_NARINFO {
                let problem = "the answer is over 1 MiB, so it is not a .narinfo file";
                return Err(refused(problem.to_owned(), None));
            }
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.parse().ok()?).min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_bounded() {
        for attempt in 1..40 {
            let full = FIRST_WAIT
                .saturating_mul(1 << (attempt - 1).min(16))
                .min(LONGEST_WAIT);
            let wait = BACKOFF.wait(attempt);
            assert!(wait >= full * 3 / 4 && wait <= full * 5 / 4, "{wait:?}");
        }
    }
}
