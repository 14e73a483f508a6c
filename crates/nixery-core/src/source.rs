//! Package sources: where the package set comes from.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use crate::tag::{Tag, is_commit};

/// Where the package set comes from.
///
/// Make one with [`channel`](Self::channel), [`git`](Self::git) or [`path`](Self::path): they
/// refuse what Nix or git would misunderstand. `Display` leaves out a password in a URL.
///
/// ```
/// use nixery_core::{PackageSource, Tag};
///
/// let source = PackageSource::git("https://example.org/packages.git")?;
/// let resolved = source.resolve(&"stable".parse()?);
/// assert_eq!(resolved.src_type, "git");
/// assert_eq!(
///     resolved.src_args,
///     r#"{"ref":"stable","url":"https://example.org/packages.git"}"#
/// );
/// assert_eq!(resolved.revision, None, "a branch moves");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PackageSource {
    /// A nixpkgs channel, `nixos-26.05`, or a nixpkgs commit.
    Channel(String),
    /// A git repository with a package set at its top.
    Git {
        /// Its URL, a path of this host, or `user@host:path`.
        repository: String,
    },
    /// A directory or file of this host that Nix imports.
    Path(PathBuf),
}

/// A package source as the Nix code takes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResolvedSource {
    /// `nixpkgs`, `git` or `path`.
    pub src_type: &'static str,
    /// For `nixpkgs` the channel or commit; for `git` a JSON object with `url` and, after the
    /// tag, `rev` or `ref`; for `path` the path.
    pub src_args: String,
    /// The commit, where the source is pinned to one and so can never change.
    pub revision: Option<String>,
}

/// What `builtins.fetchGit` takes. The keys are in the order the original writes them in.
#[derive(Serialize)]
struct GitArguments<'a> {
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rev: Option<&'a str>,
    url: &'a str,
}

impl PackageSource {
    /// A nixpkgs channel or commit.
    ///
    /// # Errors
    /// [`SourceError`] if the text is neither.
    pub fn channel(channel: &str) -> Result<Self, SourceError> {
        if channel.is_empty() {
            return Err(SourceError::Empty { what: "channel" });
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+');
        if let Some((offset, found)) = channel.char_indices().find(|(_, c)| !legal(*c)) {
            return Err(SourceError::ChannelCharacter {
                channel: channel.escape_debug().to_string(),
                found,
                offset,
            });
        }
        // The channel becomes part of a URL's path, and of a command's arguments.
        let legal_part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']);
        if !channel.split('/').all(legal_part) {
            return Err(SourceError::ChannelPart {
                channel: channel.to_owned(),
            });
        }
        Ok(Self::Channel(channel.to_owned()))
    }

    /// A git repository.
    ///
    /// # Errors
    /// [`SourceError`] if the text is not a URL, an absolute path or `user@host:path`, or names
    /// one of git's transports that run a command.
    pub fn git(repository: &str) -> Result<Self, SourceError> {
        if repository.is_empty() {
            return Err(SourceError::Empty {
                what: "git repository",
            });
        }
        let shown = || redacted(repository).escape_debug().to_string();
        let illegal = |(_, c): &(usize, char)| c.is_control() || c.is_whitespace();
        if let Some((offset, found)) = repository.char_indices().find(illegal) {
            return Err(SourceError::RepositoryCharacter {
                repository: shown(),
                found,
                offset,
            });
        }
        // A host that starts with `-` reaches ssh as an option.
        let host = repository
            .split_once("://")
            .map_or(repository, |(_, rest)| rest);
        let host = host.split(['/', ':']).next().unwrap_or_default();
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if repository.starts_with('-') || host.starts_with('-') {
            return Err(SourceError::RepositoryOption {
                repository: shown(),
            });
        }
        let scheme = repository.split(['/', '@']).next().unwrap_or_default();
        if scheme.contains("::") {
            return Err(SourceError::RepositoryTransport {
                repository: shown(),
            });
        }
        let is_url = repository
            .split_once("://")
            .is_some_and(|(scheme, rest)| is_scheme(scheme) && !rest.is_empty());
        let is_path = repository.starts_with('/');
        let is_scp = repository.split_once(':').is_some_and(|(host, path)| {
            !host.is_empty() && !host.contains('/') && !path.is_empty()
        }) && !repository.contains("://");
        if !(is_url || is_path || is_scp) {
            return Err(SourceError::RepositoryForm {
                repository: shown(),
            });
        }
        Ok(Self::Git {
            repository: repository.to_owned(),
        })
    }

    /// A directory or file of this host. Whether it exists is not looked at.
    ///
    /// # Errors
    /// [`SourceError`] if the path is not absolute, goes through `..`, or is not plain UTF-8.
    pub fn path(path: impl Into<PathBuf>) -> Result<Self, SourceError> {
        let path = path.into();
        if path.as_os_str().is_empty() {
            return Err(SourceError::Empty {
                what: "package path",
            });
        }
        match path.to_str() {
            Some(text) if !text.contains(char::is_control) => {}
            _ => return Err(SourceError::PathText { path }),
        }
        if !path.is_absolute() {
            return Err(SourceError::RelativePath { path });
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(SourceError::ParentInPath { path });
        }
        Ok(Self::Path(path))
    }

    /// What kind of source it is: `nixpkgs`, `git` or `path`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Channel(_) => "nixpkgs",
            Self::Git { .. } => "git",
            Self::Path(_) => "path",
        }
    }

    /// The source as the Nix code takes it, at a tag. Only a git source looks at the tag.
    ///
    /// `latest` stands for the repository's default branch, 40 hexadecimal characters for a
    /// commit, everything else for a branch or tag.
    pub fn resolve(&self, tag: &Tag) -> ResolvedSource {
        let (src_args, revision) = match self {
            Self::Channel(channel) => {
                let revision = is_commit(channel).then(|| channel.clone());
                (channel.clone(), revision)
            }
            Self::Git { repository } => {
                let rev = tag.commit();
                let reference = (rev.is_none() && !tag.is_latest()).then(|| tag.as_str());
                let arguments = GitArguments {
                    reference,
                    rev,
                    url: repository,
                };
                let json = serde_json::to_string(&arguments)
                    .expect("a struct of strings serialises to JSON");
                (json, rev.map(str::to_owned))
            }
            Self::Path(path) => (path.to_string_lossy().into_owned(), None),
        };
        ResolvedSource {
            src_type: self.kind(),
            src_args,
            revision,
        }
    }
}

impl fmt::Display for PackageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(channel) => write!(f, "nixpkgs {channel}"),
            Self::Git { repository } => write!(f, "git {}", redacted(repository)),
            Self::Path(path) => write!(f, "path {}", path.display()),
        }
    }
}

/// A repository's address without the password of a URL.
fn redacted(repository: &str) -> String {
    let parts = repository.split_once("://").and_then(|(scheme, rest)| {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = authority.rsplit_once('@')?;
        // A token may also stand where the user's name does, so neither is shown.
        (!user.is_empty()).then(|| format!("{scheme}://…@{host}{path}"))
    });
    parts.unwrap_or_else(|| repository.to_owned())
}

/// Is `text` a URL's scheme (RFC 3986, section 3.1), or several joined, as in `git+ssh`?
fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// Why something cannot be a package source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// There is nothing.
    #[error("the {what} is empty")]
    Empty {
        /// What is empty.
        what: &'static str,
    },
    /// A channel with a character that none has.
    #[error(
        "channel `{channel}` has the character {found:?} at offset {offset}: give a channel such as nixos-26.05, or a commit"
    )]
    ChannelCharacter {
        /// The channel, control characters escaped.
        channel: String,
        /// The character.
        found: char,
        /// Its byte offset.
        offset: usize,
    },
    /// A channel with an empty part, or with one that starts with `.` or `-`.
    #[error(
        "channel `{channel}` has a part that is empty or starts with `.` or `-`: give a channel such as nixos-26.05, or a commit"
    )]
    ChannelPart {
        /// The channel.
        channel: String,
    },
    /// A repository with white space or a control character.
    #[error(
        "git repository `{repository}` has the character {found:?} at offset {offset}: white space and control characters may not be used"
    )]
    RepositoryCharacter {
        /// The repository, control characters escaped.
        repository: String,
        /// The character.
        found: char,
        /// Its byte offset.
        offset: usize,
    },
    /// A repository that git would take for an option.
    #[error(
        "git repository `{repository}` or its host starts with `-`: git would take it for an option"
    )]
    RepositoryOption {
        /// The repository.
        repository: String,
    },
    /// A repository behind one of git's remote helpers, which run commands.
    #[error(
        "git repository `{repository}` uses a transport that runs a command: give a URL, an absolute path or user@host:path"
    )]
    RepositoryTransport {
        /// The repository.
        repository: String,
    },
    /// A text that is no repository's address.
    #[error(
        "git repository `{repository}` is not an address: give a URL, an absolute path or user@host:path"
    )]
    RepositoryForm {
        /// The repository.
        repository: String,
    },
    /// A path that depends on where the program was started.
    #[error("package path `{}` is not absolute: write it from `/` on", .path.display())]
    RelativePath {
        /// The path.
        path: PathBuf,
    },
    /// A path with `..`.
    #[error("package path `{}` goes through `..`: write where it leads", .path.display())]
    ParentInPath {
        /// The path.
        path: PathBuf,
    },
    /// A path that cannot be handed to Nix as text.
    #[error("package path {path:?} has control characters or is not UTF-8: Nix cannot be given it")]
    PathText {
        /// The path.
        path: PathBuf,
    },
}

impl SourceError {
    /// The path that was refused, where it was a path.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::RelativePath { path } | Self::ParentInPath { path } | Self::PathText { path } => {
                Some(path)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
