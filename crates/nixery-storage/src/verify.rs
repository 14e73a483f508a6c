//! [`verify()`]: reads a whole store and tells what is not what its name says.

use std::fmt;

use futures::stream::{self, StreamExt, TryStreamExt};
use nixery_manifest::{Digest, Digester};
use serde::{Serialize, Serializer};

use crate::{Entry, Key, KeyKind, Storage, StorageError};

/// Objects read at once by default: hides a remote store's latency, and fits small machines.
pub const DEFAULT_CONCURRENCY: usize = 4;

/// Cache entries are a few kilobytes; the registries' limit for a manifest is 4 MiB.
const MAX_CACHE_ENTRY: u64 = 64 << 20;

/// How to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Objects read at once; 0 counts as 1.
    pub concurrency: usize,
    /// Delete what is corrupt, so that the next build makes it anew. Unreadable and foreign
    /// entries are never deleted.
    pub delete_corrupt: bool,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            concurrency: DEFAULT_CONCURRENCY,
            delete_corrupt: false,
        }
    }
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Objects listed at the start.
    pub objects_total: u64,
    /// Objects read to the end.
    pub objects_done: u64,
    /// Bytes of the objects listed at the start.
    pub bytes_total: u64,
    /// Bytes of the objects read to the end.
    pub bytes_done: u64,
    /// Defects found.
    pub defects: u64,
}

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "camelCase")]
pub enum Problem {
    /// A blob whose bytes are not those its name stands for.
    WrongDigest {
        /// SHA-256 of what is stored.
        actual: Digest,
    },
    /// A cache entry without a byte.
    Empty,
    /// A cache entry that is not JSON.
    NotJson {
        /// Where and why.
        message: String,
    },
    /// A cache entry of an absurd size.
    TooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// The object could not be read to its end.
    Unreadable {
        /// The chain of reasons.
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
                write!(f, "it is larger than any cache entry ({limit} bytes)")
            }
            Self::Unreadable { message } => write!(f, "it cannot be read: {message}"),
        }
    }
}

/// A defective object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
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

/// What a verification found. Displayed as lines for people; serialised for machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// Blobs rehashed.
    pub blobs: u64,
    /// Cached manifests read.
    pub manifests: u64,
    /// Cached builds read.
    pub builds: u64,
    /// Of those, cache entries that the original Nixery wrote.
    pub legacy: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Defective objects, sorted by key.
    pub defects: Vec<Defect>,
    /// Entries with names that no Nixery wrote, sorted. Not read, and no defects.
    pub foreign: Vec<String>,
}

impl VerifyReport {
    /// Whether no defect was found.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.defects.is_empty()
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for defect in &self.defects {
            writeln!(f, "corrupt: {defect}")?;
        }
        for path in &self.foreign {
            writeln!(
                f,
                "foreign: {path}: not a name that Nixery gives, left alone"
            )?;
        }
        write!(
            f,
            "{} blobs, {} manifests and {} builds verified, {} bytes",
            self.blobs, self.manifests, self.builds, self.bytes,
        )?;
        if self.legacy > 0 {
            write!(f, " ({} entries of the original's)", self.legacy)?;
        }
        match self.defects.len() {
            0 => f.write_str(": all sound"),
            1 => f.write_str(": 1 is corrupt"),
            n => write!(f, ": {n} are corrupt"),
        }
    }
}

/// Reads every object: hashes blobs, parses cache entries. `progress` is called after each object.
///
/// Objects written or deleted meanwhile are no defects.
///
/// # Errors
/// When the store cannot be listed, or a defective object not deleted. An object that cannot be
/// read is a defect of the report and no error.
pub async fn verify(
    storage: &dyn Storage,
    options: &VerifyOptions,
    mut progress: impl FnMut(VerifyProgress),
) -> Result<VerifyReport, StorageError> {
    let mut report = VerifyReport::default();
    let mut entries: Vec<(Key, u64)> = Vec::new();
    for kind in KeyKind::ALL {
        let mut listing = storage.list(kind).await?;
        while let Some(Entry { path, key, stat }) = listing.try_next().await? {
            match key {
                Some(key) => entries.push((key, stat.size)),
                None => report.foreign.push(path),
            }
        }
    }
    let mut state = VerifyProgress {
        objects_total: entries.len() as u64,
        bytes_total: entries.iter().map(|(_, size)| size).sum(),
        ..VerifyProgress::default()
    };
    progress(state);

    let mut checks = stream::iter(entries)
        .map(|(key, size)| async move { (key, size, examine(storage, &key).await) })
        .buffer_unordered(options.concurrency.max(1));
    while let Some((key, size, outcome)) = checks.next().await {
        state.objects_done += 1;
        state.bytes_done += size;
        match outcome {
            Outcome::Gone => {}
            Outcome::Sound { bytes } => count(&mut report, &key, bytes),
            Outcome::Defective(problem) => {
                count(&mut report, &key, 0);
                state.defects += 1;
                // An object that cannot be read now may be sound.
                let hopeless = !matches!(problem, Problem::Unreadable { .. });
                let deleted = options.delete_corrupt && hopeless && storage.delete(&key).await?;
                report.defects.push(Defect {
                    key,
                    size,
                    problem,
                    deleted,
                });
            }
        }
        progress(state);
    }
    report.defects.sort_by_key(|defect| defect.key);
    report.foreign.sort();
    Ok(report)
}

fn count(report: &mut VerifyReport, key: &Key, bytes: u64) {
    report.bytes += bytes;
    report.legacy += u64::from(key.is_legacy());
    match key.kind() {
        KeyKind::Blob => report.blobs += 1,
        KeyKind::Manifest => report.manifests += 1,
        KeyKind::Build => report.builds += 1,
    }
}

enum Outcome {
    Sound { bytes: u64 },
    Gone,
    Defective(Problem),
}

async fn examine(storage: &dyn Storage, key: &Key) -> Outcome {
    let result = match key {
        Key::Blob(digest) => examine_blob(storage, key, digest).await,
        _ => examine_cache_entry(storage, key).await,
    };
    result.unwrap_or_else(|error| {
        Outcome::Defective(Problem::Unreadable {
            message: chain(&error),
        })
    })
}

async fn examine_blob(
    storage: &dyn Storage,
    key: &Key,
    expected: &Digest,
) -> Result<Outcome, StorageError> {
    let Some(mut reader) = storage.get(key, None).await? else {
        return Ok(Outcome::Gone);
    };
    let mut digester = Digester::new();
    while let Some(chunk) = reader.body.try_next().await? {
        // Objects are hashed in parallel, and the runtime's threads stay free.
        digester = tokio::task::spawn_blocking(move || {
            digester.update(&chunk);
            digester
        })
        .await
        .map_err(|error| StorageError::Failed {
            backend: storage.backend(),
            operation: crate::Operation::Read,
            target: key.to_string(),
            retryable: false,
            source: error.into(),
        })?;
    }
    let bytes = digester.bytes();
    let actual = digester.finish();
    Ok(if actual == *expected {
        Outcome::Sound { bytes }
    } else {
        Outcome::Defective(Problem::WrongDigest { actual })
    })
}

async fn examine_cache_entry(storage: &dyn Storage, key: &Key) -> Result<Outcome, StorageError> {
    let bytes = match storage.get_bytes(key, MAX_CACHE_ENTRY).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Outcome::Gone),
        Err(StorageError::TooLarge { limit, .. }) => {
            return Ok(Outcome::Defective(Problem::TooLarge { limit }));
        }
        Err(error) => return Err(error),
    };
    if bytes.is_empty() {
        return Ok(Outcome::Defective(Problem::Empty));
    }
    Ok(
        match serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
            Ok(_) => Outcome::Sound {
                bytes: bytes.len() as u64,
            },
            Err(error) => Outcome::Defective(Problem::NotJson {
                message: error.to_string(),
            }),
        },
    )
}

/// The error and its reasons, as one line.
fn chain(error: &StorageError) -> String {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        message.push_str(": ");
        message.push_str(&error.to_string());
        source = error.source();
    }
    message
}

fn as_path<S: Serializer>(key: &Key, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(key)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{MemoryStorage, PutMode};

    async fn put(storage: &MemoryStorage, key: Key, bytes: &'static str) {
        let bytes = Bytes::from(bytes);
        let _ = storage
            .put(&key, bytes, PutMode::Replace)
            .await
            .expect("put");
    }

    /// A store with two sound objects and one of every defect that does not need a disk.
    async fn broken_store() -> MemoryStorage {
        let storage = MemoryStorage::new();
        let [a, b, c] = ["a", "b", "c"].map(|name| Digest::of(name.as_bytes()));
        put(&storage, Key::Blob(a), "a").await;
        put(&storage, Key::Blob(b), "not b").await;
        put(&storage, Key::Manifest(a), r#"{"any": "JSON"}"#).await;
        put(&storage, Key::Manifest(b), "").await;
        put(&storage, Key::LegacyBuild([7; 20]), "[]").await;
        put(&storage, Key::Build(c), r#"{"cut": "#).await;
        storage
    }

    #[tokio::test]
    async fn every_defect_is_found_and_only_those() {
        let storage = broken_store().await;
        let mut last = VerifyProgress::default();
        let report = verify(&storage, &VerifyOptions::default(), |progress| {
            last = progress
        })
        .await
        .expect("verify");
        assert!(!report.is_sound());
        assert_eq!((report.blobs, report.manifests, report.builds), (2, 2, 2));
        assert_eq!((report.legacy, report.bytes), (1, 1 + 15 + 2));
        assert_eq!(
            report
                .defects
                .iter()
                .map(|d| d.problem.clone())
                .collect::<Vec<_>>(),
            [
                Problem::WrongDigest {
                    actual: Digest::of(b"not b")
                },
                Problem::Empty,
                Problem::NotJson {
                    message: "EOF while parsing a value at line 1 column 8".into()
                },
            ]
        );
        assert_eq!((last.objects_done, last.objects_total), (6, 6));
        assert_eq!(last.bytes_done, last.bytes_total);
        assert_eq!(last.defects, 3);
        let text = report.to_string();
        assert!(
            text.contains(&format!("corrupt: layers/{}", Digest::of(b"b").hex())),
            "{text}"
        );
        assert!(text.ends_with("3 are corrupt"), "{text}");
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["defects"][0]["problem"], "wrongDigest");
        assert_eq!(
            json["defects"][0]["actual"],
            Digest::of(b"not b").to_string()
        );
        // Looking changes nothing.
        let again = verify(&storage, &VerifyOptions::default(), |_| ())
            .await
            .expect("verify");
        assert_eq!(again, report);
    }

    #[tokio::test]
    async fn corrupt_objects_are_deleted_when_asked() {
        let storage = broken_store().await;
        let options = VerifyOptions {
            concurrency: 0,
            delete_corrupt: true,
        };
        let report = verify(&storage, &options, |_| ()).await.expect("verify");
        assert!(report.defects.iter().all(|defect| defect.deleted));
        let report = verify(&storage, &options, |_| ()).await.expect("verify");
        assert!(report.is_sound(), "{report}");
        assert_eq!((report.blobs, report.manifests, report.builds), (1, 1, 1));
        assert!(report.to_string().ends_with("all sound"), "{report}");
    }
}
