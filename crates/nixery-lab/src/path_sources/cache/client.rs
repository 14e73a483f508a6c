//! Fetching narinfo files over HTTP.

use std::error::Error;
use std::time::Duration;

use nixery_core::StorePath;
use nixery_storage::{Backoff, install_tls_provider};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response, StatusCode, Url};

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

/// Why an attempt failed, and whether another is worthwhile.
struct AttemptError {
    source: Box<dyn Error + Send + Sync>,
    retry: Retry,
}

enum Retry {
    Never,
    Soon,
    /// After the time that the server asks for.
    After(Duration),
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
            let AttemptError { source, retry } = match self.attempt(&url).await {
                Ok(narinfo) => return Ok(narinfo.map(|text| (url, text))),
                Err(error) => error,
            };
            let wait = match retry {
                Retry::Soon if attempt < attempts => BACKOFF.wait(attempt),
                Retry::After(wait) if attempt < attempts => wait,
                _ => {
                    let attempts = attempt;
                    return Err(PathSourceError::Fetch {
                        url,
                        attempts,
                        source,
                    });
                }
            };
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, url: &str) -> Result<Option<String>, AttemptError> {
        let mut response = self.client.get(url).send().await?;
        let status = response.status();
        let retry = match status {
            // Caches on S3 answer 403 for a missing object.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::GONE => return Ok(None),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => retry_after(&response),
            status if status.is_server_error() => retry_after(&response),
            _ => Retry::Never,
        };
        if !status.is_success() {
            let source = format!("the cache answers {}", status.as_u16()).into();
            return Err(AttemptError { source, retry });
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_NARINFO {
                return Err(AttemptError {
                    source: "the answer is over 1 MiB, so it is not a .narinfo file".into(),
                    retry: Retry::Never,
                });
            }
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

impl From<reqwest::Error> for AttemptError {
    fn from(error: reqwest::Error) -> Self {
        Self {
            source: error.without_url().into(),
            retry: Retry::Soon,
        }
    }
}

fn retry_after(response: &Response) -> Retry {
    let header = response.headers().get(RETRY_AFTER);
    let seconds = header.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
    seconds.map_or(Retry::Soon, |seconds| {
        Retry::After(Duration::from_secs(seconds).min(LONGEST_WAIT))
    })
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
            assert!(wait >= full / 2 && wait <= full, "{wait:?}");
        }
    }
}
