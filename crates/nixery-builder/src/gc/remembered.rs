//! How long a store remembers what it was asked for: the graphs of images, pulls, and plans made of them.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use nixery_storage::{Folder, Key};

use super::inventory::age;
use crate::graphs::GRAPHS;
use crate::learned::PLANS;
use crate::traffic::TRAFFIC;

/// The graph of a dropped image, a batch of pulls, and a plan that is not used are kept for so long.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// How many objects of each kind are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) graphs: usize,
    pub(super) traffic: usize,
    pub(super) plans: usize,
}

impl Limits {
    /// Each has some kilobytes. Of pulls a server that never rests writes 26,000 batches in [`KEPT_FOR`], one
    /// every five minutes, so there is room for seven of them. Of plans there is at most one a night.
    pub(super) const DEFAULT: Self = Self {
        graphs: 10_000,
        traffic: 200_000,
        plans: 1000,
    };

    /// The limit of each of [`KINDS`].
    pub(super) const fn of_kinds(self) -> [(Folder, usize); KINDS.len()] {
        [
            (GRAPHS, self.graphs),
            (TRAFFIC, self.traffic),
            (PLANS, self.plans),
        ]
    }
}

/// What is remembered.
pub(super) const KINDS: [Folder; 3] = [GRAPHS, TRAFFIC, PLANS];

/// An entry of `graphs/`, `traffic/` or `plans/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) key: Key,
    pub(super) written: SystemTime,
}

/// What is forgotten: what is older than [`KEPT_FOR`], and of each kind whatever is beyond its limit, the oldest
/// first. What is `needed`, the graphs of cached images and the plan in use, is not too old, and goes last.
pub(super) fn forgotten(
    remembered: &[Remembered],
    needed: &HashSet<Key>,
    now: SystemTime,
    limits: Limits,
) -> Vec<Key> {
    let is_needed = |entry: &Remembered| needed.contains(&entry.key);
    let mut forgotten = Vec::new();
    for (kind, most) in limits.of_kinds() {
        let of_kind = remembered.iter().filter(|entry| entry.key.folder() == kind);
        let (mut kept, old): (Vec<&Remembered>, Vec<&Remembered>) =
            of_kind.partition(|entry| is_needed(entry) || age(now, entry.written) <= KEPT_FOR);
        // The key makes the order certain.
        kept.sort_unstable_by_key(|entry| (is_needed(entry), entry.written, entry.key));
        let too_many = kept.len().saturating_sub(most);
        forgotten.extend(old.iter().map(|entry| entry.key));
        forgotten.extend(kept.iter().take(too_many).map(|entry| entry.key));
    }
    forgotten.sort_unstable();
    forgotten
}
