//! How long a store remembers what features keep in it: handed to a collection by its caller.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nixery_storage::{Key, KeyKind, Storage, StorageError};

use super::age;

/// How long the objects of one folder are remembered. A feature that stores objects implements it,
/// and whoever collects garbage hands it to the collection.
#[async_trait]
pub trait Retention: fmt::Debug + Send + Sync {
    /// The folder.
    fn folder(&self) -> KeyKind;

    /// How long an object that is not in use is kept.
    fn kept_for(&self) -> Duration;

    /// How many objects are kept. Beyond that the oldest go, and those in use last.
    fn limit(&self) -> usize;

    /// Which objects are in use. Called after the folder was listed: an object that is put into use
    /// later is young.
    ///
    /// # Errors
    /// The store failed.
    async fn in_use(&self, storage: &dyn Storage) -> Result<InUse, StorageError>;
}

/// Which objects of a folder are in use: their age does not count, and they go last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InUse {
    /// These.
    Only(Vec<Key>),
    /// Those that are named as a cached image's entry is.
    OfCachedImages,
    /// All of them.
    All,
}

/// The objects of a folder, and how long they are remembered.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    pub(super) kept_for: Duration,
    pub(super) limit: usize,
    pub(super) in_use: InUse,
    /// The objects, and when they were written.
    pub(super) entries: Vec<(Key, SystemTime)>,
}

impl Remembered {
    /// The objects that are forgotten: those older than `kept_for`, and the oldest beyond the
    /// limit. Those in use are never too old, and go last. `images` are the names of
    /// the cached images.
    pub(super) fn forgotten(&self, images: &HashSet<String>, now: SystemTime) -> Vec<Key> {
        let in_use: HashSet<&Key> = match &self.in_use {
            InUse::Only(keys) => keys.iter().collect(),
            InUse::OfCachedImages | InUse::All => HashSet::new(),
        };
        let is_in_use = |key: &Key| match self.in_use {
            InUse::Only(_) => in_use.contains(key),
            InUse::OfCachedImages => images.contains(&key.name()),
            InUse::All => true,
        };
        let is_kept = |(key, written): &(Key, SystemTime)| {
            is_in_use(key) || age(now, *written) <= self.kept_for
        };
        let (mut kept, old): (Vec<&(Key, SystemTime)>, Vec<&(Key, SystemTime)>) =
            self.entries.iter().partition(|entry| is_kept(entry));
        // The key makes the order certain.
        kept.sort_unstable_by_key(|(key, written)| (is_in_use(key), *written, *key));
        let too_many = kept.len().saturating_sub(self.limit);
        let forgotten = old.into_iter().chain(kept.into_iter().take(too_many));
        forgotten.map(|(key, _)| *key).collect()
    }
}
