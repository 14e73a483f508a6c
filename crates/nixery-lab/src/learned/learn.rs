//! Making a plan from the recorded images of a store, when one is due: the base of the newest
//! images determines it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::pending;
use futures::{StreamExt, TryStreamExt};
use nixery_core::{ClusterPlan, ReferenceGraph, StorePath};
use nixery_state::graphs::{self, GraphEntry, GraphsError, RecordedGraph};
use nixery_state::lease::Leases;
use nixery_storage::Storage;
use tokio::sync::oneshot;

use super::LearnError;
use super::stored::{PlanPointer, StoredPointer, store, stored_pointer};
use crate::cluster_plan::{DEFAULT_SAMPLES, DEFAULT_SEED, PathCollection, build};
use crate::gather::{gather, read_graphs};

/// Images that are older than the newest by more than this are ignored.
pub const PERIOD: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The least number of images that a plan is learned from.
pub const LEAST_IMAGES: usize = 10;
/// Number of the newest images, which determine the current base.
const NEWEST: usize = 64;

/// The name of the task in its lease.
const TASK: &str = "learn a plan";
/// A server that does not renew its lease for this long counts as dead.
const LEASE_TIME: Duration = Duration::from_secs(15);
/// Time to wait for the lease, long enough to recognise a dead holder.
const LEASE_PATIENCE: Duration = Duration::from_secs(20);

/// The outcome of [`learn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LearnOutcome {
    /// Another server is learning.
    Busy,
    /// Too few of the newest images can be read, fewer than [`LEAST_IMAGES`].
    TooFewImages {
        /// Number of images that can be read.
        images: usize,
    },
    /// The plan was kept: enough of the newest images depend on its base.
    Kept(PlanPointer),
    /// The plan was kept: a newer version of this program has learned it.
    NewerVersion,
    /// A new plan was stored.
    Learned(PlanPointer),
}

/// Makes a plan of the images that were recorded in the 30 days before the newest one, if there is
/// no plan yet, or if hardly any of the newest 64 images depend on the base of the plan. One server
/// does so at a time.
///
/// # Errors
/// The store failed, or the images do not give a plan.
pub async fn learn(storage: Arc<dyn Storage>) -> Result<LearnOutcome, LearnError> {
    // Some stores cannot create an object exclusively. A short pause is no cost here.
    let exclusive = false;
    let leases = Leases::new(Arc::clone(&storage), LEASE_TIME, exclusive);
    let mut contender = leases.contender(TASK);
    let lease = contender.take_within(LEASE_PATIENCE, pending()).await?;
    let Some(lease) = lease else {
        return Ok(LearnOutcome::Busy);
    };
    let outcome = learn_alone(&*storage).await;
    lease.release().await;
    outcome
}

async fn learn_alone(storage: &dyn Storage) -> Result<LearnOutcome, LearnError> {
    let entries = graphs::list(storage).await?;
    let entries = of_the_period(&entries);
    let newest = newest(storage, entries).await?;
    let graphs: Vec<_> = newest.iter().map(|image| &image.graph).collect();
    let base = base(graphs.iter().copied());
    let images = newest.len();
    let Some(base) = base.filter(|_| images >= LEAST_IMAGES) else {
        return Ok(LearnOutcome::TooFewImages { images });
    };
    match stored_pointer(storage).await? {
        StoredPointer::Newer => return Ok(LearnOutcome::NewerVersion),
        StoredPointer::Valid(known) if !is_due(&known.base, &base, &graphs) => {
            return Ok(LearnOutcome::Kept(known));
        }
        StoredPointer::Valid(_) | StoredPointer::Missing => {}
    }
    drop(newest);
    let mut paths = PathCollection::default();
    let images = gather(storage, entries, &mut paths, |_| ()).await?.images;
    let revision = format!("history, {}", base.base_name());
    let plan = make_plan(paths, revision).await?;
    let pointer = store(storage, &plan, base, images as u64).await?;
    Ok(LearnOutcome::Learned(pointer))
}

/// Returns the entries of the period, at most as many as a plan takes for samples. The newest are
/// first.
fn of_the_period(entries: &[GraphEntry]) -> &[GraphEntry] {
    let newest = entries.first().and_then(|entry| entry.written);
    let is_old = |entry: &GraphEntry| {
        let age = newest.zip(entry.written);
        let age = age.and_then(|(newest, written)| newest.duration_since(written).ok());
        age.is_some_and(|age| age > PERIOD)
    };
    let end = entries.iter().position(is_old).unwrap_or(entries.len());
    &entries[..end.min(usize::from(DEFAULT_SAMPLES))]
}

/// Reads the newest images. Damaged ones are skipped.
async fn newest(
    storage: &dyn Storage,
    entries: &[GraphEntry],
) -> Result<Vec<RecordedGraph>, GraphsError> {
    let newest = entries.iter().take(NEWEST).map(|entry| entry.key);
    let images = read_graphs(storage, newest).filter_map(async |image| match image {
        Err(GraphsError::File { .. }) => None,
        image => image.transpose(),
    });
    Box::pin(images).try_collect().await
}

/// Makes the plan in a thread of its own, because it may take minutes. A process does not wait for
/// this thread when it exits.
async fn make_plan(paths: PathCollection, revision: String) -> Result<ClusterPlan, LearnError> {
    let (sender, plan) = oneshot::channel();
    let work = move || {
        let sample = paths.to_sample(DEFAULT_SAMPLES, DEFAULT_SEED);
        // The receiver is gone if the learning was given up meanwhile.
        let _ = sender.send(build(&sample, revision, &mut |_| ()));
    };
    let thread = std::thread::Builder::new().name("plan".to_owned());
    thread.spawn(work).map_err(|_| LearnError::Interrupted)?;
    Ok(plan.await.map_err(|_| LearnError::Interrupted)??)
}

/// How many images depend on a path, in order of significance: images in which another path refers
/// to it, images that contain it, its largest NAR size.
type Weight = (u32, u32, u64);

/// Returns the path that most of these images depend on: usually glibc. Of several the one with the
/// largest NAR, then the first by name. `None` without paths.
///
/// An image depends on a path, in this sense, if another path of the image refers to it: a path
/// that is in every image for itself, such as iana-etc, outlives a glibc. Such paths count only if
/// there are no others.
pub(super) fn base<'a>(images: impl IntoIterator<Item = &'a ReferenceGraph>) -> Option<StorePath> {
    let mut weights: HashMap<&StorePath, Weight> = HashMap::new();
    for image in images {
        let mut is_referred = vec![false; image.len()];
        for path in image.ids() {
            for reference in image.references(path) {
                is_referred[reference.index()] = true;
            }
        }
        for (node, is_referred) in image.nodes().iter().zip(is_referred) {
            let (referring, containing, nar_size) = weights.entry(&node.path).or_default();
            *referring += u32::from(is_referred);
            *containing += 1;
            *nar_size = node.nar_size.max(*nar_size);
        }
    }
    let weights = weights.into_iter();
    let base = weights.max_by_key(|&(path, weight)| (weight, Reverse((path.name(), path))));
    base.map(|(path, _)| path.clone())
}

/// Returns whether a plan that was made for `known` is to be replaced by one for `base`: fewer than
/// a quarter as many of these images depend on `known`. If several bases are in use, of several
/// architectures or of old commits that are still requested, plans for them do not alternate.
pub(super) fn is_due(known: &StorePath, base: &StorePath, images: &[&ReferenceGraph]) -> bool {
    let dependent_images = |base: &StorePath| {
        let depends = |image: &&&ReferenceGraph| {
            let base = image.id_of(base);
            base.is_some_and(|base| {
                image
                    .ids()
                    .any(|path| image.references(path).contains(&base))
            })
        };
        images.iter().filter(depends).count()
    };
    dependent_images(known) * 4 < dependent_images(base)
}
