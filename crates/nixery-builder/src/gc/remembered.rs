//! How long a store remembers what it was asked for: the graphs of images, and pulls.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use nixery_manifest::Digest;
use nixery_storage::{Key, KeyKind};

use super::inventory::age;

/// The graph of a dropped image, and a batch of pulls, are kept for so long.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// How many objects of each kind are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) graphs: usize,
    pub(super) traffic: usize,
}

impl Limits {
    /// Each has some kilobytes. Of pulls a server that never rests writes 26,000 batches in [`KEPT_FOR`], one
    /// every five minutes, so there is room for seven of them.
    pub(super) const DEFAULT: Self = Self {
        graphs: 10_000,
        traffic: 200_000,
    };
}

/// An entry of `graphs/` or `traffic/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) key: Key,
    pub(super) written: SystemTime,
}

/// What is forgotten: the graphs of images that are not `cached` any more, and the pulls, that are older than
/// [`KEPT_FOR`]; and of each kind whatever is beyond its limit, the oldest first, cached images last.
pub(super) fn forgotten(
    remembered: &[Remembered],
    cached: &HashSet<Digest>,
    now: SystemTime,
    limits: Limits,
) -> Vec<Key> {
    let is_cached = |key| matches!(key, Key::Graph(image) if cached.contains(&image));
    let mut forgotten = Vec::new();
    for (kind, most) in [
        (KeyKind::Graph, limits.graphs),
        (KeyKind::Traffic, limits.traffic),
    ] {
        let of_kind = remembered.iter().filter(|entry| entry.key.kind() == kind);
        let (mut kept, old): (Vec<&Remembered>, Vec<&Remembered>) =
            of_kind.partition(|entry| is_cached(entry.key) || age(now, entry.written) <= KEPT_FOR);
        // The key makes the order certain.
        kept.sort_unstable_by_key(|entry| (is_cached(entry.key), entry.written, entry.key));
        let too_many = kept.len().saturating_sub(most);
        forgotten.extend(old.iter().map(|entry| entry.key));
        forgotten.extend(kept.iter().take(too_many).map(|entry| entry.key));
    }
    forgotten.sort_unstable();
    forgotten
}
