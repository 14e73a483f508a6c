//! The report of a verification, for people and for machines.

use std::fmt;

use nixery_manifest::Digest;
use serde::{Serialize, Serializer};

use crate::{BLOBS, Folder, Key};

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "camelCase")]
#[non_exhaustive]
pub enum Problem {
    /// A blob that does not have the digest in its name.
    WrongDigest {
        /// SHA-256 of the stored bytes.
        actual: Digest,
    },
    /// An empty entry.
    Empty,
    /// An entry that is not JSON.
    NotJson {
        /// The parser's error.
        message: String,
    },
    /// An entry that is too large.
    TooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// An entry that says something else than what it names, or was written for another key.
    Untrue {
        /// The difference.
        message: String,
    },
    /// The object could not be read to its end.
    Unreadable {
        /// The error with its causes.
        message: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongDigest { actual } => write!(f, "its bytes have the digest {actual}"),
            Self::Empty => f.write_str("it is empty"),
            Self::NotJson { message } => write!(f, "it is not JSON: {message}"),
            Self::TooLarge { limit } => {
                write!(f, "it is larger than an entry can be ({limit} bytes)")
            }
            Self::Untrue { message } => f.write_str(message),
            Self::Unreadable { message } => write!(f, "it cannot be read: {message}"),
        }
    }
}

/// A defective object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Defect {
    /// The object.
    #[serde(serialize_with = "as_path")]
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// What is wrong with it.
    #[serde(flatten)]
    pub problem: Problem,
    /// Whether it was deleted.
    pub deleted: bool,
}

impl Defect {
    /// Returns a defect of an object that is still there.
    #[must_use]
    pub fn new(key: Key, size: u64, problem: Problem) -> Self {
        Self {
            key,
            size,
            problem,
            deleted: false,
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            size,
            problem,
            deleted,
        } = self;
        let deleted = if *deleted { ", deleted" } else { "" };
        write!(f, "{key} ({size} bytes{deleted}): {problem}")
    }
}

/// The result of a verification. Displayed as lines for people, serialised for machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct VerifyReport {
    /// Objects read in each folder. In JSON one member per folder, `blobs` for `layers`.
    #[serde(flatten, serialize_with = "as_counts")]
    pub objects: Vec<(Folder, u64)>,
    /// Of those, entries that the original Nixery wrote.
    pub legacy: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Defective objects, sorted by key.
    pub defects: Vec<Defect>,
    /// Entries with foreign names, sorted. They are not read and are not defects.
    pub foreign: Vec<String>,
}

impl VerifyReport {
    /// Whether no defect was found.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.defects.is_empty()
    }

    /// The number of objects read in `folder`.
    #[must_use]
    pub fn count(&self, folder: Folder) -> u64 {
        let count = self.objects.iter().find(|(read, _)| *read == folder);
        count.map_or(0, |(_, count)| *count)
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for defect in &self.defects {
            writeln!(f, "corrupt: {defect}")?;
        }
        for path in &self.foreign {
            writeln!(f, "foreign: {path}: not a name that Nixery uses; ignored")?;
        }
        for (at, (folder, count)) in self.objects.iter().enumerate() {
            let separator = match at {
                0 => "",
                _ if at + 1 == self.objects.len() => " and ",
                _ => ", ",
            };
            write!(f, "{separator}{count} {}", label(*folder))?;
        }
        write!(f, " verified, {} bytes", self.bytes)?;
        if self.legacy > 0 {
            write!(f, " ({} entries of the original Nixery)", self.legacy)?;
        }
        match self.defects.len() {
            0 => f.write_str(": all sound"),
            1 => f.write_str(": 1 is corrupt"),
            n => write!(f, ": {n} are corrupt"),
        }
    }
}

/// What the objects of a folder are called in reports.
fn label(folder: Folder) -> &'static str {
    if folder == BLOBS {
        "blobs"
    } else {
        folder.name()
    }
}

fn as_counts<S: Serializer>(objects: &[(Folder, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(
        objects
            .iter()
            .map(|(folder, count)| (label(*folder), count)),
    )
}

fn as_path<S: Serializer>(key: &Key, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(key)
}
