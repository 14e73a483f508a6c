//! Package sources in git repositories: which commit a tag of an image is, and whether images can
//! be built from it.

mod command;
mod fetch;
mod folder;
mod mirror;
mod patterns;
mod remote;

use std::fmt::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nixery_core::{ResolvedSource, Tag, hide_credentials};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::build_log::BuildLog;
use crate::{NixError, PackageError};
use command::Git;
use mirror::{Mirror, Revision};
use remote::Remote;

pub(crate) use mirror::MirrorOptions;
pub use patterns::{RefPatternError, RefPatterns};

/// Repositories whose mirrors are open. A server has one.
const MOST_OPEN: usize = 4;
/// Bytes that are encoded in the path of a URL.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What a git source is, as [`ResolvedSource::src_args`] has it. The order of the fields is part of
/// cache keys.
#[derive(Serialize, Deserialize)]
struct GitArguments {
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rev: Option<String>,
    url: String,
}

/// A commit in a mirror, as Nix fetches it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MirroredSource {
    /// The arguments of the Nix code.
    pub(crate) src_args: String,
    /// What it is called in messages.
    pub(crate) description: String,
}

/// The mirrors of repositories.
pub(crate) struct Mirrors {
    options: MirrorOptions,
    /// By address, the last used one at the end.
    open: Mutex<Vec<(String, Arc<Mirror>)>>,
}

/// Without the addresses, which may have credentials.
impl fmt::Debug for Mirrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirrors")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Mirrors {
    pub(crate) fn new(options: MirrorOptions) -> Self {
        Self {
            options,
            open: Mutex::default(),
        }
    }

    /// Returns the source at one commit, or unchanged if it is not a git repository.
    ///
    /// # Errors
    /// The repository cannot be fetched, or has no such revision that is allowed.
    pub(crate) async fn resolve(
        &self,
        source: &ResolvedSource,
        log: &BuildLog,
    ) -> Result<ResolvedSource, NixError> {
        let Some(arguments) = GitArguments::of(source)? else {
            return Ok(source.clone());
        };
        let mirror = self.mirror(&arguments.url);
        let commit = mirror.resolve(arguments.revision(), log).await?;
        Ok(ResolvedSource {
            src_type: source.src_type,
            src_args: match arguments.rev {
                // The caller's own text stays the key.
                Some(_) => source.src_args.clone(),
                None => json(&GitArguments {
                    rev: Some(commit.clone()),
                    ..arguments
                }),
            },
            revision: Some(commit),
        })
    }

    /// Returns the branches and tags of a mirror, the newest first, without fetching; none for
    /// another source.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub(crate) async fn known_refs(
        &self,
        source: &ResolvedSource,
        limit: usize,
    ) -> Result<Vec<Tag>, NixError> {
        match GitArguments::of(source)? {
            Some(arguments) => self.mirror(&arguments.url).known_refs(limit).await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns what Nix fetches of a git repository, or `None` for another source. A source that is
    /// not resolved is resolved first.
    ///
    /// # Errors
    /// As for [`resolve`](Self::resolve).
    pub(crate) async fn provide(
        &self,
        source: &ResolvedSource,
        log: &BuildLog,
    ) -> Result<Option<MirroredSource>, NixError> {
        let Some(arguments) = GitArguments::of(source)? else {
            return Ok(None);
        };
        let mirror = self.mirror(&arguments.url);
        let commit = match &arguments.rev {
            Some(commit) => commit.clone(),
            None => mirror.resolve(arguments.revision(), log).await?,
        };
        let repository = mirror.provide(&commit, log).await?;
        Ok(Some(mirrored(&arguments, &commit, &repository)))
    }

    /// Checks that git can be run.
    ///
    /// # Errors
    /// It cannot, or does not succeed.
    pub(crate) async fn check_git(&self) -> Result<(), NixError> {
        let output = Git::new(self.options.env.clone()).version().await?;
        if output.success() {
            return Ok(());
        }
        Err(NixError::Output {
            command: "git",
            problem: output.messages.join(" "),
        })
    }

    fn mirror(&self, address: &str) -> Arc<Mirror> {
        let open = self.open.lock();
        let mut open = open.unwrap_or_else(PoisonError::into_inner);
        let found = open.iter().position(|(known, _)| known == address);
        let entry = match found {
            Some(index) => open.remove(index),
            None => {
                let remote = Remote::new(address);
                let name = folder_name(&remote.url, &self.options);
                let mirror = Mirror::new(remote, name, self.options.clone());
                (address.to_owned(), Arc::new(mirror))
            }
        };
        let mirror = Arc::clone(&entry.1);
        open.push(entry);
        if open.len() > MOST_OPEN {
            open.remove(0);
        }
        mirror
    }
}

impl GitArguments {
    fn of(source: &ResolvedSource) -> Result<Option<Self>, NixError> {
        if source.src_type != "git" {
            return Ok(None);
        }
        // The error of the parser may repeat credentials.
        let arguments: Option<Self> = serde_json::from_str(&source.src_args).ok();
        let is_full = |commit: &String| {
            let digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            commit.len() == 40 && commit.bytes().all(digit)
        };
        match arguments.filter(|arguments| arguments.rev.iter().all(is_full)) {
            Some(arguments) => Ok(Some(arguments)),
            None => {
                let message = "it is not described as a git repository".to_owned();
                Err(PackageError::Source { message }.into())
            }
        }
    }

    fn revision(&self) -> Revision<'_> {
        match (&self.rev, &self.reference) {
            (Some(commit), _) => Revision::Commit(commit),
            (None, Some(name)) => Revision::Named(name),
            (None, None) => Revision::Default,
        }
    }
}

/// The name of a mirror's folder: what it holds depends on the refs, too.
fn folder_name(url: &str, options: &MirrorOptions) -> String {
    let identity = format!("{url}\n{}\n{}", options.patterns, options.any_commit);
    let hash = Sha256::digest(identity.as_bytes());
    hash.iter().take(16).fold(String::new(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

fn mirrored(arguments: &GitArguments, commit: &str, repository: &Path) -> MirroredSource {
    let path = repository.as_os_str().as_encoded_bytes();
    let url = format!("file://{}", percent_encode(path, ENCODED));
    let mut description = format!("git repository {}", hide_credentials(&arguments.url));
    if let Some(name) = &arguments.reference {
        let _ = write!(description, ", branch {name}");
    }
    let _ = write!(description, ", commit {commit}");
    let src_args = serde_json::json!({
        "url": url,
        "rev": commit,
        // Nix before 2.20 looks for one, which an empty working tree does not have.
        "ref": "HEAD",
        "description": description,
    });
    MirroredSource {
        src_args: src_args.to_string(),
        description,
    }
}

fn json(arguments: &GitArguments) -> String {
    serde_json::to_string(arguments).expect("a struct of strings serialises to JSON")
}

#[cfg(test)]
mod tests;
