//! Reading all batches of a store.

use std::cmp::Reverse;

use futures::{StreamExt, TryStreamExt};
use nixery_manifest::Digest;
use nixery_storage::{Key, Storage, StorageError};

use super::{Pull, batch};
use crate::traffic::TRAFFIC;

/// Most pulls that are read: the newest. With what a replay makes of them they take some hundred
/// megabytes.
pub const MOST_PULLS: usize = 1_000_000;
/// Most bytes of a batch that is read; a full one has at most 1.4 MB.
const MOST_BYTES: u64 = 8 * 1024 * 1024;
/// Batches read at once.
const AT_ONCE: usize = 16;

/// What a store has recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordedPulls {
    /// In the order of time.
    pub pulls: Vec<Pull>,
    /// Batches that were read.
    pub batches: usize,
    /// Batches that could not be read, and why: they are damaged, or of another version.
    pub unreadable: Vec<(Key, String)>,
    /// Batches that were left out because they are older than [`MOST_PULLS`] pulls.
    pub left_out: usize,
}

/// Reads all recorded pulls, the newest [`MOST_PULLS`]; `progress` is told how many batches of how many
/// were read.
///
/// # Errors
/// The store failed.
pub async fn read_pulls(
    storage: &dyn Storage,
    progress: impl FnMut(usize, usize),
) -> Result<RecordedPulls, StorageError> {
    read_at_most(storage, MOST_PULLS, progress).await
}

pub(super) async fn read_at_most(
    storage: &dyn Storage,
    most: usize,
    mut progress: impl FnMut(usize, usize),
) -> Result<RecordedPulls, StorageError> {
    let mut batches: Vec<_> = storage
        .list(TRAFFIC)
        .await?
        .try_filter_map(|entry| async move { Ok(entry.key.map(|key| (entry.stat.modified, key))) })
        .try_collect()
        .await?;
    // The newest first; without times in any order, but always the same.
    batches.sort_unstable_by_key(|&(modified, key)| Reverse((modified, key)));
    let total = batches.len();
    let mut read = RecordedPulls::default();
    let mut found: Vec<(Key, Vec<Pull>)> = Vec::new();
    let (mut pulls, mut done) = (0, 0);
    {
        let mut contents = futures::stream::iter(batches)
            .map(|(_, key)| async move { (key, read_batch(storage, key).await) })
            .buffered(AT_ONCE);
        while pulls < most
            && let Some((key, batch)) = contents.next().await
        {
            done += 1;
            progress(done, total);
            match batch? {
                Contents::Pulls(batch) => {
                    pulls += batch.len();
                    found.push((key, batch));
                }
                Contents::Gone => {}
                Contents::Unreadable(why) => read.unreadable.push((key, why)),
            }
        }
    }
    read.batches = found.len();
    read.left_out = total - done;
    // Pulls of one second stand as in their batch, and batches in one order wherever they lie.
    found.sort_unstable_by_key(|&(key, _)| key);
    read.pulls = found.into_iter().flat_map(|(_, pulls)| pulls).collect();
    read.pulls.sort_by_key(|pull| pull.time);
    Ok(read)
}

enum Contents {
    Pulls(Vec<Pull>),
    /// It was collected meanwhile.
    Gone,
    Unreadable(String),
}

async fn read_batch(storage: &dyn Storage, key: Key) -> Result<Contents, StorageError> {
    let unreadable = |why: &dyn std::fmt::Display| Ok(Contents::Unreadable(why.to_string()));
    let bytes = match storage.get_bytes(&key, MOST_BYTES).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Contents::Gone),
        Err(error @ (StorageError::Truncated { .. } | StorageError::TooLarge { .. })) => {
            return unreadable(&error);
        }
        Err(error) => return Err(error),
    };
    if Key::new(TRAFFIC, Digest::of(&bytes)) != key {
        return unreadable(&"it is not what its digest says");
    }
    match batch::from_bytes(&bytes) {
        Ok(pulls) => Ok(Contents::Pulls(pulls)),
        Err(error) => unreadable(&error),
    }
}
