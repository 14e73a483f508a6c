//! What a collection is going to do: a pure function of the inventory, the policy and the time.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use nixery_manifest::Digest;
use nixery_storage::Key;
use serde::Serialize;

use super::GcPolicy;
use super::inventory::{BlobId, Inventory, age};
use super::remembered::{Limits, forgotten};
use crate::graphs::GRAPHS;
use crate::learned::PLANS;

/// A lease that was not renewed for so long is nobody's.
const OLD_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// Why an image is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// Blobs of it are missing: it cannot be served, and is built anew when it is asked for.
    Incomplete,
    /// It was built longer ago than [`GcPolicy::max_age`].
    TooOld,
    /// Nobody asked for it for longer than [`GcPolicy::max_unused`].
    Unused,
    /// The images need more room than [`GcPolicy::max_size`], and this one was used least lately.
    TooMuch,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Incomplete => "blobs are missing",
            Self::TooOld => "built too long ago",
            Self::Unused => "unused for too long",
            Self::TooMuch => "least recently used, the store is too large",
        })
    }
}

/// An image that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drop {
    /// Its place in the inventory.
    pub(super) image: usize,
    pub(super) reason: Reason,
    /// Bytes that nothing needs any more when it is gone.
    pub(super) frees: u64,
}

/// What goes and what stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// In the order in which they go: least recently used first within a reason.
    pub(super) drops: Vec<Drop>,
    /// How many images that stay need each blob.
    pub(super) refs_after: Vec<u32>,
    /// Entries of `manifests/` that nobody can use.
    pub(super) unusable: Vec<(Key, SystemTime)>,
    /// Blobs that no image in the inventory needs, manifests first: who still has one of those
    /// must not get it while its layers go.
    pub(super) deletions: Vec<BlobId>,
    pub(super) deletion_bytes: u64,
    /// Blobs that no image needs but that were needed lately.
    pub(super) waiting_bytes: u64,
    /// Bytes of the blobs that images need before and after.
    pub(super) needed_before: u64,
    pub(super) needed_after: u64,
    /// Entries of `builds/` whose blob goes or is gone.
    pub(super) builds: Vec<Key>,
    /// Use marks of blobs that are gone.
    pub(super) marks: Vec<Digest>,
    pub(super) leases: Vec<Key>,
    /// Graphs of images, batches of pulls, and plans.
    pub(super) forgotten: Vec<Key>,
}

/// Decides. Whatever was written or used within the grace stays.
pub(super) fn plan(inventory: &Inventory, policy: &GcPolicy, now: SystemTime) -> Plan {
    let past_grace = |then| age(now, then) > policy.grace;
    let mut planner = Planner::new(inventory);

    // Least recently used first; the key makes the order certain.
    let mut candidates: Vec<usize> = (0..inventory.images.len())
        .filter(|&at| past_grace(inventory.images[at].used))
        .collect();
    candidates.sort_by_key(|&at| (inventory.images[at].used, inventory.images[at].key));

    candidates.retain(|&at| {
        let image = &inventory.images[at];
        let missing = |id: &BlobId| inventory.blob(*id).size.is_none();
        let exceeds =
            |limit: Option<Duration>, then| limit.is_some_and(|most| age(now, then) > most);
        let reason = if image.blobs.iter().any(missing) {
            Reason::Incomplete
        } else if exceeds(policy.max_age, image.built) {
            Reason::TooOld
        } else if exceeds(policy.max_unused, image.used) {
            Reason::Unused
        } else {
            return true;
        };
        planner.drop(at, reason);
        false
    });
    if let Some(most) = policy.max_size {
        for at in candidates {
            if planner.needed <= most {
                break;
            }
            planner.drop(at, Reason::TooMuch);
        }
    }
    let mut plan = planner.finish();

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

    let deleted: HashSet<BlobId> = plan.deletions.iter().copied().collect();
    let useless = |id: BlobId| deleted.contains(&id) || inventory.blob(id).size.is_none();
    let builds = inventory
        .builds
        .iter()
        .filter(|entry| past_grace(entry.written) && entry.blob.is_none_or(useless));
    plan.builds = builds.map(|entry| entry.key).collect();
    let old = |(_, then): &&(_, SystemTime)| past_grace(*then);
    plan.unusable = inventory
        .unusable
        .iter()
        .filter(|(_, then)| past_grace(*then))
        .copied()
        .collect();
    plan.marks = inventory
        .idle_marks
        .iter()
        .filter(old)
        .map(|(digest, _)| *digest)
        .collect();
    let leases = inventory.leases.iter();
    let leases = leases.filter(|(_, then)| age(now, *then) > OLD_LEASE);
    plan.leases = leases.map(|(key, _)| *key).collect();
    let images = inventory.images.iter().map(|image| image.key);
    let cached = images.filter_map(|key| Some(Key::new(GRAPHS, key.digest()?)));
    let plans = inventory
        .plans_in_use
        .iter()
        .copied()
        .map(|digest| Key::new(PLANS, digest));
    let needed = cached.chain(plans).collect();
    let remembered = inventory.remembered.iter();
    let remembered: Vec<_> = remembered
        .filter(|entry| past_grace(entry.written))
        .copied()
        .collect();
    plan.forgotten = forgotten(&remembered, &needed, now, Limits::DEFAULT);
    plan
}

/// Counts who needs what while images go.
struct Planner<'a> {
    inventory: &'a Inventory,
    refs: Vec<u32>,
    /// Bytes of the blobs that are still needed.
    needed: u64,
    before: u64,
    drops: Vec<Drop>,
}

impl<'a> Planner<'a> {
    fn new(inventory: &'a Inventory) -> Self {
        let blobs = || inventory.blobs().map(|(_, blob)| blob);
        let needed = blobs().filter(|blob| blob.refs > 0);
        let needed = needed.filter_map(|blob| blob.size).sum();
        Self {
            inventory,
            refs: blobs().map(|blob| blob.refs).collect(),
            needed,
            before: needed,
            drops: Vec::new(),
        }
    }

    fn drop(&mut self, at: usize, reason: Reason) {
        let mut frees = 0;
        for &id in &self.inventory.images[at].blobs {
            let refs = &mut self.refs[id as usize];
            *refs -= 1;
            if *refs == 0 {
                frees += self.inventory.blob(id).size.unwrap_or(0);
            }
        }
        self.needed -= frees;
        self.drops.push(Drop {
            image: at,
            reason,
            frees,
        });
    }

    fn finish(self) -> Plan {
        Plan {
            drops: self.drops,
            refs_after: self.refs,
            needed_before: self.before,
            needed_after: self.needed,
            ..Plan::default()
        }
    }
}
