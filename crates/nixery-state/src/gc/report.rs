//! The report of a collection, for people and for machines.

use std::time::SystemTime;

use nixery_storage::Key;
use serde::{Serialize, Serializer};

use super::inventory::Inventory;
use super::plan::{DropReason, GcPlan};

/// An image that was dropped from the cache, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct DroppedImage {
    /// Its cache entry.
    #[serde(serialize_with = "as_path")]
    pub key: Key,
    /// Its packages.
    pub name: String,
    /// When it was built.
    #[serde(serialize_with = "as_time")]
    pub built: SystemTime,
    /// When it was last requested, according to its use marks.
    #[serde(serialize_with = "as_time")]
    pub last_use: SystemTime,
    /// Bytes of its blobs.
    pub size: u64,
    /// Bytes that nothing needs without it.
    pub frees: u64,
    /// Why it is dropped.
    pub reason: DropReason,
    /// Whether it stayed because it was used while the collection ran.
    pub spared: bool,
}

/// What a collection did or, in a dry run, would do. Machines read it as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase")]
pub struct GcReport {
    /// Whether nothing was deleted.
    pub dry_run: bool,
    /// The time by the store's clock.
    #[serde(serialize_with = "as_time")]
    pub now: SystemTime,
    /// Images in the cache before the collection.
    pub images: u64,
    /// Dropped images, in the order of dropping.
    pub dropped: Vec<DroppedImage>,
    /// Bytes that images need before the collection.
    pub needed_before: u64,
    /// Bytes that the remaining images need.
    pub needed_after: u64,
    /// Blobs to delete: nothing needed them for longer than the grace period.
    pub unneeded_blobs: u64,
    /// Their bytes.
    pub unneeded_bytes: u64,
    /// Of those, blobs that were deleted.
    pub deleted_blobs: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Of those, blobs that were needed again meanwhile.
    pub spared_blobs: u64,
    /// Bytes that later collections can free, after the grace period: of images dropped now, and of
    /// other blobs that were needed recently.
    pub later_bytes: u64,
    /// Deleted cache entries that no program can use.
    pub unusable_deleted: u64,
    /// Deleted cache entries of layers, use marks and leases that had become useless.
    pub tidied: u64,
    /// Objects that exceed the [`Retention`](super::Retention) of their folder.
    pub forgotten: u64,
    /// Of those, deleted.
    pub forgotten_deleted: u64,
    /// Cache entries of a newer program. While there are any, no blob is deleted.
    pub newer_entries: u64,
}

impl GcReport {
    pub(super) fn of_plan(inventory: &Inventory, plan: &GcPlan, now: SystemTime) -> Self {
        let dropped = plan.drops.iter().map(|drop| {
            let image = &inventory.images[drop.image];
            let sizes = image.blobs.iter().map(|&id| inventory.blob(id).size);
            DroppedImage {
                key: image.key,
                name: image.name.clone(),
                built: image.built,
                last_use: image.used,
                size: sizes.map(Option::unwrap_or_default).sum(),
                frees: drop.frees,
                reason: drop.reason,
                spared: false,
            }
        });
        Self {
            dry_run: true,
            now,
            images: inventory.images.len() as u64,
            dropped: dropped.collect(),
            needed_before: plan.needed_before,
            needed_after: plan.needed_after,
            unneeded_blobs: plan.deletions.len() as u64,
            unneeded_bytes: plan.deletion_bytes,
            deleted_blobs: 0,
            freed_bytes: 0,
            spared_blobs: 0,
            later_bytes: plan.waiting_bytes + (plan.needed_before - plan.needed_after),
            unusable_deleted: 0,
            tidied: 0,
            forgotten: plan.forgotten.len() as u64,
            forgotten_deleted: 0,
            newer_entries: inventory.newer,
        }
    }

    /// Returns how many images were, or would be, dropped.
    #[must_use]
    pub fn dropped_images(&self) -> u64 {
        self.dropped.iter().filter(|image| !image.spared).count() as u64
    }
}

fn as_path<S: Serializer>(key: &Key, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(key)
}

fn as_time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
}
