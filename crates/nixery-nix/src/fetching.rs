//! Fetches package sets into the store. No code of a set is imported for it, so only this
//! evaluation may read URLs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use nixery_core::{ResolvedSource, StorePath};

use crate::NixError;
use crate::build_log::BuildLog;
use crate::cli::{EVALUATOR, NixCli};
use crate::code::FETCH_SOURCE;
use crate::evaluation::{self, Access, PackageSet};
use crate::failure::evaluation_error;
use crate::log_format::NixLog;

/// Commits whose store paths are remembered, each with some 500 bytes.
const MOST_FETCHED: usize = 1_000;

/// The files of commits that were fetched, by their arguments. A commit does not change.
#[derive(Debug, Default)]
pub(crate) struct FetchedCommits(Mutex<HashMap<String, PathBuf>>);

impl FetchedCommits {
    /// Returns the files of a commit, unless garbage collection has removed them since.
    fn get(&self, src_args: &str) -> Option<PathBuf> {
        let fetched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let path = fetched.get(src_args)?;
        path.symlink_metadata().is_ok().then(|| path.clone())
    }

    fn insert(&self, src_args: &str, path: PathBuf) {
        let mut fetched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if fetched.len() >= MOST_FETCHED {
            fetched.clear();
        }
        fetched.insert(src_args.to_owned(), path);
    }
}

impl NixCli {
    /// Returns the package set of a source, with its files on this machine.
    ///
    /// # Errors
    /// It cannot be fetched, or is a commit that is not allowed.
    pub(crate) async fn package_set(
        &self,
        source: &ResolvedSource,
        log: &BuildLog,
    ) -> Result<PackageSet, NixError> {
        if let Some(mirrored) = self.mirrors.provide(source, log).await? {
            let path = match self.fetched.get(&mirrored.src_args) {
                Some(path) => path,
                None => {
                    let path = self.fetch("git", &mirrored.src_args, log).await?;
                    self.fetched.insert(&mirrored.src_args, path.clone());
                    path
                }
            };
            return Ok(PackageSet::fetched(&path, &mirrored.description));
        }
        if source.src_type == "nixpkgs" {
            // Nix knows how old its copy of a channel may be.
            let path = self.fetch("nixpkgs", &source.src_args, log).await?;
            let description = format!("nixpkgs {}", source.src_args);
            return Ok(PackageSet::fetched(&path, &description));
        }
        Ok(PackageSet::of(source))
    }

    /// Lets Nix fetch a source, and returns where its files are.
    async fn fetch(
        &self,
        src_type: &str,
        src_args: &str,
        log: &BuildLog,
    ) -> Result<PathBuf, NixError> {
        let request = serde_json::json!({ "srcType": src_type, "srcArgs": src_args });
        let file = self.code_file(FETCH_SOURCE)?;
        let args = evaluation::arguments(&file, &request, None, Access::Free);
        let mut log = NixLog::new(log);
        let timeout = self.config.evaluate_timeout;
        let finished = self.run(EVALUATOR, args, timeout, &mut log).await?;
        if !finished.status.success() {
            return Err(evaluation_error(&log, &[]));
        }
        let answer = serde_json::from_slice::<String>(&finished.stdout).ok();
        let path = answer.and_then(|path| StorePath::parse(&path).ok());
        let path = path.ok_or_else(|| NixError::Output {
            command: EVALUATOR,
            problem: "the answer is not a store path".to_owned(),
        })?;
        Ok(self.store_root.locate(&path))
    }
}
