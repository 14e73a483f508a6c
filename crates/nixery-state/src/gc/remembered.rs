//! How long a store remembers what features keep in it: handed to a collection by its caller.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use nixery_storage::{Folder, Key, Storage, StorageError};

use super::age;

/// How long the objects of one folder are remembered. A feature that stores objects declares it, and
/// whoever collects garbage hands it to the collection.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// The folder.
    pub folder: Folder,
    /// How long an object that is not in use is kept.
    pub kept_for: Duration,
    /// How many objects are kept. Beyond that the oldest go, and those in use last.
    pub limit: usize,
    /// Which objects are in use: their age does not count.
    pub in_use: InUse,
}

/// Which objects of a folder are in use.
#[derive(Debug, Clone, Copy)]
pub enum InUse {
    /// None of them.
    Nothing,
    /// Those that are named as a cached image's entry is.
    OfCachedImages,
    /// Those that the function finds; `None` stands for all of them. It is called after the folder
    /// was listed: an object that is put into use later is young.
    Found(FindInUse),
}

/// Finds the objects in use in a store.
pub type FindInUse =
    for<'a> fn(&'a dyn Storage) -> BoxFuture<'a, Result<Option<Vec<Key>>, StorageError>>;

/// The objects of a folder, and how long they are remembered.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    pub(super) retention: Retention,
    /// What [`InUse::Found`] found.
    pub(super) found: Option<Vec<Key>>,
    /// The objects, and when they were written.
    pub(super) entries: Vec<(Key, SystemTime)>,
}

impl Remembered {
    /// Looks up which of the listed objects are in use.
    pub(super) async fn look_up(
        storage: &dyn Storage,
        retention: Retention,
        entries: Vec<(Key, SystemTime)>,
    ) -> Result<Self, StorageError> {
        let found = match retention.in_use {
            InUse::Nothing | InUse::OfCachedImages => None,
            InUse::Found(find) => find(storage).await?,
        };
        Ok(Self {
            retention,
            found,
            entries,
        })
    }

    /// The objects that are forgotten: those that are too old, and the oldest beyond the limit. Those
    /// in use are never too old, and go last. An object written within `grace` neither goes nor
    /// counts. `images` are the names of the cached images.
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
        let is_old = |written: SystemTime| age(now, written) > self.retention.kept_for;
        let (mut kept, mut forgotten) = (Vec::new(), Vec::new());
        for &(key, written) in &self.entries {
            let is_in_use = is_in_use(&key);
            if age(now, written) <= grace {
                continue;
            }
            if is_old(written) && !is_in_use {
                forgotten.push(key);
            } else {
                // The key makes the order certain.
                kept.push((is_in_use, written, key));
            }
        }
        kept.sort_unstable();
        let too_many = kept.len().saturating_sub(self.retention.limit);
        forgotten.extend(kept.iter().take(too_many).map(|(_, _, key)| *key));
        forgotten
    }
}
