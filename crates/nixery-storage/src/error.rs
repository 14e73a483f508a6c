//! [`StorageError`]: failures of a store, with backend, operation and object.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Writing an object.
    Write,
    /// Reading an object's bytes.
    Read,
    /// Looking up an object's size.
    Stat,
    /// Listing a folder.
    List,
    /// Deleting an object.
    Delete,
    /// Signing a URL.
    Sign,
    /// Testing that the store can be reached and written to.
    Check,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Stat => "look up",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Sign => "sign a URL for",
            Self::Check => "check",
        })
    }
}

/// The kind of a [`StorageError`], without its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// The store cannot be opened.
    Open,
    /// The store does not allow the operation.
    Denied,
    /// The store is full.
    NoSpace,
    /// The backend failed in another way.
    Failed,
    /// The caller's spool file cannot be read.
    Spool,
    /// The object ended early.
    Truncated,
    /// The requested range contains no byte of the object.
    RangeNotSatisfiable,
    /// The object is larger than the caller allows.
    TooLarge,
}

/// A failed storage operation.
///
/// Messages name the backend, the operation and the object (`layers/<hex>`). Only
/// [`StorageError::Open`], which is not for clients, names paths of the machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The store cannot be opened.
    #[error("the {backend} store at {location} cannot be opened: {problem}")]
    Open {
        /// Name of the backend.
        backend: &'static str,
        /// Where the store should be.
        location: String,
        /// What is wrong, and what to do about it.
        problem: String,
        /// The operating system's error, if there is one.
        #[source]
        source: Option<io::Error>,
    },
    /// The store does not allow the operation: permissions, or a read-only file system.
    #[error(
        "the {backend} store refused to {operation} {target}: no permission, or it is read-only"
    )]
    Denied {
        /// Name of the backend.
        backend: &'static str,
        /// The operation that failed.
        operation: Operation,
        /// The object or folder.
        target: String,
        /// The backend's error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The store is full. Nothing was stored under the object's name.
    #[error("the {backend} store has no space left to {operation} {target}. Fix: free some space")]
    NoSpace {
        /// Name of the backend.
        backend: &'static str,
        /// The operation that failed.
        operation: Operation,
        /// The object or folder.
        target: String,
        /// The backend's error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The backend failed in another way.
    #[error("the {backend} store failed to {operation} {target}")]
    Failed {
        /// Name of the backend.
        backend: &'static str,
        /// The operation that failed.
        operation: Operation,
        /// The object or folder.
        target: String,
        /// Whether the same call may succeed later.
        retryable: bool,
        /// The backend's error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The caller's spool file cannot be read.
    #[error("the spool file of {target} cannot be read")]
    Spool {
        /// The object to be stored.
        target: String,
        /// The spool file, for logs.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The object ended before the size that the store reported.
    #[error("{target} in the {backend} store is truncated: {actual} of {expected} bytes")]
    Truncated {
        /// Name of the backend.
        backend: &'static str,
        /// The object.
        target: String,
        /// Bytes promised.
        expected: u64,
        /// Bytes read.
        actual: u64,
    },
    /// The requested range contains no byte of the object.
    #[error("bytes {start}..{end} of {target} do not exist: it has {size} bytes")]
    RangeNotSatisfiable {
        /// The object.
        target: String,
        /// First byte requested.
        start: u64,
        /// First byte after the range.
        end: u64,
        /// The object's size.
        size: u64,
    },
    /// The object is larger than the caller allows.
    #[error("{target} in the {backend} store has {size} bytes, but at most {limit} are allowed")]
    TooLarge {
        /// Name of the backend.
        backend: &'static str,
        /// The object.
        target: String,
        /// The object's size.
        size: u64,
        /// The caller's limit.
        limit: u64,
    },
}

impl StorageError {
    /// The kind of the error.
    #[must_use]
    pub const fn kind(&self) -> StorageErrorKind {
        match self {
            Self::Open { .. } => StorageErrorKind::Open,
            Self::Denied { .. } => StorageErrorKind::Denied,
            Self::NoSpace { .. } => StorageErrorKind::NoSpace,
            Self::Failed { .. } => StorageErrorKind::Failed,
            Self::Spool { .. } => StorageErrorKind::Spool,
            Self::Truncated { .. } => StorageErrorKind::Truncated,
            Self::RangeNotSatisfiable { .. } => StorageErrorKind::RangeNotSatisfiable,
            Self::TooLarge { .. } => StorageErrorKind::TooLarge,
        }
    }

    /// Whether the same call may succeed later without a change by an operator.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Failed { retryable, .. } => *retryable,
            // Garbage collection and log rotation free space.
            Self::NoSpace { .. } => true,
            // Another writer may be replacing the truncated object.
            Self::Truncated { .. } => true,
            Self::Open { .. }
            | Self::Denied { .. }
            | Self::Spool { .. }
            | Self::RangeNotSatisfiable { .. }
            | Self::TooLarge { .. } => false,
        }
    }

    /// Classifies an error of the operating system.
    pub(crate) fn io(
        backend: &'static str,
        operation: Operation,
        target: impl fmt::Display,
        source: io::Error,
    ) -> Self {
        let class = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::NoSpace,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Class::Denied,
            kind => Class::Failed {
                retryable: matches!(
                    kind,
                    io::ErrorKind::Interrupted
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::WouldBlock
                        | io::ErrorKind::ResourceBusy
                        | io::ErrorKind::StaleNetworkFileHandle
                ),
            },
        };
        class.error(backend, operation, target, source.into())
    }

    pub(crate) fn spool(target: impl fmt::Display, path: &Path, source: io::Error) -> Self {
        Self::Spool {
            target: target.to_string(),
            path: path.to_owned(),
            source,
        }
    }
}

/// The variant of [`StorageError`] for a backend's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Denied,
    NoSpace,
    Failed { retryable: bool },
}

impl Class {
    pub(crate) fn error(
        self,
        backend: &'static str,
        operation: Operation,
        target: impl fmt::Display,
        source: Box<dyn Error + Send + Sync>,
    ) -> StorageError {
        let target = target.to_string();
        match self {
            Self::Denied => StorageError::Denied {
                backend,
                operation,
                target,
                source,
            },
            Self::NoSpace => StorageError::NoSpace {
                backend,
                operation,
                target,
                source,
            },
            Self::Failed { retryable } => StorageError::Failed {
                backend,
                operation,
                target,
                retryable,
                source,
            },
        }
    }
}

/// Separates the problem from the remedy in a message.
const REMEDY: &str = ". Fix: ";

/// Formats an error with its causes as one line, `outer: cause: cause`. A cause that its parent's
/// text already ends with is left out. Remedies (`. Fix: …`) follow after all causes.
#[must_use]
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    let mut remedies: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let (problem, remedy) = match text.split_once(REMEDY) {
            Some((problem, remedy)) => (problem, Some(remedy)),
            None => (text.as_str(), None),
        };
        if !line.ends_with(problem) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(problem);
        }
        if let Some(remedy) = remedy.filter(|remedy| !remedies.iter().any(|other| other == remedy))
        {
            remedies.push(remedy.to_owned());
        }
        next = error.source();
    }
    for remedy in remedies {
        line.push_str(REMEDY);
        line.push_str(&remedy);
    }
    line
}

/// Formats the causes of an error as [`error_chain`] does, without the error itself; `None` for an
/// error without a cause.
#[must_use]
pub fn error_causes(error: &(dyn Error + 'static)) -> Option<String> {
    error.source().map(error_chain)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Link(&'static str, #[source] Option<Box<Link>>);

    #[rstest]
    #[case::alone(&["outer"], "outer")]
    #[case::causes(&["outer", "middle", "inner"], "outer: middle: inner")]
    #[case::repeated(&["outer: middle", "middle", "inner"], "outer: middle: inner")]
    #[case::transparent(&["outer", "outer", "inner"], "outer: inner")]
    #[case::without_words(&["outer", ""], "outer")]
    #[case::remedies(&["outer. Fix: a", "inner. Fix: b", "cause"], "outer: inner: cause. Fix: a. Fix: b")]
    #[case::repeated_remedy(&["outer: inner. Fix: a", "inner. Fix: a"], "outer: inner. Fix: a")]
    fn a_chain_names_each_cause_once(#[case] texts: &[&'static str], #[case] line: &str) {
        let chain = texts
            .iter()
            .rev()
            .fold(None, |source, text| Some(Box::new(Link(text, source))));
        let chain = chain.expect("not empty");
        assert_eq!(error_chain(&*chain), line);
        let causes = chain.source().map(error_chain);
        assert_eq!(error_causes(&*chain), causes);
    }

    #[rstest]
    #[case(io::ErrorKind::StorageFull, "no space left to write layers/x", true)]
    #[case(io::ErrorKind::QuotaExceeded, "no space left to write layers/x", true)]
    #[case(io::ErrorKind::PermissionDenied, "refused to write layers/x", false)]
    #[case(io::ErrorKind::ReadOnlyFilesystem, "refused to write layers/x", false)]
    #[case(io::ErrorKind::TimedOut, "failed to write layers/x", true)]
    #[case(io::ErrorKind::InvalidInput, "failed to write layers/x", false)]
    fn an_io_error_names_what_failed(
        #[case] kind: io::ErrorKind,
        #[case] message: &str,
        #[case] retryable: bool,
    ) {
        let error = StorageError::io("filesystem", Operation::Write, "layers/x", kind.into());
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.to_string().contains("filesystem"), "{error}");
        assert_eq!(error.is_retryable(), retryable);
        let cause = error.source().expect("the reason is kept").to_string();
        assert!(
            !error.to_string().contains(&cause),
            "the source is not repeated"
        );
    }
}
