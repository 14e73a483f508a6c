//! A mirror: a local copy of the refs of a repository that images can be built from.
//!
//! It has the allowed refs and nothing else, so a commit is allowed if a ref of the mirror contains
//! it. Nix reads package sets from the mirror and not from the repository: it then fetches what was
//! checked, needs no credentials, and keeps no second copy.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nixery_core::Tag;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::command::{Git, GitOutput};
use super::fetch::{LastFetch, MOST_COMMIT_FETCHES, source_error};
use super::folder::Folder;
use super::patterns::{MIRRORED, NAMED, RefPatterns, is_ref_part};
use super::remote::Remote;
use crate::build_log::BuildLog;
use crate::environment::ChildEnvironment;
use crate::{NixError, PackageError};

/// The commit of the repository's `HEAD`, which names its default branch.
pub(super) const HEAD: &str = "refs/mirror-head";
/// How long after a fetch a revision that it did not bring is known to be missing. So names that do
/// not exist cause few fetches.
const MISSING_FOR: Duration = Duration::from_secs(10);
/// How long after a fetch a commit of the mirror is known to be in an allowed ref.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Commits that are remembered as accepted, each with some 100 bytes.
const MOST_ACCEPTED: usize = 10_000;
/// How long a list of branches and tags is not read again, so that clients cause few readings.
const LISTED_FOR: Duration = Duration::from_secs(10);
/// Names of branches and tags in the message about a name that does not exist.
const MOST_EXAMPLES: usize = 5;

/// What a client wants of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Revision<'a> {
    /// The default branch.
    Default,
    /// A branch or tag, by its name.
    Named(&'a str),
    /// A commit, by its full name.
    Commit(&'a str),
}

/// What a mirror holds, and how it is filled.
#[derive(Debug, Clone)]
pub(crate) struct MirrorOptions {
    /// The folder with all mirrors.
    pub(crate) mirrors: PathBuf,
    pub(crate) patterns: RefPatterns,
    /// Whether commits are accepted that no ref contains.
    pub(crate) any_commit: bool,
    /// Most time of a fetch.
    pub(crate) timeout: Duration,
    /// Variables of git.
    pub(crate) env: ChildEnvironment,
}

/// The mirror of one repository.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) options: MirrorOptions,
    pub(super) remote: Remote,
    pub(super) git: Arc<Git>,
    /// The name of its folder.
    name: String,
    copy: Mutex<Option<Arc<LocalCopy>>>,
    /// The branches and tags that were last listed, and how many at most.
    listed: Mutex<Option<(Instant, usize, Vec<Tag>)>>,
    /// Limits fetches of single commits, which clients may invent.
    pub(super) commit_fetches: Semaphore,
}

/// The files of a mirror, as long as nothing is wrong with them.
#[derive(Debug)]
pub(super) struct LocalCopy {
    pub(super) folder: Arc<Folder>,
    pub(super) repository: PathBuf,
    pub(super) damaged: AtomicBool,
    /// Held during a fetch.
    pub(super) last_fetch: Mutex<Option<LastFetch>>,
    /// Whether a fetch was begun and did not end well.
    pub(super) unclean: AtomicBool,
    /// Commits that were found in an allowed ref. A package set that was accepted is built even if
    /// its branch moves meanwhile.
    accepted: std::sync::Mutex<HashSet<String>>,
}

impl LocalCopy {
    fn accept(&self, commit: &str) {
        let accepted = self.accepted.lock();
        let mut accepted = accepted.unwrap_or_else(PoisonError::into_inner);
        if accepted.len() >= MOST_ACCEPTED {
            accepted.clear();
        }
        accepted.insert(commit.to_owned());
    }

    fn has_accepted(&self, commit: &str) -> bool {
        let accepted = self.accepted.lock();
        let accepted = accepted.unwrap_or_else(PoisonError::into_inner);
        accepted.contains(commit)
    }

    fn is_sound(&self) -> bool {
        !self.damaged.load(Ordering::Relaxed) && self.folder.has_repository()
    }
}

impl Mirror {
    /// Returns the mirror of a repository. Its folder is called `name`.
    pub(super) fn new(remote: Remote, name: String, options: MirrorOptions) -> Self {
        Self {
            remote,
            git: Arc::new(Git::new(options.env.clone())),
            options,
            name,
            copy: Mutex::default(),
            listed: Mutex::default(),
            commit_fetches: Semaphore::new(MOST_COMMIT_FETCHES),
        }
    }

    /// Returns the commit of a revision as of now, after it was found to be allowed.
    ///
    /// # Errors
    /// There is no such revision, it is not allowed, or the repository cannot be fetched.
    pub(super) async fn resolve(
        &self,
        revision: Revision<'_>,
        log: &BuildLog,
    ) -> Result<String, NixError> {
        let copy = self.copy().await?;
        let resolved = self.resolve_in(&copy, revision, log).await;
        if resolved.is_err() && !copy.is_sound() {
            return self.resolve_in(&*self.copy().await?, revision, log).await;
        }
        resolved
    }

    async fn resolve_in(
        &self,
        copy: &LocalCopy,
        revision: Revision<'_>,
        log: &BuildLog,
    ) -> Result<String, NixError> {
        let requested = Instant::now();
        let known = self.find(copy, revision).await?;
        match (revision, known) {
            // A commit stays what it is, but the refs that contain it may have changed.
            (Revision::Commit(_), Some(commit)) => {
                if !self.options.any_commit {
                    let recently = requested.checked_sub(KNOWN_FOR).unwrap_or(requested);
                    if self.fetch_since(copy, recently, log).await.is_err() {
                        copy.accept(&commit);
                        return Ok(commit);
                    }
                }
            }
            (_, Some(_)) => self.fetch_since(copy, requested, log).await?,
            (_, None) => {
                let recently = requested.checked_sub(MISSING_FOR).unwrap_or(requested);
                self.fetch_since(copy, recently, log).await?;
            }
        }
        let found = match self.find(copy, revision).await? {
            None if self.options.any_commit => self.fetch_commit(copy, revision, log).await?,
            found => found,
        };
        match found {
            Some(commit) => {
                copy.accept(&commit);
                Ok(commit)
            }
            None => Err(self.unknown(copy, revision).await?.into()),
        }
    }

    /// Returns the folder from which Nix can fetch a commit that was resolved before, and resolves
    /// any other.
    ///
    /// # Errors
    /// As for [`resolve`](Self::resolve).
    pub(super) async fn provide(&self, commit: &str, log: &BuildLog) -> Result<PathBuf, NixError> {
        let copy = self.copy().await?;
        if !copy.has_accepted(commit) {
            self.resolve(Revision::Commit(commit), log).await?;
        }
        Ok(copy.repository.clone())
    }

    /// Returns the files of the mirror, which are made if they are not there or damaged.
    async fn copy(&self) -> Result<Arc<LocalCopy>, NixError> {
        let mut current = self.copy.lock().await;
        if let Some(copy) = current.as_ref().filter(|copy| copy.is_sound()) {
            return Ok(Arc::clone(copy));
        }
        let damaged = current
            .take()
            .is_some_and(|copy| copy.damaged.load(Ordering::Relaxed));
        let (mirrors, name) = (self.options.mirrors.clone(), self.name.clone());
        let opened = spawn_blocking(move || Folder::open(&mirrors, &name));
        let failed = |source| NixError::Process {
            action: "make the folder of a git mirror".to_owned(),
            source,
        };
        let folder = blocking(opened).await.map_err(failed)?;
        let folder = Arc::new(folder);
        if damaged {
            // Another process may be fetching into it.
            let deadline = Instant::now() + self.options.timeout;
            let right = self.right_to_fetch(&folder, deadline).await?;
            let _right = right.map_err(|message| source_error(&message))?;
            let removed = Arc::clone(&folder);
            let removal = spawn_blocking(move || removed.remove_repository());
            blocking(removal).await.map_err(failed)?;
        }
        let repository = folder.repository();
        if !folder.has_repository() {
            let made = self.git.init(&repository).await?;
            if !made.success() {
                return Err(failed(io::Error::other(made.messages.join(" "))));
            }
        }
        let copy = Arc::new(LocalCopy {
            folder,
            repository,
            damaged: AtomicBool::new(false),
            last_fetch: Mutex::default(),
            unclean: AtomicBool::new(true),
            accepted: std::sync::Mutex::default(),
        });
        *current = Some(Arc::clone(&copy));
        Ok(copy)
    }

    /// Runs a command on the mirror that succeeds on an undamaged one, and returns what it prints.
    pub(super) async fn read(&self, copy: &LocalCopy, args: &[&str]) -> Result<String, NixError> {
        let output = self.run_local(copy, args).await?;
        if output.success() {
            return Ok(output.stdout);
        }
        let problem = match is_damaged(&output) {
            true => {
                copy.damaged.store(true, Ordering::Relaxed);
                "its copy of the package source is damaged. Fix: try again"
            }
            false => "its copy of the package source cannot be read. Fix: try again",
        };
        Err(unavailable(problem, args, &output))
    }

    /// Runs a command on the mirror to its end.
    async fn run_local(&self, copy: &LocalCopy, args: &[&str]) -> Result<GitOutput, NixError> {
        let output = self.git.local(&copy.repository, args).await?;
        if output.code.is_none() {
            let problem = "git was stopped before its end. Fix: try again";
            return Err(unavailable(problem, args, &output));
        }
        Ok(output)
    }

    /// Returns the commit that a revision is in the mirror, if it is allowed.
    pub(super) async fn find(
        &self,
        copy: &LocalCopy,
        revision: Revision<'_>,
    ) -> Result<Option<String>, NixError> {
        let commit = match revision {
            Revision::Commit(commit) => self.commit_of(copy, commit).await?,
            Revision::Default => self.ref_commit(copy, &[HEAD]).await?,
            Revision::Named(name) if is_ref_part(name) => {
                let names = NAMED.map(|folder| format!("{folder}{name}"));
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                return self.ref_commit(copy, &names).await;
            }
            Revision::Named(_) => None,
        };
        let Some(commit) = commit else {
            return Ok(None);
        };
        if let Revision::Commit(name) = revision
            && name != commit
        {
            // The name of a tag object.
            return Ok(None);
        }
        if self.options.any_commit || self.is_contained(copy, &commit).await? {
            return Ok(Some(commit));
        }
        Ok(None)
    }

    /// Returns the commit of the first of these refs that exists.
    async fn ref_commit(
        &self,
        copy: &LocalCopy,
        names: &[&str],
    ) -> Result<Option<String>, NixError> {
        let mut args = vec!["for-each-ref", "--format=%(refname) %(objectname)"];
        args.extend(names);
        // A name also matches refs below it.
        let refs = self.read(copy, &args).await?;
        let refs: Vec<_> = refs
            .lines()
            .filter_map(|line| line.split_once(' '))
            .collect();
        let of = |name: &&str| refs.iter().find(|(found, _)| found == name);
        match names.iter().find_map(of) {
            Some((_, object)) => self.commit_of(copy, object).await,
            None => Ok(None),
        }
    }

    /// Returns the commit that the object with this full name is, or that it is a tag of.
    async fn commit_of(&self, copy: &LocalCopy, object: &str) -> Result<Option<String>, NixError> {
        let name = format!("{object}^{{commit}}");
        let args = ["rev-parse", "--verify", "--quiet", &name];
        let output = self.run_local(copy, &args).await?;
        Ok(output.success().then(|| output.stdout.trim().to_owned()))
    }

    /// Whether an allowed ref contains a commit of the mirror.
    async fn is_contained(&self, copy: &LocalCopy, commit: &str) -> Result<bool, NixError> {
        let contains = format!("--contains={commit}");
        let args = [
            "for-each-ref",
            "--count=1",
            "--format=%(refname)",
            &contains,
            MIRRORED,
        ];
        Ok(!self.read(copy, &args).await?.is_empty())
    }

    /// Returns the error for a revision that does not exist or is not allowed.
    async fn unknown(
        &self,
        copy: &LocalCopy,
        revision: Revision<'_>,
    ) -> Result<PackageError, NixError> {
        let names = self.newest_refs(copy, MOST_EXAMPLES).await?;
        Ok(PackageError::UnknownRevision {
            revision: match revision {
                Revision::Default => "default branch".to_owned(),
                Revision::Named(name) | Revision::Commit(name) => format!("`{name}`"),
            },
            examples: names.iter().map(Tag::to_string).collect(),
        })
    }

    /// Returns the branches and tags of the mirror, the newest first, without fetching.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub(super) async fn known_refs(&self, limit: usize) -> Result<Vec<Tag>, NixError> {
        let mut listed = self.listed.lock().await;
        if let Some((at, most, names)) = &*listed
            && at.elapsed() < LISTED_FOR
            && *most >= limit
        {
            return Ok(names.iter().take(limit).cloned().collect());
        }
        let copy = self.copy().await?;
        let names = self.newest_refs(&copy, limit).await?;
        *listed = Some((Instant::now(), limit, names.clone()));
        Ok(names)
    }

    /// Returns the branches and tags that can be tags of an image, the newest first.
    async fn newest_refs(&self, copy: &LocalCopy, limit: usize) -> Result<Vec<Tag>, NixError> {
        let [branches, tags] = NAMED;
        // Some names cannot be tags.
        let count = format!("--count={}", limit.saturating_mul(10));
        let args = [
            "for-each-ref",
            "--sort=-creatordate",
            &count,
            "--format=%(refname)",
            branches,
            tags,
        ];
        let refs = self.read(copy, &args).await?;
        let mut names: Vec<Tag> = Vec::new();
        let mut seen = HashSet::new();
        for name in refs.lines() {
            let name = NAMED.iter().find_map(|folder| name.strip_prefix(folder));
            let tag = name.and_then(|name| Tag::parse(name).ok());
            if let Some(tag) = tag
                && seen.insert(tag.clone())
            {
                names.push(tag);
            }
            if names.len() == limit {
                break;
            }
        }
        Ok(names)
    }
}

/// Parts of git's messages about a repository of its own that is damaged.
const DAMAGE: [&str; 8] = [
    "bad config",
    "bad object",
    "does not point to a valid object",
    "is corrupt",
    "missing object",
    "not a git repository: '",
    "reference broken",
    "unable to read",
];

/// Whether git's messages mean that the mirror is damaged.
pub(super) fn is_damaged(output: &GitOutput) -> bool {
    let mut lines = output.messages.iter();
    lines
        .any(|line| !line.starts_with("remote:") && DAMAGE.iter().any(|words| line.contains(words)))
}

async fn blocking<T>(task: JoinHandle<io::Result<T>>) -> io::Result<T> {
    task.await
        .unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
}

fn unavailable(problem: &str, args: &[&str], output: &GitOutput) -> NixError {
    let messages = output.messages.join(" ");
    NixError::Unavailable {
        problem: problem.to_owned(),
        detail: format!("git {}: {messages}", args.join(" ")),
    }
}
