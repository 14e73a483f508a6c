//! The commits that were fetched into the store.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Commits whose store paths are remembered, each with some 500 bytes.
const MOST_FETCHED: usize = 1_000;

/// The files of commits that were fetched, by their arguments. A commit does not change.
#[derive(Debug, Default)]
pub(crate) struct FetchedCommits(Mutex<HashMap<String, PathBuf>>);

impl FetchedCommits {
    /// Returns the files of a commit, unless garbage collection has removed them since.
    pub(crate) fn get(&self, src_args: &str) -> Option<PathBuf> {
        let fetched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let path = fetched.get(src_args)?;
        path.symlink_metadata().is_ok().then(|| path.clone())
    }

    /// Remembers where the files of a commit are.
    pub(crate) fn insert(&self, src_args: &str, path: PathBuf) {
        let mut fetched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if fetched.len() >= MOST_FETCHED {
            fetched.clear();
        }
        fetched.insert(src_args.to_owned(), path);
    }
}
