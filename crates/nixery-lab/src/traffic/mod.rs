//! Recorded pulls: which client pulled which image when, so that an operator can replay them.
//!
//! A registry records each [`Pull`] if that is switched on, and stores the pulls in batches under
//! `traffic/` ([`store_pulls`]). Clients and image names are salted [`Fingerprint`]s: no record
//! contains an address. [`read_pulls`] reads all batches. [`recorded_workload`] combines them with
//! the reference graphs that the store has of these images into a history that
//! [`replay`](crate::replay::replay()) takes.
//!
//! All of it may be lost at any time: the worst result is a replay of less.

mod fingerprint;
mod history;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use nixery_manifest::Digest;
use nixery_state::gc::{InUse, Retention};
use nixery_state::versioned;
use nixery_storage::{Contents, Folder, Key, PutMode, Storage, StorageError, error_chain};
use serde::{Deserialize, Serialize};

pub use fingerprint::Fingerprint;
pub use history::{RecordedWorkload, WEEK, recorded_workload};

use crate::numbers::number;

/// Batches of recorded pulls, each named by the SHA-256 of its bytes.
pub const TRAFFIC: Folder = Folder::new("traffic", Contents::Binary);

/// Limit of pulls in a batch. One process that writes them in five minutes has more than 30 pulls
/// per second.
pub const MOST_IN_BATCH: usize = 10_000;

/// Usual limit of the pulls that are read. With the data that a replay makes of them they take
/// some hundred megabytes.
pub const MOST_PULLS: usize = 1_000_000;

/// Retention of recorded pulls: 90 days.
pub const KEPT: Retention = Retention::new(
    TRAFFIC,
    Duration::from_secs(90 * 24 * 60 * 60),
    // A server that is always busy writes 26,000 batches in 90 days, one every five minutes. There
    // is room for seven such servers.
    200_000,
    InUse::Nothing,
);

/// Version of the format of a batch. Raise it when older programs must no longer read it.
const VERSION: u32 = 1;
/// Times that a clock can show: 2020 to 2099. Others would make a history of thousands of weeks.
const PLAUSIBLE_TIMES: std::ops::Range<u64> = 1_577_836_800..4_102_444_800;
/// Limit of the bytes of a batch that is read; a full one has at most 1.4 MB.
const MAX_BATCH_BYTES: u64 = 8 * 1024 * 1024;
/// Number of batches that are read concurrently.
const CONCURRENT_READS: usize = 16;

/// A manifest that a client fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pull {
    /// Seconds of Unix time.
    pub time: u64,
    /// The client.
    pub client: Fingerprint,
    /// The image: the digest that its entries under `manifests/` and `graphs/` have.
    pub image: Digest,
    /// The image's name: later pulls of one name get newer images.
    pub name: Fingerprint,
}

/// Pulls that a store has recorded.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordedPulls {
    /// In the order of time.
    pub pulls: Vec<Pull>,
    /// Batches that could not be read, and why: they are damaged, or of another version.
    pub unreadable: Vec<(Key, String)>,
    /// Number of older batches that were not read, because the newer ones have enough pulls.
    pub left_out: usize,
}

/// The format of a batch, in the envelope of a versioned record. Unknown fields are ignored.
#[derive(Serialize, Deserialize)]
struct Batch {
    /// Image and name, each pair once.
    images: Vec<(Digest, Fingerprint)>,
    /// Time, client, and the place in `images`.
    pulls: Vec<(u64, Fingerprint, usize)>,
}

/// Returns whether a pull can have been at this second of Unix time: between the years 2020 and
/// 2100. A batch with other times is not read.
#[must_use]
pub fn is_plausible(time: u64) -> bool {
    PLAUSIBLE_TIMES.contains(&time)
}

/// Stores pulls as one batch.
///
/// # Errors
/// The store failed.
pub async fn store_pulls(storage: &dyn Storage, pulls: &[Pull]) -> Result<(), StorageError> {
    let bytes = batch_to_bytes(pulls);
    let key = Key::new(TRAFFIC, Digest::of(&bytes));
    let stored = storage.put(&key, bytes.into(), PutMode::Replace).await;
    stored.map(drop)
}

/// Reads the newest batches of recorded pulls, until they have `most` pulls; usually
/// [`MOST_PULLS`]. `progress` is called with the number of batches that were read and of all
/// batches.
///
/// # Errors
/// The store failed.
pub async fn read_pulls(
    storage: &dyn Storage,
    most: usize,
    mut progress: impl FnMut(usize, usize),
) -> Result<RecordedPulls, StorageError> {
    let listing = storage.list(TRAFFIC).await?;
    let batches = listing.try_filter_map(async |entry| {
        let modified = entry.stat.modified;
        Ok(entry.key.map(|key| (modified, key)))
    });
    let mut batches: Vec<_> = Box::pin(batches).try_collect().await?;
    // The newest first. Without times the order is arbitrary, but always the same.
    batches.sort_unstable_by_key(|&batch| Reverse(batch));
    let total = batches.len();
    let mut recorded = RecordedPulls::default();
    let mut readable = Vec::new();
    let (mut pulls, mut done) = (0, 0);
    let mut contents = stream::iter(batches)
        .map(async |(_, key)| (key, read_batch(storage, key).await))
        .buffered(CONCURRENT_READS);
    while pulls < most
        && let Some((key, batch)) = contents.next().await
    {
        done += 1;
        progress(done, total);
        match batch? {
            Some(Ok(batch)) => {
                pulls += batch.len();
                readable.push((key, batch));
            }
            Some(Err(reason)) => recorded.unreadable.push((key, reason)),
            // The batch was collected meanwhile.
            None => {}
        }
    }
    recorded.left_out = total - done;
    // Pulls of one second are in the order of their batch, and batches in that of their keys.
    readable.sort_unstable_by_key(|&(key, _)| key);
    recorded.pulls = readable.into_iter().flat_map(|(_, pulls)| pulls).collect();
    recorded.pulls.sort_by_key(|pull| pull.time);
    Ok(recorded)
}

/// Reads a batch, or the reason why it is unreadable; `None` if it is missing.
async fn read_batch(
    storage: &dyn Storage,
    key: Key,
) -> Result<Option<Result<Vec<Pull>, String>>, StorageError> {
    let bytes = match storage.get_bytes(&key, MAX_BATCH_BYTES).await {
        Err(error @ (StorageError::Truncated { .. } | StorageError::TooLarge { .. })) => {
            return Ok(Some(Err(error_chain(&error))));
        }
        bytes => bytes?,
    };
    Ok(bytes.map(|bytes| {
        if Key::new(TRAFFIC, Digest::of(&bytes)) != key {
            return Err("its contents do not match its digest".to_owned());
        }
        batch_from_bytes(&bytes)
    }))
}

fn batch_to_bytes(pulls: &[Pull]) -> Vec<u8> {
    let mut places = HashMap::new();
    let mut images = Vec::new();
    let pulls = pulls.iter().map(|pull| {
        let image = (pull.image, pull.name);
        let place = number(&mut places, image) as usize;
        if place == images.len() {
            images.push(image);
        }
        (pull.time, pull.client, place)
    });
    let pulls = pulls.collect();
    versioned::to_bytes(VERSION, &Batch { images, pulls })
}

/// Reads a batch, or returns why it is unreadable.
fn batch_from_bytes(bytes: &[u8]) -> Result<Vec<Pull>, String> {
    let batch: Batch = versioned::from_bytes(VERSION, bytes).map_err(|error| {
        let error = error_chain(&error);
        format!("it is not a batch of pulls of version {VERSION}: {error}")
    })?;
    let (pulls, images) = (batch.pulls.len(), batch.images.len());
    if pulls > MOST_IN_BATCH {
        return Err(format!(
            "it has {pulls} pulls, and a batch has at most {MOST_IN_BATCH}"
        ));
    }
    let read = |(pull, (time, client, image)): (usize, (u64, Fingerprint, usize))| {
        if !is_plausible(time) {
            return Err(format!(
                "pull {pull} was at {time} s of Unix time, which is not between the years 2020 and 2100"
            ));
        }
        let Some(&(image, name)) = batch.images.get(image) else {
            return Err(format!(
                "pull {pull} names image {image}, but there are only {images}, counted from 0"
            ));
        };
        Ok(Pull {
            time,
            client,
            image,
            name,
        })
    };
    batch.pulls.into_iter().enumerate().map(read).collect()
}
