//! Reading a binary cache: `GET CACHE/<hash>.narinfo` for each wanted path.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use nixery_core::StorePath;
use nixery_storage::Backoff;

use crate::reference_sink::ReferenceSink;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response, StatusCode};

use super::{PathSourceError, StateFile};

/// A narinfo file has a few hundred bytes; one with ten thousand references half of this.
const MAX_NARINFO: usize = 1 << 20;
/// For one attempt, from connecting to the last byte.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Wait after the first failure; doubled after each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Never wait longer, whatever a server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The waits between attempts.
const BACKOFF: Backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
/// Length of the hash that begins a store path's name.
const HASH_LEN: usize = 32;

/// How to talk to a binary cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// Requests at once; 0 counts as 1.
    pub parallel: usize,
    /// How often a request is tried before the reading stops; 0 counts as 1.
    pub attempts: u32,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            parallel: 16,
            attempts: 6,
        }
    }
}

/// A store path whose narinfo is wanted, known by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WantedPath(StorePath);

impl WantedPath {
    /// Reads one per line: a store path, a base name or a bare hash. What follows a blank, empty
    /// lines and lines that begin with `#` are passed over. Each hash comes out once.
    ///
    /// # Errors
    /// [`PathSourceError::WantedLine`] names the first line that is none.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, PathSourceError> {
        let mut seen = std::collections::HashSet::new();
        let mut wanted = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let Some(word) = line.split_whitespace().next() else {
                continue;
            };
            if word.starts_with('#') {
                continue;
            }
            let path = Self::parse(word).ok_or_else(|| PathSourceError::WantedLine {
                line: index + 1,
                text: line.chars().take(80).collect(),
            })?;
            if seen.insert(path.0.hash_part().to_owned()) {
                wanted.push(path);
            }
        }
        Ok(wanted)
    }

    fn parse(word: &str) -> Option<Self> {
        let path = if word.starts_with('/') {
            StorePath::parse(word)
        } else if word.len() == HASH_LEN {
            // The name is never looked at: the hash alone tells paths apart.
            StorePath::parse(&format!("/nix/store/{word}-unknown"))
        } else {
            StorePath::parse(&format!("/nix/store/{word}"))
        };
        path.ok().map(Self)
    }

    /// The hash, which names the narinfo file.
    #[must_use]
    pub fn hash_part(&self) -> &str {
        self.0.hash_part()
    }
}

/// How far the reading of a cache is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheProgress {
    /// Paths wanted.
    pub wanted: usize,
    /// Of those, read before this run.
    pub known_before: usize,
    /// Fetched and read in this run.
    pub fetched: usize,
    /// Not in the cache.
    pub missing: usize,
}

impl CacheProgress {
    /// Paths that need no more work in this run.
    #[must_use]
    pub const fn done(&self) -> usize {
        self.known_before + self.fetched + self.missing
    }
}

/// A binary cache over HTTP.
#[derive(Debug, Clone)]
pub struct BinaryCache {
    base: String,
    client: Client,
    options: CacheOptions,
}

impl BinaryCache {
    /// The cache at `url`, `https://cache.example.org`.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(url: &str, options: CacheOptions) -> Result<Self, PathSourceError> {
        if !(url.starts_with("http://") || url.starts_with("https://"))
            || reqwest::Url::parse(url).is_err()
        {
            return Err(PathSourceError::BadUrl { url: url.into() });
        }
        nixery_storage::install_tls_provider();
        let client = Client::builder()
            .timeout(ATTEMPT_TIMEOUT)
            .user_agent(concat!("nixery/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(PathSourceError::Client)?;
        Ok(Self {
            base: url.trim_end_matches('/').to_owned(),
            client,
            options,
        })
    }

    /// Fetches every wanted path that `sink` does not have yet. What the cache does not have
    /// is passed over. `state` is saved every few seconds, and when the reading ends, well or not.
    ///
    /// May be dropped at any moment: `sink` then holds what was read.
    ///
    /// # Errors
    /// The first path that cannot be fetched, after several attempts, or not be read.
    pub async fn read(
        &self,
        sink: &mut impl ReferenceSink,
        wanted: &[WantedPath],
        mut state: Option<&mut StateFile>,
        mut progress: impl FnMut(&CacheProgress),
    ) -> Result<CacheProgress, PathSourceError> {
        let todo: Vec<_> = wanted
            .iter()
            .filter(|path| !sink.contains(&path.0))
            .collect();
        let mut at = CacheProgress {
            wanted: wanted.len(),
            known_before: wanted.len() - todo.len(),
            ..CacheProgress::default()
        };
        progress(&at);
        let mut answers = stream::iter(todo)
            .map(|path| self.narinfo(path))
            .buffer_unordered(self.options.parallel.max(1));
        let mut result = Ok(());
        while let Some(answer) = answers.next().await {
            let taken = answer.and_then(|narinfo| match narinfo {
                Some((url, text)) => {
                    at.fetched += 1;
                    let malformed = |source| PathSourceError::Malformed {
                        location: url,
                        source,
                    };
                    sink.add_narinfo(&text).map_err(malformed)
                }
                None => {
                    at.missing += 1;
                    Ok(())
                }
            });
            if taken.is_err() {
                result = taken;
                break;
            }
            progress(&at);
            if let Some(state) = &mut state {
                state.save_if_due(sink)?;
            }
        }
        if let Some(state) = state {
            state.save(sink)?;
        }
        result.map(|()| at)
    }

    /// `None` where the cache does not have it.
    async fn narinfo(
        &self,
        path: &WantedPath,
    ) -> Result<Option<(String, String)>, PathSourceError> {
        let url = format!("{}/{}.narinfo", self.base, path.hash_part());
        let attempts = self.options.attempts.max(1);
        let mut attempt = 1;
        loop {
            let (error, asked_wait) = match self.attempt(&url).await {
                Ok(Attempt::Done(answer)) => return Ok(answer.map(|text| (url, text))),
                Ok(Attempt::TooLarge) => return Err(PathSourceError::TooLarge { url }),
                Ok(Attempt::Refused(status)) => {
                    return Err(PathSourceError::Status {
                        url,
                        status: status.as_u16(),
                        attempts: attempt,
                    });
                }
                Ok(Attempt::Later(status, wait)) => {
                    let status = status.as_u16();
                    let (url, attempts) = (url.clone(), attempt);
                    let error = PathSourceError::Status {
                        url,
                        status,
                        attempts,
                    };
                    (error, wait)
                }
                Err(source) => {
                    let error = PathSourceError::Fetch {
                        url: url.clone(),
                        attempts: attempt,
                        source: source.without_url(),
                    };
                    (error, None)
                }
            };
            if attempt == attempts {
                return Err(error);
            }
            tokio::time::sleep(asked_wait.unwrap_or_else(|| BACKOFF.wait(attempt))).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, url: &str) -> Result<Attempt, reqwest::Error> {
        let mut response = self.client.get(url).send().await?;
        let status = response.status();
        match status {
            // Caches on S3 answer 403 for what is not there.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::GONE => {
                return Ok(Attempt::Done(None));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                return Ok(Attempt::Later(status, retry_after(&response)));
            }
            status if status.is_server_error() => {
                return Ok(Attempt::Later(status, retry_after(&response)));
            }
            status if !status.is_success() => return Ok(Attempt::Refused(status)),
            _ => {}
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_NARINFO {
                return Ok(Attempt::TooLarge);
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Attempt::Done(Some(text)))
    }
}

enum Attempt {
    Done(Option<String>),
    TooLarge,
    Refused(StatusCode),
    /// Worth another try, after the time that the server asks for.
    Later(StatusCode, Option<Duration>),
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.parse().ok()?).min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests;
