//! Executes a plan. After each step the store is consistent, whatever happens next.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use futures::stream::{self, StreamExt, TryStreamExt};
use nixery_storage::{Key, Stat, Storage};
use tokio::time::{Instant, timeout};

use super::inventory::{BlobId, CachedImage, Inventory};
use super::plan::GcPlan;
use super::report::GcReport;
use super::{GcError, GcPhase, GcPolicy, ProgressReporter, age, failed_to};
use crate::lease::Lease;
use crate::marks::{Announcer, SLOWEST_DELETION, USES, VALID, is_use, keep_dropped};

/// Blobs that are announced and deleted together.
const BATCH: usize = 500;
/// Calls to the store at once.
const CALLS: usize = 16;

/// What every step needs.
pub(super) struct Sweep<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) inventory: &'a Inventory,
    pub(super) plan: &'a GcPlan,
    pub(super) policy: &'a GcPolicy,
    pub(super) now: SystemTime,
    pub(super) lease: &'a Lease,
    pub(super) report: &'a mut GcReport,
}

impl Sweep<'_> {
    /// Drops images, deletes blobs, deletes what has become useless. In this order, a failure in
    /// between leaves too much rather than too little.
    pub(super) async fn run(mut self, progress: &mut ProgressReporter<'_>) -> Result<(), GcError> {
        self.drop_images(progress).await?;
        self.delete_blobs(progress).await?;
        self.tidy(progress).await
    }

    /// Fails if another collector has taken over. Called before each step.
    fn check_lease(&self) -> Result<(), GcError> {
        match self.lease.is_lost() {
            true => Err(GcError::Superseded),
            false => Ok(()),
        }
    }

    async fn drop_images(&mut self, progress: &mut ProgressReporter<'_>) -> Result<(), GcError> {
        progress.enter(GcPhase::Drop, self.plan.drops.len() as u64);
        let mut touched: HashSet<BlobId> = HashSet::new();
        for (at, drop) in self.plan.drops.iter().enumerate() {
            self.check_lease()?;
            let image = &self.inventory.images[drop.image];
            if self.is_in_use(image).await? {
                self.report.dropped[at].spared = true;
                progress.step();
                continue;
            }
            // A client that was served this image until now has the whole grace period to fetch it.
            let lost = image.blobs.iter().copied().filter(|&id| {
                self.plan.refs_after[id as usize] == 0 && self.inventory.blob(id).size.is_some()
            });
            let lost: Vec<_> = lost.filter(|id| touched.insert(*id)).collect();
            each(lost, |id| {
                keep_dropped(self.storage, self.inventory.blob(id).digest)
            })
            .await
            .map_err(failed_to("marked"))?;
            self.delete(&image.key).await?;
            progress.step();
        }
        for entry in &self.plan.unusable {
            let stat = self.stat(&entry.key).await?;
            if stat.is_some_and(|stat| stat.modified == Some(entry.written)) {
                self.delete(&entry.key).await?;
                self.report.unusable_deleted += 1;
            }
        }
        Ok(())
    }

    /// Whether the image was used or built again since the inventory.
    async fn is_in_use(&self, image: &CachedImage) -> Result<bool, GcError> {
        for &id in &image.manifests {
            let mark = Key::new(USES, self.inventory.blob(id).digest);
            let stat = self.stat(&mark).await?;
            if stat.is_some_and(|stat| is_use(stat.size) && self.is_young(&stat)) {
                return Ok(true);
            }
        }
        self.is_new(&image.key).await
    }

    /// Whether the object exists and was written within the grace period. It was not when the plan
    /// was made, so it has been written again.
    async fn is_new(&self, key: &Key) -> Result<bool, GcError> {
        let stat = self.stat(key).await?;
        Ok(stat.is_some_and(|stat| self.is_young(&stat)))
    }

    fn is_young(&self, stat: &Stat) -> bool {
        let written = stat.modified.unwrap_or(self.now);
        age(self.now, written) <= self.policy.grace
    }

    async fn delete_blobs(&mut self, progress: &mut ProgressReporter<'_>) -> Result<(), GcError> {
        progress.enter(GcPhase::Delete, self.plan.deletions.len() as u64);
        let number = RandomState::new().hash_one(self.now);
        let collector = format!("process {}, {number:016x}", std::process::id());
        let mut announcer = Announcer::new(self.storage, collector);
        // The manifests come first, in batches of their own, so that none of them can be served any
        // more when the first layer is deleted.
        let deletions = &self.plan.deletions;
        let is_manifest = |id: &BlobId| self.inventory.blob(*id).is_manifest;
        let (manifests, others) = deletions.split_at(deletions.partition_point(is_manifest));
        for batch in manifests.chunks(BATCH).chain(others.chunks(BATCH)) {
            let mut remaining: Vec<BlobId> = batch.to_vec();
            // More than once only if the store is so slow that the announcement expires.
            while !remaining.is_empty() {
                self.check_lease()?;
                remaining = self
                    .delete_batch(&mut announcer, remaining, progress)
                    .await?;
            }
        }
        Ok(())
    }

    /// Deletes the blobs that nobody has marked. Returns those for which no time remained.
    async fn delete_batch(
        &mut self,
        announcer: &mut Announcer<'_>,
        mut batch: Vec<BlobId>,
        progress: &mut ProgressReporter<'_>,
    ) -> Result<Vec<BlobId>, GcError> {
        let digests = batch.iter().map(|&id| self.inventory.blob(id).digest);
        let announced = announcer.announce(digests).await;
        let announced = announced.map_err(failed_to("stored"))?;
        let announced = announced.ok_or(GcError::Busy)?;
        // Only now: a builder that marks a blob from here on sees the announcement, and waits.
        let spared = self.needed_again(&batch).await?;
        self.report.spared_blobs += spared.len() as u64;
        batch.retain(|id| !spared.contains(id));
        // After a failure the note stays: calls that were given up may still reach the store.
        let deleted = each(batch, |id| self.delete_blob(id, announced)).await?;
        announcer.clear().await.map_err(failed_to("deleted"))?;
        let mut remaining = Vec::new();
        for (id, deleted) in deleted {
            let Some(deleted) = deleted else {
                remaining.push(id);
                continue;
            };
            if deleted {
                self.report.deleted_blobs += 1;
                self.report.freed_bytes += self.inventory.blob(id).size.unwrap_or(0);
            }
            progress.step();
        }
        Ok(remaining)
    }

    /// Deletes a blob, and returns whether it existed; nothing if the announcement has expired,
    /// also because this process was stopped for a while.
    async fn delete_blob(
        &self,
        id: BlobId,
        announced: Instant,
    ) -> Result<(BlobId, Option<bool>), GcError> {
        if announced.elapsed() > VALID {
            return Ok((id, None));
        }
        let key = Key::blob(self.inventory.blob(id).digest);
        let deleted = timeout(SLOWEST_DELETION, self.delete(&key)).await;
        let deleted = deleted.map_err(|_| GcError::Slow { key })??;
        Ok((id, Some(deleted)))
    }

    /// Returns the blobs of a batch that were stored or marked again since the inventory, or are
    /// named by such a manifest.
    async fn needed_again(&self, batch: &[BlobId]) -> Result<HashSet<BlobId>, GcError> {
        let with_ancestors = |&id: &BlobId| std::iter::once(id).chain(self.inventory.ancestors(id));
        let candidates: HashSet<BlobId> = batch.iter().flat_map(with_ancestors).collect();
        let needed = each(candidates.into_iter().collect(), |id| self.is_needed(id)).await?;
        let needed: HashSet<BlobId> = needed.into_iter().flatten().collect();
        let is_spared = |id: &BlobId| with_ancestors(id).any(|id| needed.contains(&id));
        Ok(batch.iter().copied().filter(is_spared).collect())
    }

    /// Returns the blob if it was stored or marked again.
    async fn is_needed(&self, id: BlobId) -> Result<Option<BlobId>, GcError> {
        let digest = self.inventory.blob(id).digest;
        let needed =
            self.is_new(&Key::new(USES, digest)).await? || self.is_new(&Key::blob(digest)).await?;
        Ok(needed.then_some(id))
    }

    /// Deletes what is useless. The loss of a useful one costs a request or a build.
    async fn tidy(&mut self, progress: &mut ProgressReporter<'_>) -> Result<(), GcError> {
        // With the marks of the deleted blobs, unless they are new.
        let deleted = self.plan.deletions.iter();
        let marks = deleted.map(|&id| Key::new(USES, self.inventory.blob(id).digest));
        let useless: Vec<Key> = self.plan.useless.iter().copied().chain(marks).collect();
        let forgotten = &self.plan.forgotten;
        progress.enter(GcPhase::Tidy, (useless.len() + forgotten.len()) as u64);
        self.report.tidied = self.delete_old(&useless, progress).await?;
        self.report.forgotten_deleted = self.delete_old(forgotten, progress).await?;
        Ok(())
    }

    /// Deletes the objects that were not written again, and counts them.
    async fn delete_old(
        &self,
        keys: &[Key],
        progress: &mut ProgressReporter<'_>,
    ) -> Result<u64, GcError> {
        let mut count = 0;
        for chunk in keys.chunks(BATCH) {
            self.check_lease()?;
            for deleted in each(chunk.to_vec(), |key| self.delete_if_old(key)).await? {
                count += u64::from(deleted);
                progress.step();
            }
        }
        Ok(count)
    }

    async fn delete_if_old(&self, key: Key) -> Result<bool, GcError> {
        Ok(!self.is_new(&key).await? && self.delete(&key).await?)
    }

    async fn stat(&self, key: &Key) -> Result<Option<Stat>, GcError> {
        self.storage.stat(key).await.map_err(failed_to("looked up"))
    }

    async fn delete(&self, key: &Key) -> Result<bool, GcError> {
        self.storage.delete(key).await.map_err(failed_to("deleted"))
    }
}

/// Returns the results of `work` for each item, several at once; ends at the first error.
async fn each<T, R, E, F: Future<Output = Result<R, E>>>(
    items: Vec<T>,
    work: impl Fn(T) -> F,
) -> Result<Vec<R>, E> {
    // A list, as closures in streams make futures that cannot be sent between threads.
    let calls: Vec<_> = items.into_iter().map(work).collect();
    stream::iter(calls)
        .buffer_unordered(CALLS)
        .try_collect()
        .await
}
