//! Reading a binary cache: `GET CACHE/<hash>.narinfo` for each wanted path.

use std::collections::HashSet;

use futures::stream::{self, StreamExt};
use nixery_core::{HASH_LEN, StorePath};

use super::{PathSourceError, StateFile};
use crate::reference_sink::ReferenceSink;
use client::NarinfoClient;

#[cfg(feature = "http")]
mod client;

/// Options of a [`BinaryCache`].
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// Number of concurrent requests; 0 counts as 1.
    pub parallel: usize,
    /// Number of attempts of a request before the reading stops; 0 counts as 1.
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

/// Parses a list of wanted paths, one per line: a store path, a base name or a bare hash. The rest
/// of a line after a blank, empty lines and lines that begin with `#` are ignored. The result has
/// each hash once.
///
/// The name of a path that is given by its hash is `unknown`: only hashes identify wanted paths.
///
/// # Errors
/// [`PathSourceError::WantedLine`] names the first invalid line.
pub fn parse_wanted_paths(text: &str) -> Result<Vec<StorePath>, PathSourceError> {
    let mut seen = HashSet::new();
    let mut wanted = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let word = line.split_whitespace().next().unwrap_or("#");
        if word.starts_with('#') {
            continue;
        }
        let path = match word {
            path if path.starts_with('/') => StorePath::parse(path),
            hash if hash.len() == HASH_LEN => {
                StorePath::parse(&format!("/nix/store/{hash}-unknown"))
            }
            base_name => StorePath::parse(&format!("/nix/store/{base_name}")),
        };
        let path = path.map_err(|_| PathSourceError::WantedLine {
            line: index + 1,
            text: line.chars().take(80).collect(),
        })?;
        if seen.insert(path.hash_part().to_owned()) {
            wanted.push(path);
        }
    }
    Ok(wanted)
}

/// Progress of the reading of a cache, in paths.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheProgress {
    /// All paths that are wanted.
    pub wanted: usize,
    /// Wanted paths that were read before this run.
    pub known_before: usize,
    /// Paths that were fetched and read in this run.
    pub fetched: usize,
    /// Paths that are not in the cache.
    pub missing: usize,
}

impl CacheProgress {
    /// Number of paths that need no more work in this run.
    #[must_use]
    pub const fn done(&self) -> usize {
        self.known_before + self.fetched + self.missing
    }
}

/// A binary cache over HTTP. It needs the feature `http`.
#[derive(Debug, Clone)]
pub struct BinaryCache {
    client: NarinfoClient,
    options: CacheOptions,
}

impl BinaryCache {
    /// Creates a client for the cache at `url`, such as `https://cache.example.org`.
    ///
    /// # Errors
    /// [`PathSourceError::BadUrl`], or [`PathSourceError::WithoutHttp`] if this program is built
    /// without the feature `http`.
    pub fn new(url: &str, options: CacheOptions) -> Result<Self, PathSourceError> {
        let client = NarinfoClient::new(url)?;
        Ok(Self { client, options })
    }

    /// Fetches every wanted path that `sink` lacks. Paths that the cache lacks are skipped. `state`
    /// is saved every few seconds, and when the reading ends or fails.
    ///
    /// May be dropped at any moment: `sink` then has all paths that were read.
    ///
    /// # Errors
    /// The first path that cannot be fetched after several attempts, or cannot be read.
    pub async fn read(
        &self,
        sink: &mut impl ReferenceSink,
        wanted: &[StorePath],
        mut state: Option<&mut StateFile>,
        mut progress: impl FnMut(&CacheProgress),
    ) -> Result<CacheProgress, PathSourceError> {
        let unread = wanted.iter().filter(|path| !sink.contains(path));
        let unread: Vec<_> = unread.collect();
        let mut at = CacheProgress {
            wanted: wanted.len(),
            known_before: wanted.len() - unread.len(),
            ..CacheProgress::default()
        };
        progress(&at);
        let attempts = self.options.attempts.max(1);
        let mut answers = stream::iter(unread)
            .map(|path| self.client.narinfo(path, attempts))
            .buffer_unordered(self.options.parallel.max(1));
        let mut result = Ok(());
        while let Some(answer) = answers.next().await {
            result = answer.and_then(|narinfo| {
                let Some((location, text)) = narinfo else {
                    at.missing += 1;
                    return Ok(());
                };
                at.fetched += 1;
                sink.add_narinfo(&text)
                    .map_err(|source| PathSourceError::Malformed { location, source })
            });
            if result.is_err() {
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
}

/// Takes the place of the HTTP client in a program without one: no cache can be opened.
#[cfg(not(feature = "http"))]
mod client {
    use super::{PathSourceError, StorePath};

    #[derive(Debug, Clone)]
    pub(super) enum NarinfoClient {}

    impl NarinfoClient {
        pub(super) fn new(url: &str) -> Result<Self, PathSourceError> {
            Err(PathSourceError::WithoutHttp { url: url.into() })
        }

        pub(super) async fn narinfo(
            &self,
            _: &StorePath,
            _: u32,
        ) -> Result<Option<(String, String)>, PathSourceError> {
            match *self {}
        }
    }
}

#[cfg(all(test, feature = "http"))]
mod tests;
