//! Recorded pulls: who pulled which image when, so that an operator can replay them.
//!
//! A registry records each [`Pull`] where that is switched on, and stores them in batches under
//! `traffic/` ([`store_pulls`]). Clients and image names are salted [`Fingerprint`]s: no record tells an
//! address. [`read_pulls`] reads all batches, and [`recorded_workload`] makes them a history that
//! [`replay`](crate::replay::replay()) takes, with the reference graphs that the store has of these images.
//!
//! All of it may be lost at any time: the worst is a replay of less.

mod batch;
mod fingerprint;
mod read;
#[cfg(test)]
mod tests;
mod workload;

pub use batch::{BatchError, is_plausible};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use read::{MOST_PULLS, RecordedPulls, read_pulls};
pub use workload::{RecordedWorkload, WEEK, recorded_workload};

use std::time::Duration;

use nixery_manifest::Digest;
use nixery_state::gc::{InUse, Retention};
use nixery_storage::{Contents, Folder, Key, PutMode, Storage, StorageError};

/// Batches of recorded pulls, each named by the SHA-256 of its bytes.
pub const TRAFFIC: Folder = Folder::new("traffic", Contents::Binary);

/// Most pulls of a batch. Written by one process in five minutes, they are more than 30 a second.
pub const MOST_IN_BATCH: usize = 10_000;

/// How long recorded pulls are remembered: 90 days.
pub const KEPT: Retention = Retention::new(
    TRAFFIC,
    Duration::from_secs(90 * 24 * 60 * 60),
    // A server that never rests writes 26,000 batches in 90 days, one every five minutes: there is
    // room for seven of them.
    200_000,
    InUse::Nothing,
);

/// A manifest that a client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pull {
    /// Seconds of Unix time.
    pub time: u64,
    /// The client.
    pub client: Fingerprint,
    /// The image: the digest that its entries under `manifests/` and `graphs/` have.
    pub image: Digest,
    /// The image's name: pulls of one name get newer and newer images.
    pub name: Fingerprint,
}

/// Stores pulls as one batch.
///
/// # Errors
/// The store failed.
pub async fn store_pulls(storage: &dyn Storage, pulls: &[Pull]) -> Result<(), StorageError> {
    let bytes = batch::to_bytes(pulls);
    let key = Key::new(TRAFFIC, Digest::of(&bytes));
    storage
        .put(&key, bytes.into(), PutMode::Replace)
        .await
        .map(drop)
}
