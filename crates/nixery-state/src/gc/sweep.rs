//! Carries a plan out. Each step leaves a store that is whole, whatever happens then.

use crate::marks::USES;
use std::collections::HashSet;
use std::time::SystemTime;

use futures::stream::{self, StreamExt, TryStreamExt};
use nixery_manifest::Digest;
use nixery_storage::{Key, Stat, Storage};
use tokio::time::{Instant, timeout};

use super::inventory::{BlobId, Image, Inventory};
use super::plan::Plan;
use super::report::GcReport;
use super::turn::Turn;
use super::{GcError, GcPhase, GcPolicy, Watch, age, doing};
use crate::marks::note::{self, Announcer};
use crate::marks::{is_use, keep_dropped};

/// Blobs announced and deleted together.
const BATCH: usize = 500;
/// Calls to the store at once.
const CALLS: usize = 16;

/// What every step needs.
pub(super) struct Sweep<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) inventory: &'a Inventory,
    pub(super) plan: &'a Plan,
    pub(super) policy: &'a GcPolicy,
    pub(super) now: SystemTime,
    pub(super) turn: &'a Turn,
}

impl Sweep<'_> {
    /// Drops images, deletes blobs, tidies up: in this order, so that a failure in between leaves
    /// too much rather than too little.
    pub(super) async fn run(
        &self,
        report: &mut GcReport,
        watch: &mut Watch<'_>,
    ) -> Result<(), GcError> {
        self.drop_images(report, watch).await?;
        self.delete_blobs(report, watch).await?;
        self.tidy(report, watch).await
    }

    async fn drop_images(
        &self,
        report: &mut GcReport,
        watch: &mut Watch<'_>,
    ) -> Result<(), GcError> {
        watch.enter(GcPhase::Drop, self.plan.drops.len() as u64);
        let mut touched: HashSet<BlobId> = HashSet::new();
        for (drop, row) in self.plan.drops.iter().zip(&mut report.dropped) {
            self.turn.check()?;
            let image = &self.inventory.images[drop.image];
            if self.in_use(image).await? {
                row.spared = true;
                watch.step();
                continue;
            }
            // Whoever was answered with this image until now has the whole grace to fetch it.
            let lost = image.blobs.iter().copied().filter(|&id| {
                self.plan.refs_after[id as usize] == 0 && self.inventory.blob(id).size.is_some()
            });
            let lost: Vec<_> = lost.filter(|id| touched.insert(*id)).collect();
            each(lost, |id| {
                keep_dropped(self.storage, self.inventory.blob(id).digest)
            })
            .await
            .map_err(doing("marked"))?;
            self.delete(&image.key).await?;
            watch.step();
        }
        for (key, written) in &self.plan.unusable {
            let stat = self.storage.stat(key).await.map_err(doing("looked up"))?;
            if stat.is_some_and(|stat| stat.modified == Some(*written)) {
                self.delete(key).await?;
                report.unusable_deleted += 1;
            }
        }
        Ok(())
    }

    /// Whether the image was used or built anew since the inventory.
    async fn in_use(&self, image: &Image) -> Result<bool, GcError> {
        for &id in &image.manifests {
            let mark = Key::new(USES, self.inventory.blob(id).digest);
            let stat = self.storage.stat(&mark).await.map_err(doing("looked up"))?;
            if stat.is_some_and(|stat| is_use(stat.size) && self.is_young(&stat)) {
                return Ok(true);
            }
        }
        self.is_new(&image.key).await
    }

    /// Whether the object is there and was written within the grace. When the plan was made it was
    /// not: it has been written again.
    async fn is_new(&self, key: &Key) -> Result<bool, GcError> {
        let stat = self.storage.stat(key).await.map_err(doing("looked up"))?;
        Ok(stat.is_some_and(|stat| self.is_young(&stat)))
    }

    fn is_young(&self, stat: &Stat) -> bool {
        let written = stat.modified.unwrap_or(self.now);
        age(self.now, written) <= self.policy.grace
    }

    async fn delete_blobs(
        &self,
        report: &mut GcReport,
        watch: &mut Watch<'_>,
    ) -> Result<(), GcError> {
        watch.enter(GcPhase::Delete, self.plan.deletions.len() as u64);
        let mut announcer = Announcer::new(self.storage, self.turn.holder().to_owned());
        // The manifests stand first: in batches of their own, so that none of them can be served
        // any more when the first layer goes.
        let is_manifest = |id: &&BlobId| self.inventory.blob(**id).is_manifest;
        let manifests = self.plan.deletions.iter().take_while(is_manifest).count();
        let (manifests, others) = self.plan.deletions.split_at(manifests);
        for batch in manifests.chunks(BATCH).chain(others.chunks(BATCH)) {
            let mut left: Vec<BlobId> = batch.to_vec();
            // More than once only where the store is so slow that the announcement runs out.
            while !left.is_empty() {
                self.turn.check()?;
                left = self
                    .delete_batch(&mut announcer, left, report, watch)
                    .await?;
            }
        }
        Ok(())
    }

    /// Deletes the blobs nobody has marked; gives those there was no time for.
    async fn delete_batch(
        &self,
        announcer: &mut Announcer<'_>,
        batch: Vec<BlobId>,
        report: &mut GcReport,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<BlobId>, GcError> {
        let digests = batch.iter().map(|&id| self.inventory.blob(id).digest);
        let announced = announcer.announce(digests).await.map_err(doing("stored"))?;
        let announced = announced.ok_or(GcError::Busy)?;
        // Only now: who marks from here on has seen the announcement, and waits.
        let spared = self.needed_again(&batch).await?;
        let mut doomed = batch;
        doomed.retain(|id| !spared.contains(id));
        // Where it fails, the note stays: calls that were given up may still reach the store.
        let deleted = each(doomed, |id| self.delete_blob(id, announced)).await?;
        announcer.clear().await.map_err(doing("deleted"))?;
        report.spared_blobs += spared.len() as u64;
        let mut left = Vec::new();
        for outcome in deleted {
            match outcome {
                Outcome::Deleted { size } => {
                    report.deleted_blobs += 1;
                    report.freed_bytes += size;
                }
                Outcome::Gone => {}
                Outcome::NoTime(id) => {
                    left.push(id);
                    continue;
                }
            }
            watch.step();
        }
        Ok(left)
    }

    async fn delete_blob(&self, id: BlobId, announced: Instant) -> Result<Outcome, GcError> {
        // Also when this process was stopped for a while and goes on now.
        if announced.elapsed() > note::VALID {
            return Ok(Outcome::NoTime(id));
        }
        let blob = self.inventory.blob(id);
        let key = Key::blob(blob.digest);
        let deleted = timeout(note::SLOWEST_DELETION, self.delete(&key)).await;
        let size = blob.size.unwrap_or(0);
        Ok(match deleted.map_err(|_| GcError::Slow { key })?? {
            true => Outcome::Deleted { size },
            false => Outcome::Gone,
        })
    }

    /// Those of the batch that somebody stored or marked since the inventory, themselves or by a
    /// manifest that names them.
    async fn needed_again(&self, batch: &[BlobId]) -> Result<HashSet<BlobId>, GcError> {
        let mut looked_at: HashSet<BlobId> = batch.iter().copied().collect();
        for &id in batch {
            let parents = &self.inventory.blob(id).parents;
            looked_at.extend(parents);
            for &parent in parents {
                looked_at.extend(&self.inventory.blob(parent).parents);
            }
        }
        let looked_at: Vec<_> = looked_at.into_iter().collect();
        let marked = each(looked_at, |id| self.is_needed(id)).await?;
        let marked: HashSet<BlobId> = marked.into_iter().flatten().collect();
        let named_by_marked = |id: BlobId| {
            let parents = &self.inventory.blob(id).parents;
            parents.iter().any(|parent| {
                let grandparents = &self.inventory.blob(*parent).parents;
                marked.contains(parent) || grandparents.iter().any(|id| marked.contains(id))
            })
        };
        let spared = batch.iter().copied();
        Ok(spared
            .filter(|&id| marked.contains(&id) || named_by_marked(id))
            .collect())
    }

    /// The blob, if it was stored or marked again.
    async fn is_needed(&self, id: BlobId) -> Result<Option<BlobId>, GcError> {
        let digest = self.inventory.blob(id).digest;
        let needed =
            self.is_new(&Key::new(USES, digest)).await? || self.is_new(&Key::blob(digest)).await?;
        Ok(needed.then_some(id))
    }

    /// Deletes what is of no use any more. Losing one that is costs a look or a build, no more.
    async fn tidy(&self, report: &mut GcReport, watch: &mut Watch<'_>) -> Result<(), GcError> {
        let plan = self.plan;
        let total = plan.builds.len() + plan.marks.len() + plan.deletions.len() + plan.leases.len();
        watch.enter(GcPhase::Tidy, (total + plan.forgotten.len()) as u64);
        // Marks of blobs that were just deleted go with them, unless they are new.
        let mut marks: Vec<Digest> = plan.marks.clone();
        marks.extend(
            plan.deletions
                .iter()
                .map(|&id| self.inventory.blob(id).digest),
        );
        let keys = plan.builds.iter().copied();
        let keys = keys.chain(marks.into_iter().map(|digest| Key::new(USES, digest)));
        let keys: Vec<_> = keys.chain(plan.leases.iter().copied()).collect();
        report.tidied = self.delete_old(&keys, watch).await?;
        report.forgotten_deleted = self.delete_old(&plan.forgotten, watch).await?;
        Ok(())
    }

    /// Deletes those of the objects that were not written again, and counts them.
    async fn delete_old(&self, keys: &[Key], watch: &mut Watch<'_>) -> Result<u64, GcError> {
        let mut deleted = 0;
        for chunk in keys.chunks(BATCH) {
            self.turn.check()?;
            let outcomes = each(chunk.to_vec(), |key| self.delete_if_old(key)).await?;
            deleted += outcomes.into_iter().filter(|deleted| *deleted).count() as u64;
            for _ in chunk {
                watch.step();
            }
        }
        Ok(deleted)
    }

    async fn delete_if_old(&self, key: Key) -> Result<bool, GcError> {
        Ok(!self.is_new(&key).await? && self.delete(&key).await?)
    }

    async fn delete(&self, key: &Key) -> Result<bool, GcError> {
        self.storage.delete(key).await.map_err(doing("deleted"))
    }
}

/// What came of a blob that was to be deleted.
enum Outcome {
    Deleted { size: u64 },
    Gone,
    NoTime(BlobId),
}

/// The results of `work` for each item, several at once; ends at the first error.
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
