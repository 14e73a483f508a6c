//! Package sources: where the package set comes from.

use std::fmt;
use std::path::{Component, PathBuf};

use serde::Serialize;

use crate::tag::{Tag, is_commit};

/// Where the package set comes from.
///
/// Make one with [`channel`](Self::channel), [`git`](Self::git) or [`path`](Self::path), which
/// refuse what Nix or git would misunderstand. `Display` and `Debug` leave out a password in a URL.
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
#[derive(Clone, PartialEq, Eq, Hash)]
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

/// A package source as the Nix code takes it. `Debug` leaves out a password in a URL.
#[derive(Clone, PartialEq, Eq, Hash)]
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
        let invalid = |rule| SourceError::new("channel", channel, rule);
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+');
        // The channel becomes part of a URL's path, and of a command's arguments.
        let legal_part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']);
        if let Some((offset, found)) = channel.char_indices().find(|(_, c)| !legal(*c)) {
            Err(invalid(SourceRule::ChannelCharacter { found, offset }))
        } else if !channel.split('/').all(legal_part) {
            Err(invalid(SourceRule::ChannelPart))
        } else {
            Ok(Self::Channel(channel.to_owned()))
        }
    }

    /// A git repository.
    ///
    /// # Errors
    /// [`SourceError`] if the text is not a URL, an absolute path or `user@host:path`, or names
    /// one of git's transports that run a command.
    pub fn git(repository: &str) -> Result<Self, SourceError> {
        let invalid = |rule| {
            Err(SourceError::new(
                "git repository",
                &without_user(repository),
                rule,
            ))
        };
        let illegal = |(_, c): &(usize, char)| c.is_control() || c.is_whitespace();
        if let Some((offset, found)) = repository.char_indices().find(illegal) {
            return invalid(SourceRule::RepositoryCharacter { found, offset });
        }
        let url = repository.split_once("://");
        // A host that starts with `-` reaches ssh as an option.
        let host = match url {
            Some((_, rest)) => rest.split('/').next(),
            None => repository.split(['/', ':']).next(),
        };
        let host = host.unwrap_or_default();
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if repository.starts_with('-') || host.starts_with('-') {
            return invalid(SourceRule::RepositoryOption);
        }
        let scheme = repository.split(['/', '@']).next().unwrap_or_default();
        if scheme.contains("::") {
            return invalid(SourceRule::RepositoryTransport);
        }
        let has_a_form = match (url, repository.split_once(':')) {
            _ if repository.starts_with('/') => true,
            (Some((scheme, rest)), _) => is_scheme(scheme) && !rest.is_empty(),
            (None, Some((host, path))) => {
                !host.is_empty() && !host.contains('/') && !path.is_empty()
            }
            (None, None) => false,
        };
        if !has_a_form {
            return invalid(SourceRule::RepositoryForm);
        }
        // `user:a/b@host` without encoding is the host `user` to git, with the rest in its
        // messages.
        let port = host.rsplit_once(']').map_or(host, |(_, port)| port);
        if let Some((_, port)) = port.split_once(':')
            && url.is_some()
            && (port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return invalid(SourceRule::RepositoryPort);
        }
        Ok(Self::Git {
            repository: repository.to_owned(),
        })
    }

    /// A directory or file of this host. It does not have to exist yet.
    ///
    /// # Errors
    /// [`SourceError`] if the path is not absolute, goes through `..`, or is not plain UTF-8.
    pub fn path(path: impl Into<PathBuf>) -> Result<Self, SourceError> {
        let path = path.into();
        let invalid = |rule| {
            Err(SourceError::new(
                "package path",
                &path.to_string_lossy(),
                rule,
            ))
        };
        if path
            .to_str()
            .is_none_or(|text| text.contains(char::is_control))
        {
            invalid(SourceRule::PathText)
        } else if !path.is_absolute() {
            invalid(SourceRule::RelativePath)
        } else if path.components().any(|part| part == Component::ParentDir) {
            invalid(SourceRule::ParentInPath)
        } else {
            Ok(Self::Path(path))
        }
    }

    /// The kind of source: `nixpkgs`, `git` or `path`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Channel(_) => "nixpkgs",
            Self::Git { .. } => "git",
            Self::Path(_) => "path",
        }
    }

    /// Returns the source as the Nix code takes it, at a tag. Only a git source uses the tag;
    /// [`select`](Self::select) returns what a tag means for any source.
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

impl fmt::Debug for PackageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackageSource({self})")
    }
}

impl fmt::Debug for ResolvedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolvedSource")
            .field("src_type", &self.src_type)
            .field("src_args", &hide_credentials(&self.src_args))
            .field("revision", &self.revision)
            .finish()
    }
}

/// Returns the text without user names and passwords in URLs: `https://user:secret@host` becomes
/// `https://host`. A `?` or `#` before an `@` counts as a part of a password, which may hold one
/// unescaped: too much is removed rather than too little.
pub fn hide_credentials(text: &str) -> String {
    let mut rest = text;
    let mut clean = String::with_capacity(text.len());
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after.find(|c: char| c == '/' || c.is_whitespace() || "'\"`".contains(c));
        let authority = &after[..end.unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(user) => &after[user + 1..],
            None => after,
        };
    }
    clean.push_str(rest);
    clean
}

/// An address that may be wrong, without all that may be a user name or password.
fn without_user(address: &str) -> String {
    match address.split_once("://").zip(address.rsplit_once('@')) {
        Some(((scheme, _), (_, host))) => format!("{scheme}://…@{host}"),
        None => address.to_owned(),
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

impl SourceError {
    fn new(what: &'static str, value: &str, rule: SourceRule) -> Self {
        if value.is_empty() {
            return Self::Empty { what };
        }
        let value = value.escape_debug().to_string();
        Self::Invalid { what, value, rule }
    }
}

/// Why something cannot be a package source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The text or path is empty.
    #[error("the {what} is empty")]
    Empty {
        /// The kind of source, such as `channel`.
        what: &'static str,
    },
    /// The text or path breaks a rule.
    #[error("{what} `{value}` {rule}")]
    Invalid {
        /// The kind of source.
        what: &'static str,
        /// The text or path: without a password, control characters escaped.
        value: String,
        /// The rule.
        rule: SourceRule,
    },
}

/// The rule that a package source breaks. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceRule {
    /// Only some characters are allowed in a channel.
    #[error(
        "has the character {found:?} at offset {offset}: use a channel such as nixos-26.05, or a commit"
    )]
    ChannelCharacter {
        /// The character.
        found: char,
        /// Its offset.
        offset: usize,
    },
    /// No part of a channel is empty or starts with `.` or `-`.
    #[error(
        "has a part that is empty or starts with `.` or `-`: use a channel such as nixos-26.05, or a commit"
    )]
    ChannelPart,
    /// White space and control characters are not allowed in a repository's address.
    #[error(
        "has the character {found:?} at offset {offset}: remove white space and control characters"
    )]
    RepositoryCharacter {
        /// The character.
        found: char,
        /// Its offset.
        offset: usize,
    },
    /// Neither a repository nor its host looks like an option.
    #[error("or its host starts with `-`, which git would take for an option")]
    RepositoryOption,
    /// git's remote helpers, which run commands, are not allowed.
    #[error("uses a transport that runs a command: use a URL, an absolute path or user@host:path")]
    RepositoryTransport,
    /// A port is a number.
    #[error("has a port that is not a number: write `/` in a user name or password as %2F")]
    RepositoryPort,
    /// A repository's address has one of three forms.
    #[error("is not an address: use a URL, an absolute path or user@host:path")]
    RepositoryForm,
    /// A path does not depend on the directory in which the program was started.
    #[error("is not absolute: write the path from `/` on")]
    RelativePath,
    /// A path has no `..`.
    #[error("goes through `..`: write the path without it")]
    ParentInPath,
    /// A path can be given to Nix as text.
    #[error("has control characters or is not UTF-8, which Nix cannot read: rename it")]
    PathText,
}

#[cfg(test)]
mod tests;
