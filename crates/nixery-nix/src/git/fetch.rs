//! Fetches into a mirror: one at a time, also among processes, and not too often.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nixery_core::hide_credentials;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::command::GitOutput;
use super::folder::Folder;
use super::mirror::{HEAD, LocalCopy, Mirror, Revision, is_damaged};
use super::patterns::MIRRORED;
use crate::build_log::BuildLog;
use crate::client_text::client_message;
use crate::{NixError, PackageError};

/// Fetches of single commits that run or wait. Each delays the others and those of branches.
pub(super) const MOST_COMMIT_FETCHES: usize = 4;
/// Time between two fetches, so that the repository's host is not kept busy.
const PAUSE: Duration = Duration::from_secs(1);
/// How often another process is asked whether it still fetches.
const POLL: Duration = Duration::from_millis(100);
/// Time for git's own maintenance of the repository.
const MAINTENANCE_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// The last fetch into a mirror.
#[derive(Debug)]
pub(super) struct LastFetch {
    began: Instant,
    ended: Instant,
    /// The reason for clients if it failed.
    result: Result<(), String>,
}

impl Mirror {
    /// Makes sure that a fetch began at or after `since`. Calls wait for one that runs.
    pub(super) async fn fetch_since(
        &self,
        copy: &LocalCopy,
        since: Instant,
        log: &BuildLog,
    ) -> Result<(), NixError> {
        let mut last = copy.last_fetch.lock().await;
        if last.as_ref().is_none_or(|fetch| fetch.began < since) {
            if let Some(fetch) = &*last {
                sleep_until(fetch.ended + PAUSE).await;
            }
            let began = Instant::now();
            let result = self.fetch(copy, log).await?;
            *last = Some(LastFetch {
                began,
                ended: Instant::now(),
                result,
            });
        }
        match last.as_ref().map(|fetch| &fetch.result) {
            Some(Err(message)) => Err(source_error(message)),
            _ => Ok(()),
        }
    }

    /// Brings the refs of the mirror up to date. Returns the reason for clients if that fails.
    async fn fetch(
        &self,
        copy: &LocalCopy,
        log: &BuildLog,
    ) -> Result<Result<(), String>, NixError> {
        log.push(&format!("fetching {}", client_message(&self.remote.url)));
        let deadline = Instant::now() + self.options.timeout;
        let _right = match self.right_to_fetch(&copy.folder, deadline).await? {
            Ok(right) => right,
            Err(message) => return Ok(Err(message)),
        };
        let mut wanted = vec![("HEAD".to_owned(), HEAD.to_owned())];
        let below_refs = |pattern: &str| pattern.trim_start_matches("refs/").to_owned();
        let patterns = self.options.patterns.iter();
        wanted.extend(patterns.map(|pattern| {
            (
                pattern.to_owned(),
                format!("{MIRRORED}{}", below_refs(pattern)),
            )
        }));
        while !wanted.is_empty() {
            let refspecs = wanted.iter().map(|(from, to)| format!("+{from}:{to}"));
            let output = self
                .run_fetch(copy, "--prune", refspecs.collect(), deadline)
                .await?;
            if output.success() {
                self.maintain(copy);
                break;
            }
            // Of refs that are named in full, git wants each.
            let missing = missing_ref(&output.messages);
            let missing = missing.and_then(|name| wanted.iter().position(|(from, _)| from == name));
            let Some(missing) = missing else {
                return Ok(Err(self.failure(copy, &output)));
            };
            let (_, to) = wanted.swap_remove(missing);
            self.read(copy, &["update-ref", "-d", &to]).await?;
        }
        Ok(Ok(()))
    }

    /// Fetches a commit that no allowed ref contains.
    pub(super) async fn fetch_commit(
        &self,
        copy: &LocalCopy,
        revision: Revision<'_>,
        log: &BuildLog,
    ) -> Result<Option<String>, NixError> {
        let Revision::Commit(commit) = revision else {
            return Ok(None);
        };
        let permit = self.commit_fetches.try_acquire();
        let _permit = permit.map_err(|_| NixError::Unavailable {
            problem: "too many unknown commits of the package source are requested at once. \
                      Fix: try again"
                .to_owned(),
            detail: format!("{MOST_COMMIT_FETCHES} commits are being fetched"),
        })?;
        // One at a time, like every fetch.
        let mut last = copy.last_fetch.lock().await;
        if let Some(found) = self.find(copy, revision).await? {
            return Ok(Some(found));
        }
        if let Some(fetch) = &*last {
            sleep_until(fetch.ended + PAUSE).await;
        }
        log.push(&format!("fetching the commit {commit}"));
        let deadline = Instant::now() + self.options.timeout;
        let right = self.right_to_fetch(&copy.folder, deadline).await?;
        let _right = right.map_err(|message| source_error(&message))?;
        let wanted = vec![commit.to_owned()];
        let output = self.run_fetch(copy, "--no-prune", wanted, deadline).await?;
        if let Some(fetch) = &mut *last {
            fetch.ended = Instant::now();
        }
        if !output.success() {
            let text = output.messages.join(" ");
            if text.contains("not our ref") || text.contains("couldn't find remote ref") {
                return Ok(None);
            }
            return Err(source_error(&self.failure(copy, &output)));
        }
        self.find(copy, revision).await
    }

    async fn run_fetch(
        &self,
        copy: &LocalCopy,
        prune: &str,
        refspecs: Vec<String>,
        deadline: Instant,
    ) -> Result<GitOutput, NixError> {
        let mut args = vec![
            "fetch",
            "--quiet",
            "--force",
            prune,
            "--no-tags",
            // The repository may lack a part of its history.
            "--update-shallow",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--",
            &self.remote.url,
        ];
        args.extend(refspecs.iter().map(String::as_str));
        let env = self.remote.environment(self.git.configured());
        loop {
            let was_unclean = copy.unclean.swap(true, Ordering::Relaxed);
            if was_unclean {
                let folder = Arc::clone(&copy.folder);
                // What is not removed is reported by git.
                let _ = spawn_blocking(move || folder.remove_leftovers()).await;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let fetch = self.git.remote(&copy.repository, &args, env.clone(), left);
            let output = fetch.await?;
            copy.unclean.store(!output.success(), Ordering::Relaxed);
            let is_locked = |line: &String| line.contains(".lock': File exists");
            if was_unclean || !output.messages.iter().any(is_locked) {
                return Ok(output);
            }
        }
    }

    /// Waits until no other process fetches into the mirror. The right ends with the file.
    pub(super) async fn right_to_fetch(
        &self,
        folder: &Folder,
        deadline: Instant,
    ) -> Result<Result<File, String>, NixError> {
        loop {
            match folder.try_fetch() {
                Ok(Some(right)) => return Ok(Ok(right)),
                Ok(None) if Instant::now() < deadline => sleep(POLL).await,
                Ok(None) => return Ok(Err(self.too_late())),
                Err(source) => {
                    let action = "lock a git mirror".to_owned();
                    return Err(NixError::Process { action, source });
                }
            }
        }
    }

    /// Returns the reason of a failed fetch for clients, and notes if it is that the mirror is
    /// damaged.
    fn failure(&self, copy: &LocalCopy, output: &GitOutput) -> String {
        let url = hide_credentials(&self.remote.url);
        tracing::warn!(%url, messages = %output.messages.join(" | "), "a git repository cannot be fetched");
        if output.timed_out {
            return self.too_late();
        }
        if is_damaged(output) {
            copy.damaged.store(true, Ordering::Relaxed);
        }
        let mut lines = output.messages.iter();
        let message = lines.find_map(|line| {
            line.strip_prefix("fatal: ")
                .or_else(|| line.strip_prefix("error: "))
        });
        client_message(message.unwrap_or("git gave no reason"))
    }

    fn too_late(&self) -> String {
        let seconds = self.options.timeout.as_secs();
        format!(
            "git did not finish in {seconds} s. Fix: try again, or ask the operator to raise `NIXERY_EVAL_TIMEOUT`"
        )
    }

    /// Lets git pack the objects of many fetches into few files, in the background.
    fn maintain(&self, copy: &LocalCopy) {
        let Ok(Some(right)) = copy.folder.try_maintain() else {
            return;
        };
        let (git, repository) = (Arc::clone(&self.git), copy.repository.clone());
        tokio::spawn(async move {
            let _right = right;
            let args = ["gc", "--auto", "--quiet"];
            let run = git.remote(&repository, &args, Vec::new(), MAINTENANCE_TIMEOUT);
            if let Ok(output) = run.await
                && !output.success()
            {
                let messages = output.messages.join(" | ");
                tracing::warn!(path = %repository.display(), %messages, "git cannot maintain a mirror");
            }
        });
    }
}

pub(super) fn source_error(message: &str) -> NixError {
    let message = message.to_owned();
    PackageError::Source { message }.into()
}

/// The ref that the repository does not have, according to git.
fn missing_ref(messages: &[String]) -> Option<&str> {
    let mut lines = messages.iter();
    lines.find_map(|line| Some(line.split_once("couldn't find remote ref ")?.1.trim()))
}
