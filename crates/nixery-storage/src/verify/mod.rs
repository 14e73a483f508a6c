//! [`verify()`]: reads a whole store and reports corrupt objects.

use futures::stream::{self, StreamExt, TryStreamExt};
use nixery_manifest::{Digest, Digester};

use crate::{Contents, Entry, Folder, Key, Storage, StorageError, error_chain};

mod report;

pub use report::{Defect, Problem, VerifyReport};

/// Objects read at once by default: enough to hide the latency of a remote store.
pub const DEFAULT_CONCURRENCY: usize = 4;

/// Bytes of an entry. Entries have a few kilobytes; registries limit manifests to 4 MiB.
const MAX_ENTRY: u64 = 64 << 20;

/// How to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Objects read at once; 0 counts as 1.
    pub concurrency: usize,
    /// Delete corrupt objects, so that the next build creates them again. Unreadable objects and
    /// foreign entries are never deleted.
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

/// The progress of a verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
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

/// Reads every object of `folders` and checks what their [`Contents`] allow: the digest of blobs,
/// the syntax of JSON entries. Calls `progress` after each object.
///
/// An object that is written or deleted meanwhile is not a defect.
///
/// # Errors
/// The store cannot be listed, or a corrupt object cannot be deleted. An object that cannot be
/// read is a defect in the report, not an error.
pub async fn verify(
    storage: &dyn Storage,
    folders: &[Folder],
    options: &VerifyOptions,
    mut progress: impl FnMut(VerifyProgress),
) -> Result<VerifyReport, StorageError> {
    let mut report = VerifyReport::default();
    let mut entries: Vec<(Key, u64)> = Vec::new();
    for &folder in folders {
        report.objects.push((folder, 0));
        let mut listing = storage.list(folder).await?;
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
            VerifyOutcome::Gone => {}
            VerifyOutcome::Sound { bytes } => count(&mut report, &key, bytes),
            VerifyOutcome::Defective(problem) => {
                count(&mut report, &key, 0);
                state.defects += 1;
                // An unreadable object may be sound.
                let is_corrupt = !matches!(problem, Problem::Unreadable { .. });
                let deleted = options.delete_corrupt && is_corrupt && storage.delete(&key).await?;
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
    let place = |key: Key| folders.iter().position(|folder| *folder == key.folder());
    report
        .defects
        .sort_by_key(|defect| (place(defect.key), defect.key));
    report.foreign.sort();
    Ok(report)
}

fn count(report: &mut VerifyReport, key: &Key, bytes: u64) {
    report.bytes += bytes;
    report.legacy += u64::from(key.is_legacy());
    let objects = report.objects.iter_mut();
    for (_, count) in objects.filter(|(folder, _)| *folder == key.folder()) {
        *count += 1;
    }
}

enum VerifyOutcome {
    Sound { bytes: u64 },
    Gone,
    Defective(Problem),
}

async fn examine(storage: &dyn Storage, key: &Key) -> VerifyOutcome {
    let result = match key.folder().contents() {
        Contents::Json => examine_entry(storage, key).await,
        Contents::Addressed | Contents::Binary => examine_bytes(storage, key).await,
    };
    result.unwrap_or_else(|error| {
        VerifyOutcome::Defective(Problem::Unreadable {
            message: error_chain(&error),
        })
    })
}

async fn examine_bytes(storage: &dyn Storage, key: &Key) -> Result<VerifyOutcome, StorageError> {
    let is_addressed = key.folder().contents() == Contents::Addressed;
    let expected = key.digest().filter(|_| is_addressed);
    Ok(match hash(storage, key).await? {
        None => VerifyOutcome::Gone,
        Some((actual, _)) if expected.is_some_and(|expected| expected != actual) => {
            VerifyOutcome::Defective(Problem::WrongDigest { actual })
        }
        Some((_, bytes)) => VerifyOutcome::Sound { bytes },
    })
}

/// Reads a whole object and returns its digest and size in bytes; `None` when it does not exist.
///
/// # Errors
/// The object cannot be read to its end.
pub async fn hash(storage: &dyn Storage, key: &Key) -> Result<Option<(Digest, u64)>, StorageError> {
    let Some(mut reader) = storage.get(key, None).await? else {
        return Ok(None);
    };
    let mut digester = Digester::new();
    while let Some(chunk) = reader.body.try_next().await? {
        // Hashing on blocking threads runs in parallel and keeps the runtime responsive.
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
    Ok(Some((digester.finish(), bytes)))
}

async fn examine_entry(storage: &dyn Storage, key: &Key) -> Result<VerifyOutcome, StorageError> {
    let bytes = match storage.get_bytes(key, MAX_ENTRY).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(VerifyOutcome::Gone),
        Err(StorageError::TooLarge { limit, .. }) => {
            return Ok(VerifyOutcome::Defective(Problem::TooLarge { limit }));
        }
        Err(error) => return Err(error),
    };
    if bytes.is_empty() {
        return Ok(VerifyOutcome::Defective(Problem::Empty));
    }
    Ok(
        match serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
            Ok(_) => VerifyOutcome::Sound {
                bytes: bytes.len() as u64,
            },
            Err(error) => VerifyOutcome::Defective(Problem::NotJson {
                message: error.to_string(),
            }),
        },
    )
}

#[cfg(test)]
mod tests;
