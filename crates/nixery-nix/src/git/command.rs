//! Runs git on the repository of a mirror.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::NixError;
use crate::build_log::clean_line;
use crate::command::{self, CommandSpec};
use crate::environment::ChildEnvironment;

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

/// Protocols that git may use. Others are programs, which a configuration could name.
const PROTOCOLS: &str = "file:git:http:https:ssh";

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
    /// The environment of every command.
    env: ChildEnvironment,
    /// Limits the commands that read the mirror: clients cause several with each name.
    local: Semaphore,
}

impl Git {
    /// Returns git with this environment and variables of its own.
    pub(super) fn new(env: ChildEnvironment) -> Self {
        Self {
            // Messages are parsed. Commits are what their names say.
            env: env
                .with("LC_ALL", "C")
                .with("GIT_NO_REPLACE_OBJECTS", "1")
                .with_default("GIT_ALLOW_PROTOCOL", PROTOCOLS),
            local: Semaphore::new(MOST_LOCAL),
        }
    }

    /// The number of entries of git's configuration that the environment has.
    pub(super) fn configured(&self) -> usize {
        let count = self.env.get("GIT_CONFIG_COUNT");
        let count = count.and_then(|count| count.to_str()?.parse().ok());
        count.unwrap_or(0)
    }

    /// Runs `git --version`.
    ///
    /// # Errors
    /// git cannot be run.
    pub(super) async fn version(&self) -> Result<GitOutput, NixError> {
        self.run(vec!["--version".into()], Vec::new(), LOCAL_TIMEOUT)
            .await
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
            env: env
                .into_iter()
                .fold(self.env.clone(), |env, (name, value)| env.with(name, value)),
            timeout,
            memory: None,
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
