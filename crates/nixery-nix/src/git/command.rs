//! Runs git on the repository of a mirror.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::NixError;
use crate::build_log::clean_line;
use crate::command::{self, CommandSpec};

/// Time for a command that reads the mirror. In a large repository git walks all of its history.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(120);
/// Commands that read one mirror at once.
const MOST_LOCAL: usize = 4;
/// Bytes of output that are kept: far more than the names of some refs.
const MAX_STDOUT: usize = 1024 * 1024;
/// Lines of messages that are kept.
const MAX_LINES: usize = 64;

/// Configuration that every command gets. Hooks of the user are not for mirrors, and nothing goes
/// on in the background that would outlive its time limit.
const CONFIGURATION: [&str; 5] = [
    "core.hooksPath=/dev/null",
    "gc.autoDetach=false",
    "maintenance.autoDetach=false",
    // Makes it fast to find out which refs contain a commit.
    "fetch.writeCommitGraph=true",
    "fetch.recurseSubmodules=false",
];

/// What a command of git printed.
#[derive(Debug)]
pub(super) struct GitOutput {
    /// Its exit code; `None` if it was stopped or killed.
    pub(super) code: Option<i32>,
    pub(super) timed_out: bool,
    pub(super) stdout: String,
    /// The first lines of its messages.
    pub(super) messages: Vec<String>,
}

impl GitOutput {
    pub(super) fn success(&self) -> bool {
        self.code == Some(0)
    }
}

/// How git runs for one repository.
#[derive(Debug)]
pub(super) struct Git {
    /// Variables of every command.
    env: Vec<(String, String)>,
    /// Limits the commands that read the mirror: clients cause several with each name.
    local: Semaphore,
}

impl Git {
    /// Returns git with these variables besides its own.
    pub(super) fn new(mut env: Vec<(String, String)>) -> Self {
        // Messages are parsed. Commits are what their names say.
        let own = [("LC_ALL", "C"), ("GIT_NO_REPLACE_OBJECTS", "1")];
        env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let local = Semaphore::new(MOST_LOCAL);
        Self { env, local }
    }

    /// The number of entries of git's configuration that the environment has.
    pub(super) fn configured(&self) -> usize {
        const COUNT: &str = "GIT_CONFIG_COUNT";
        let given = self.env.iter().rfind(|(name, _)| name == COUNT);
        let count = given.map(|(_, value)| value.clone());
        let count = count.or_else(|| std::env::var(COUNT).ok());
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// Makes an empty repository, with a working tree that stays empty.
    ///
    /// # Errors
    /// git cannot be run.
    pub(super) async fn init(&self, repository: &Path) -> Result<GitOutput, NixError> {
        let mut args: Vec<OsString> = ["init", "--quiet", "--template=", "--"]
            .map(OsString::from)
            .into();
        args.push(repository.into());
        self.run(args, Vec::new(), LOCAL_TIMEOUT).await
    }

    /// Runs a command that reads or changes a repository, without a network.
    ///
    /// # Errors
    /// git cannot be run.
    pub(super) async fn local(
        &self,
        repository: &Path,
        args: &[&str],
    ) -> Result<GitOutput, NixError> {
        let args = with_repository(repository, args);
        // It is never closed.
        let _permit = self.local.acquire().await.ok();
        self.run(args, Vec::new(), LOCAL_TIMEOUT).await
    }

    /// Runs a command with more variables and a time limit of its own.
    ///
    /// # Errors
    /// git cannot be run.
    pub(super) async fn remote(
        &self,
        repository: &Path,
        args: &[&str],
        env: Vec<(String, String)>,
        timeout: Duration,
    ) -> Result<GitOutput, NixError> {
        self.run(with_repository(repository, args), env, timeout)
            .await
    }

    async fn run(
        &self,
        args: Vec<OsString>,
        env: Vec<(String, String)>,
        timeout: Duration,
    ) -> Result<GitOutput, NixError> {
        let spec = CommandSpec {
            program: "git".into(),
            args,
            env: self.env.iter().cloned().chain(env).collect(),
            timeout,
            stdout_limit: MAX_STDOUT,
        };
        tracing::debug!(args = ?spec.args, "running git");
        let mut messages = Vec::new();
        let mut keep = |line: &[u8]| {
            if messages.len() < MAX_LINES {
                messages.push(clean_line(line));
            }
        };
        let finished = command::run(&spec, &mut keep).await;
        let finished = finished.map_err(|source| NixError::Process {
            action: "run git".to_owned(),
            source,
        })?;
        Ok(GitOutput {
            code: finished.status.code().filter(|_| !finished.timed_out),
            timed_out: finished.timed_out,
            stdout: String::from_utf8_lossy(&finished.stdout).into_owned(),
            messages,
        })
    }
}

fn with_repository(repository: &Path, args: &[&str]) -> Vec<OsString> {
    let mut all = vec![
        OsString::from("--git-dir"),
        repository.join(".git").into(),
        OsString::from("--no-pager"),
    ];
    for entry in CONFIGURATION {
        all.extend(["-c", entry].map(OsString::from));
    }
    all.extend(args.iter().map(OsString::from));
    all
}
