//! The format of a batch: versioned JSON.
//!
//! `{"version":1,"images":[[image, name], …],"pulls":[[time, client, place in images], …]}`. Fields that
//! are not known are ignored.

use std::collections::HashMap;

use nixery_manifest::Digest;
use nixery_state::versioned::{self, VersionedError};
use serde::{Deserialize, Serialize};

use super::{Fingerprint, MOST_IN_BATCH, Pull};

/// Raise it when older programs must not read it any more.
const VERSION: u32 = 1;
/// Times that a clock can tell: 2020 to 2099. What lies outside would make a history of thousands of weeks.
const TIMES: std::ops::Range<u64> = 1_577_836_800..4_102_444_800;

/// Whether a pull may have been at this second of Unix time: between the years 2020 and 2100. A batch with
/// others is not read.
#[must_use]
pub fn is_plausible(time: u64) -> bool {
    TIMES.contains(&time)
}

/// Why a batch was not read.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// It is no JSON of the right shape.
    #[error("it is no batch of pulls")]
    Malformed(#[source] VersionedError),
    /// Another program wrote it.
    #[error("its version is {version}, and this program reads version {VERSION}")]
    Version {
        /// The version it has.
        version: u64,
    },
    /// It has more pulls than any program writes.
    #[error("it has {pulls} pulls, and a batch has {MOST_IN_BATCH} at most")]
    TooMany {
        /// How many.
        pulls: usize,
    },
    /// A pull names an image that is not in the list.
    #[error("pull {place} names image {image}, but there are only {images}, counted from 0")]
    NoImage {
        /// Where, counted from 0.
        place: usize,
        /// The number.
        image: usize,
        /// How many there are.
        images: usize,
    },
    /// A pull was at a time that cannot be.
    #[error(
        "pull {place} was at {time} s of Unix time, which is not between the years 2020 and 2100"
    )]
    Time {
        /// Where, counted from 0.
        place: usize,
        /// The time.
        time: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Batch {
    images: Vec<(Digest, Fingerprint)>,
    pulls: Vec<(u64, Fingerprint, usize)>,
}

/// Writes a batch.
pub(super) fn to_bytes(pulls: &[Pull]) -> Vec<u8> {
    let mut places = HashMap::new();
    let mut images = Vec::new();
    let pulls = pulls.iter().map(|pull| {
        let image = (pull.image, pull.name);
        let place = *places.entry(image).or_insert_with(|| {
            images.push(image);
            images.len() - 1
        });
        (pull.time, pull.client, place)
    });
    let pulls = pulls.collect();
    versioned::to_bytes(VERSION, &Batch { images, pulls })
}

/// Reads a batch, whoever wrote it.
///
/// # Errors
/// What [`BatchError`] says; then nothing of it is of use.
pub(super) fn from_bytes(bytes: &[u8]) -> Result<Vec<Pull>, BatchError> {
    let batch: Batch = match versioned::from_bytes(VERSION, bytes) {
        Ok(batch) => batch,
        Err(VersionedError::Version { found }) => {
            return Err(BatchError::Version { version: found });
        }
        Err(error) => return Err(BatchError::Malformed(error)),
    };
    let pulls = batch.pulls.len();
    if pulls > MOST_IN_BATCH {
        return Err(BatchError::TooMany { pulls });
    }
    let read = |(place, (time, client, image)): (usize, (u64, Fingerprint, usize))| {
        if !is_plausible(time) {
            return Err(BatchError::Time { place, time });
        }
        let images = batch.images.len();
        let &(image, name) = batch.images.get(image).ok_or(BatchError::NoImage {
            place,
            image,
            images,
        })?;
        Ok(Pull {
            time,
            client,
            image,
            name,
        })
    };
    batch.pulls.into_iter().enumerate().map(read).collect()
}
