//! The learned plan in the store: its file under its SHA-256, and the pointer to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nixery_core::{ClusterPlan, MAX_FILE_BYTES, StorePath};
use nixery_manifest::Digest;
use nixery_state::gc::{InUse, Retention};
use nixery_state::versioned::{self, VersionedError};
use nixery_storage::{Contents, Folder, Key, PutMode, Storage, StorageError, error_chain};
use serde::{Deserialize, Serialize};

use super::LearnError;

/// Cluster plans, each named by the SHA-256 of its file, and the pointer to the one in use.
pub const PLANS: Folder = Folder::new("plans", Contents::Binary);

/// Retention of plans: the plan in use is kept, other plans are kept for 90 days.
pub const KEPT: Retention = Retention::new(
    PLANS,
    Duration::from_secs(90 * 24 * 60 * 60),
    // At most one plan is made per night.
    1000,
    InUse::Found(|storage| Box::pin(plans_in_use(storage))),
);

/// The SHA-256 of this text is the name of the pointer.
const POINTER: &[u8] = b"learned plan";
const VERSION: u32 = 1;
/// Limit of the bytes of a pointer; a usual one has 200.
const MAX_POINTER_BYTES: u64 = 64 * 1024;

/// Names the plan in use.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanPointer {
    /// SHA-256 of the plan's file, which is `plans/<SHA-256>`.
    pub plan: Digest,
    /// The path that most images depended on when the plan was made.
    pub base: StorePath,
    /// Number of images that the plan was made from.
    pub images: u64,
}

/// A learned plan.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct LearnedPlan {
    /// Names the plan and its base.
    pub pointer: PlanPointer,
    /// The plan.
    pub plan: Arc<ClusterPlan>,
}

/// What the store has as a pointer.
pub(super) enum StoredPointer {
    /// No pointer, or a damaged one.
    Missing,
    /// A pointer of a newer version, which must not be overwritten.
    Newer,
    Valid(PlanPointer),
}

/// Reads which plan is in use: `None` if there is none, or if this version cannot use it.
///
/// # Errors
/// The store failed.
pub async fn read_pointer(storage: &dyn Storage) -> Result<Option<PlanPointer>, LearnError> {
    Ok(match stored_pointer(storage).await? {
        StoredPointer::Valid(pointer) => Some(pointer),
        StoredPointer::Missing | StoredPointer::Newer => None,
    })
}

pub(super) async fn stored_pointer(storage: &dyn Storage) -> Result<StoredPointer, StorageError> {
    let key = Key::new(PLANS, Digest::of(POINTER));
    let Some(bytes) = get(storage, &key, MAX_POINTER_BYTES).await? else {
        return Ok(StoredPointer::Missing);
    };
    match versioned::from_bytes(VERSION, &bytes) {
        Ok(pointer) => Ok(StoredPointer::Valid(pointer)),
        Err(VersionedError::Version { found }) if found > u64::from(VERSION) => {
            Ok(StoredPointer::Newer)
        }
        Err(error) => {
            let error = error_chain(&error);
            tracing::warn!(%key, error, "the pointer to the learned plan is damaged");
            Ok(StoredPointer::Missing)
        }
    }
}

/// Loads the plan in use: `None` if there is none, or if this version cannot use it.
///
/// # Errors
/// The store failed.
pub async fn load(storage: &dyn Storage) -> Result<Option<LearnedPlan>, LearnError> {
    let pointer = match stored_pointer(storage).await? {
        StoredPointer::Valid(pointer) => pointer,
        StoredPointer::Missing => return Ok(None),
        StoredPointer::Newer => {
            tracing::warn!("the learned plan is not used: a newer version of Nixery made it");
            return Ok(None);
        }
    };
    let key = Key::new(PLANS, pointer.plan);
    let Some(bytes) = get(storage, &key, MAX_FILE_BYTES as u64).await? else {
        tracing::warn!(%key, "the learned plan is not used: its file is missing");
        return Ok(None);
    };
    let verified = pointer
        .plan
        .verify(&bytes)
        .map_err(|error| error.to_string());
    let plan = verified
        .and_then(|()| ClusterPlan::from_bytes(&bytes).map_err(|error| error_chain(&error)));
    match plan.map(Arc::new) {
        Ok(plan) => Ok(Some(LearnedPlan { pointer, plan })),
        Err(error) => {
            tracing::warn!(%key, error, "the learned plan is not used: its file is damaged");
            Ok(None)
        }
    }
}

/// Stores a plan, then the pointer to it.
pub(super) async fn store(
    storage: &dyn Storage,
    plan: &ClusterPlan,
    base: StorePath,
    images: u64,
) -> Result<PlanPointer, StorageError> {
    let file = Bytes::from(plan.to_bytes());
    let plan = Digest::of(&file);
    let pointer = PlanPointer { plan, base, images };
    let json = Bytes::from(versioned::to_bytes(VERSION, &pointer));
    for (name, bytes) in [(plan, file), (Digest::of(POINTER), json)] {
        // An existing plan is replaced, so that its age is that of its use.
        let key = Key::new(PLANS, name);
        let _ = storage.put(&key, bytes, PutMode::Replace).await?;
    }
    Ok(pointer)
}

/// Returns the objects of `plans/` that are in use, for the garbage collection: the pointer and its
/// plan. `None` if only a newer version can find them.
///
/// # Errors
/// The store failed.
async fn plans_in_use(storage: &dyn Storage) -> Result<Option<Vec<Key>>, StorageError> {
    let plan = match stored_pointer(storage).await? {
        StoredPointer::Valid(pointer) => Some(pointer.plan),
        StoredPointer::Missing => None,
        StoredPointer::Newer => return Ok(None),
    };
    let in_use = [Digest::of(POINTER)].into_iter().chain(plan);
    Ok(Some(in_use.map(|plan| Key::new(PLANS, plan)).collect()))
}

/// Reads an object; `None` if it is missing or too large.
async fn get(storage: &dyn Storage, key: &Key, limit: u64) -> Result<Option<Bytes>, StorageError> {
    let bytes = storage.get_bytes(key, limit).await;
    // A truncated object is an error: the connection may be the cause, while a missing plan has
    // lasting consequences.
    if let Err(error @ StorageError::TooLarge { .. }) = &bytes {
        tracing::warn!(%key, %error, "an object of the learned plan is damaged");
        return Ok(None);
    }
    bytes
}
