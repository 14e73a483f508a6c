//! Where the learned plan is: its file under its SHA-256, and the pointer to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nixery_core::{ClusterPlan, MAX_FILE_BYTES, StorePath};
use nixery_manifest::Digest;
use nixery_state::gc::{InUse, Retention};
use nixery_state::versioned::{self, VersionedError};
use nixery_storage::{Contents, Folder, Key, PutMode, Storage, StorageError};
use serde::{Deserialize, Serialize};

use super::LearnError;

/// Cluster plans, each named by the SHA-256 of its file, and the pointer to the one in use.
pub const PLANS: Folder = Folder::new("plans", Contents::Binary);

/// What the pointer is named by.
const POINTER: &[u8] = b"learned plan";
const VERSION: u32 = 1;
/// Most bytes of a pointer; it has some 200.
const MAX_POINTER: u64 = 64 * 1024;

/// Which plan is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// SHA-256 of the plan's file, which is `plans/<SHA-256>`.
    pub plan: Digest,
    /// The path that most images held when it was made.
    pub base: StorePath,
    /// How many images it was made from.
    pub images: u64,
}

/// A learned plan.
#[derive(Debug, Clone)]
pub struct LearnedPlan {
    /// Where it is, and what it was made for.
    pub pointer: Pointer,
    /// The plan.
    pub plan: Arc<ClusterPlan>,
}

fn pointer_key() -> Key {
    Key::new(PLANS, Digest::of(POINTER))
}

/// What the store has for a pointer.
pub(super) enum Found {
    /// None, or a damaged one.
    Nothing,
    /// One of a newer version, which is not to be overwritten.
    Newer,
    Pointer(Pointer),
}

/// Which plan the store says is used: `None` where there is none yet, or nothing that this version can use.
///
/// # Errors
/// The store failed.
pub async fn pointed(storage: &dyn Storage) -> Result<Option<Pointer>, LearnError> {
    match find(storage).await? {
        Found::Pointer(pointer) => Ok(Some(pointer)),
        Found::Nothing | Found::Newer => Ok(None),
    }
}

pub(super) async fn find(storage: &dyn Storage) -> Result<Found, LearnError> {
    let key = pointer_key();
    let Some(bytes) = get(storage, &key, MAX_POINTER).await? else {
        return Ok(Found::Nothing);
    };
    match versioned::from_bytes(VERSION, &bytes) {
        Ok(pointer) => Ok(Found::Pointer(pointer)),
        Err(VersionedError::Version { found }) if found > u64::from(VERSION) => Ok(Found::Newer),
        Err(error) => {
            let error = nixery_storage::error_chain(&error);
            tracing::warn!(%key, error, "what says which plan was learned is damaged");
            Ok(Found::Nothing)
        }
    }
}

/// The plan that was learned last: `None` where there is none yet, or nothing that this version can use.
///
/// # Errors
/// The store failed.
pub async fn load(storage: &dyn Storage) -> Result<Option<LearnedPlan>, LearnError> {
    let pointer = match find(storage).await? {
        Found::Pointer(pointer) => pointer,
        Found::Nothing => return Ok(None),
        Found::Newer => {
            tracing::warn!("a newer version of Nixery has learned a plan: it is not used");
            return Ok(None);
        }
    };
    let key = Key::new(PLANS, pointer.plan);
    let Some(bytes) = get(storage, &key, MAX_FILE_BYTES as u64).await? else {
        tracing::warn!(%key, "the learned plan is gone: it is not used");
        return Ok(None);
    };
    let plan = match pointer.plan.verify(&bytes) {
        Ok(()) => ClusterPlan::from_bytes(&bytes).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match plan {
        Ok(plan) => Ok(Some(LearnedPlan {
            pointer,
            plan: Arc::new(plan),
        })),
        Err(error) => {
            tracing::warn!(%key, error, "the learned plan is damaged: it is not used");
            Ok(None)
        }
    }
}

/// Stores a plan, and then says that it is used.
pub(super) async fn store(
    storage: &dyn Storage,
    plan: &ClusterPlan,
    base: StorePath,
    images: u64,
) -> Result<Pointer, LearnError> {
    let bytes = Bytes::from(plan.to_bytes());
    let pointer = Pointer {
        plan: Digest::of(&bytes),
        base,
        images,
    };
    // Replaced where it is there: it is as young as its use then.
    put(storage, &Key::new(PLANS, pointer.plan), bytes).await?;
    let json = versioned::to_bytes(VERSION, &pointer);
    put(storage, &pointer_key(), Bytes::from(json)).await?;
    Ok(pointer)
}

/// The objects of `plans/` that are in use, for the collection of garbage: the pointer and its plan. `None` where
/// a newer version knows better.
///
/// # Errors
/// The store failed.
async fn plans_in_use(storage: &dyn Storage) -> Result<Option<Vec<Key>>, StorageError> {
    let plan = match find(storage).await {
        Ok(Found::Pointer(pointer)) => Some(pointer.plan),
        Ok(Found::Newer) => return Ok(None),
        Err(LearnError::Storage { source, .. }) => return Err(source),
        Ok(Found::Nothing) | Err(_) => None,
    };
    let in_use = [Digest::of(POINTER)].into_iter().chain(plan);
    Ok(Some(in_use.map(|plan| Key::new(PLANS, plan)).collect()))
}

/// How long plans are remembered: the one in use as long as it is, others for 90 days.
pub const KEPT: Retention = Retention::new(
    PLANS,
    Duration::from_secs(90 * 24 * 60 * 60),
    // There is at most one a night.
    1000,
    InUse::Found(|storage| Box::pin(plans_in_use(storage))),
);

async fn get(storage: &dyn Storage, key: &Key, most: u64) -> Result<Option<Bytes>, LearnError> {
    match storage.get_bytes(key, most).await {
        Ok(bytes) => Ok(bytes),
        // Not what ends early: that may be the way here, and what follows from "there is none" is lasting.
        Err(error @ StorageError::TooLarge { .. }) => {
            tracing::warn!(%key, %error, "an object of the learned plan is damaged");
            Ok(None)
        }
        Err(source) => Err(LearnError::Storage {
            doing: "read",
            source,
        }),
    }
}

async fn put(storage: &dyn Storage, key: &Key, bytes: Bytes) -> Result<(), LearnError> {
    let stored = storage.put(key, bytes, PutMode::Replace).await;
    stored.map(drop).map_err(|source| LearnError::Storage {
        doing: "stored",
        source,
    })
}
