//! What a collection will drop and delete: a pure function of the inventory, the policy and the
//! time.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use nixery_storage::{Capacity, Key, Space};
use serde::Serialize;

use super::inventory::{BlobId, Inventory, ListedObject, RetainedFolder};
use super::{GcPolicy, InUse, age};

/// A lease that was not renewed for this long is left over.
const OLD_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// Why an image is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum DropReason {
    /// Blobs of it are missing: it cannot be served, and is built again on the next request.
    Incomplete,
    /// It was built longer ago than [`GcPolicy::max_age`].
    TooOld,
    /// Nobody requested it for longer than [`GcPolicy::max_unused`].
    Unused,
    /// The images need more than [`GcPolicy::max_size`] or [`GcPolicy::max_share_percent`], and
    /// this one was used least recently.
    TooMuch,
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Incomplete => "blobs are missing",
            Self::TooOld => "built too long ago",
            Self::Unused => "unused for too long",
            Self::TooMuch => "least recently used, the store is too large",
        })
    }
}

/// An image to drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedDrop {
    /// Its index in the inventory.
    pub(super) image: usize,
    pub(super) reason: DropReason,
    /// Bytes that nothing needs without it.
    pub(super) frees: u64,
}

/// What to drop and delete.
#[derive(Debug, Clone, Default)]
pub(super) struct GcPlan {
    /// In the order of dropping: least recently used first within a reason.
    pub(super) drops: Vec<PlannedDrop>,
    /// How many remaining images need each blob.
    pub(super) refs_after: Vec<u32>,
    /// Entries of `manifests/` that no program can use.
    pub(super) unusable: Vec<ListedObject>,
    /// Blobs that no image in the inventory needs, manifests first: a client must not get such a
    /// manifest while its layers are deleted.
    pub(super) deletions: Vec<BlobId>,
    pub(super) deletion_bytes: u64,
    /// Bytes of the blobs that no image needs but that were needed recently.
    pub(super) waiting_bytes: u64,
    /// Bytes of the blobs that images need before and after.
    pub(super) needed_before: u64,
    pub(super) needed_after: u64,
    /// Number of the blobs that images need after.
    blobs_after: u64,
    /// Entries of `builds/` and use marks without a blob, and old leases.
    pub(super) useless: Vec<Key>,
    /// Objects that exceed the [`Retention`](super::Retention) of their folder.
    pub(super) forgotten: Vec<Key>,
}

/// Makes the plan. Objects that were written or used within the grace period stay. `space` is that
/// of the store's file system, if the policy depends on it.
pub(super) fn plan(
    inventory: &Inventory,
    policy: &GcPolicy,
    space: Option<Space>,
    now: SystemTime,
) -> GcPlan {
    let past_grace = |then| age(now, then) > policy.grace;
    let mut plan = GcPlan::without_drops(inventory);
    let limits = SizeLimits::new(inventory, policy, space);
    plan.choose_images(inventory, policy, &limits, now);

    for (id, blob) in inventory.blobs() {
        let Some(size) = blob.size.filter(|_| blob.refs == 0) else {
            continue;
        };
        // An entry that this program cannot read may need any blob.
        if past_grace(blob.needed) && inventory.newer == 0 {
            plan.deletions.push(id);
            plan.deletion_bytes += size;
        } else {
            plan.waiting_bytes += size;
        }
    }
    plan.deletions
        .sort_by_key(|&id| (!inventory.blob(id).is_manifest, id));

    let unusable = inventory.unusable.iter().copied();
    plan.unusable = unusable.filter(|entry| past_grace(entry.written)).collect();
    let deleted: HashSet<BlobId> = plan.deletions.iter().copied().collect();
    let has_no_blob = |id: BlobId| deleted.contains(&id) || inventory.blob(id).size.is_none();
    let builds = inventory
        .builds
        .iter()
        .filter(|entry| past_grace(entry.written) && entry.blob.is_none_or(has_no_blob))
        .map(|entry| entry.key);
    let marks = inventory.idle_marks.iter();
    let marks = marks.filter(|mark| past_grace(mark.written));
    let leases = inventory.leases.iter();
    let leases = leases.filter(|lease| age(now, lease.written) > OLD_LEASE);
    let marks_and_leases = marks.chain(leases).map(|object| object.key);
    plan.useless = builds.chain(marks_and_leases).collect();

    let images = inventory.images.iter();
    let images: HashSet<String> = images.map(|image| image.key.name()).collect();
    let retained = inventory.retained.iter();
    plan.forgotten = retained
        .flat_map(|folder| folder.forgotten(&images, policy.grace, now))
        .collect();
    plan.forgotten.sort_unstable();
    plan
}

/// What images may need.
struct SizeLimits {
    bytes: u64,
    blobs: u64,
}

impl SizeLimits {
    fn new(inventory: &Inventory, policy: &GcPolicy, space: Option<Space>) -> Self {
        let mut limits = Self {
            bytes: policy.max_size.unwrap_or(u64::MAX),
            blobs: u64::MAX,
        };
        if let (Some(percent), Some(space)) = (policy.max_share_percent, space) {
            // Blobs that no image needs count as free: this or a later collection deletes them.
            let stored = || inventory.blobs().filter_map(|(_, blob)| blob.size);
            let share = |stored: u64, capacity: Capacity| {
                let all = u128::from(stored) + u128::from(capacity.available);
                u64::try_from(all * u128::from(percent) / 100).unwrap_or(u64::MAX)
            };
            limits.bytes = limits.bytes.min(share(stored().sum(), space.bytes));
            if let Some(files) = space.files {
                limits.blobs = share(stored().count() as u64, files);
            }
        }
        limits
    }
}

impl GcPlan {
    fn without_drops(inventory: &Inventory) -> Self {
        let blobs = || inventory.blobs().map(|(_, blob)| blob);
        let sizes = || {
            blobs()
                .filter(|blob| blob.refs > 0)
                .filter_map(|blob| blob.size)
        };
        let needed = sizes().sum();
        Self {
            refs_after: blobs().map(|blob| blob.refs).collect(),
            needed_before: needed,
            needed_after: needed,
            blobs_after: sizes().count() as u64,
            ..Self::default()
        }
    }

    /// Chooses the images to drop.
    fn choose_images(
        &mut self,
        inventory: &Inventory,
        policy: &GcPolicy,
        limits: &SizeLimits,
        now: SystemTime,
    ) {
        let exceeds =
            |limit: Option<Duration>, then| limit.is_some_and(|most| age(now, then) > most);
        // Least recently used first; the key makes the order definite.
        let mut candidates: Vec<_> = (0..).zip(&inventory.images).collect();
        candidates.retain(|(_, image)| age(now, image.used) > policy.grace);
        candidates.sort_by_key(|(_, image)| (image.used, image.key));
        candidates.retain(|&(at, image)| {
            let missing = |id: &BlobId| inventory.blob(*id).size.is_none();
            let reason = if image.blobs.iter().any(missing) {
                DropReason::Incomplete
            } else if exceeds(policy.max_age, image.built) {
                DropReason::TooOld
            } else if exceeds(policy.max_unused, image.used) {
                DropReason::Unused
            } else {
                return true;
            };
            self.drop_image(inventory, at, reason);
            false
        });
        for (at, _) in candidates {
            if self.needed_after <= limits.bytes && self.blobs_after <= limits.blobs {
                break;
            }
            self.drop_image(inventory, at, DropReason::TooMuch);
        }
    }

    fn drop_image(&mut self, inventory: &Inventory, image: usize, reason: DropReason) {
        let mut frees = 0;
        for &id in &inventory.images[image].blobs {
            let refs = &mut self.refs_after[id as usize];
            *refs -= 1;
            if *refs == 0
                && let Some(size) = inventory.blob(id).size
            {
                frees += size;
                self.blobs_after -= 1;
            }
        }
        self.needed_after -= frees;
        self.drops.push(PlannedDrop {
            image,
            reason,
            frees,
        });
    }
}

impl RetainedFolder {
    /// Returns the objects to delete: those that are too old, and the oldest beyond the limit.
    /// Objects in use are never too old, and go last. An object written within `grace` neither goes
    /// nor counts. `images` are the names of the cached images.
    pub(super) fn forgotten(
        &self,
        images: &HashSet<String>,
        grace: Duration,
        now: SystemTime,
    ) -> Vec<Key> {
        let found: Option<HashSet<&Key>> = self.found.as_ref().map(|keys| keys.iter().collect());
        let is_in_use = |key: &Key| match self.retention.in_use {
            InUse::Nothing => false,
            InUse::OfCachedImages => images.contains(&key.name()),
            InUse::Found(_) => found.as_ref().is_none_or(|found| found.contains(key)),
        };
        let (mut kept, mut forgotten) = (Vec::new(), Vec::new());
        for &ListedObject { key, written, .. } in &self.objects {
            let (age, is_in_use) = (age(now, written), is_in_use(&key));
            if age <= grace {
                continue;
            }
            if age > self.retention.kept_for && !is_in_use {
                forgotten.push(key);
            } else {
                // The key makes the order definite.
                kept.push((is_in_use, written, key));
            }
        }
        kept.sort_unstable();
        let too_many = kept.len().saturating_sub(self.retention.limit);
        forgotten.extend(kept.iter().take(too_many).map(|(_, _, key)| *key));
        forgotten
    }
}
