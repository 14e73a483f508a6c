//! Making a plan from what the store remembers, when it is time for one.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster_plan::{BuildPlanError, DEFAULT_SAMPLES, DEFAULT_SEED, PathCollection, build};
use futures::TryStreamExt;
use futures::future::pending;
use nixery_core::ClusterPlan;
use nixery_state::graphs::{self, GraphEntry, GraphsError, RecordedGraph};
use nixery_state::lease::Leases;
use nixery_storage::Storage;
use tokio::sync::oneshot;

use super::LearnError;
use super::base::{base, is_due};
use super::pointer::{Found, Pointer, find, store};
use crate::gather;

/// Images from before this time, seen from the newest, teach nothing.
pub const PERIOD: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// From fewer images nothing is learned.
pub const LEAST_IMAGES: usize = 10;
/// The newest images, which say what everything stands on now.
const NEWEST: usize = 64;

/// The name of the task.
const TASK: &str = "learn a plan";
/// After so long without a sign of life whoever learns counts as dead.
const LEASE_TIME: Duration = Duration::from_secs(15);
/// How long to watch whoever has the lease: whoever is dead is found out by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of learning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lesson {
    /// Another server is at it.
    Busy,
    /// Too few images are recorded to learn from: of the newest, fewer than [`LEAST_IMAGES`] can be read.
    TooFew {
        /// How many can.
        images: usize,
    },
    /// Enough of the newest images still stand on what the plan was made for: it stays.
    Kept(Pointer),
    /// A newer version of this program has learned the plan: it stays, whatever it is.
    Newer,
    /// There is a new plan.
    New(Pointer),
}

/// Makes a plan of the images that were recorded in the last 30 days before the newest, if there is none yet, or
/// if hardly any of the newest 64 stand any more on the path that the plan was made for. One server does so at a time.
///
/// # Errors
/// The store failed, or no plan can be made.
pub async fn learn(storage: Arc<dyn Storage>) -> Result<Lesson, LearnError> {
    // Not every store lets exactly one create an object. A pause of a moment costs nothing here.
    let exclusive = false;
    let leases = Leases::new(Arc::clone(&storage), LEASE_TIME, exclusive);
    let mut contender = leases.contender(TASK);
    let lease = contender.take_within(PATIENCE, pending()).await;
    let lease = lease.map_err(|source| LearnError::Storage {
        doing: "leased",
        source,
    })?;
    let Some(lease) = lease else {
        return Ok(Lesson::Busy);
    };
    let lesson = learn_alone(&*storage).await;
    lease.release().await;
    lesson
}

async fn learn_alone(storage: &dyn Storage) -> Result<Lesson, LearnError> {
    let entries = graphs::list(storage).await.map_err(LearnError::Graphs)?;
    let entries = of_the_period(&entries);
    let newest = newest(storage, entries).await.map_err(LearnError::Graphs)?;
    let graphs: Vec<_> = newest.iter().map(|image| &image.graph).collect();
    let base = base(graphs.iter().copied());
    let images = newest.len();
    let Some(base) = base.filter(|_| images >= LEAST_IMAGES) else {
        return Ok(Lesson::TooFew { images });
    };
    match find(storage).await? {
        Found::Newer => return Ok(Lesson::Newer),
        Found::Pointer(known) if !is_due(&known.base, &base, &graphs) => {
            return Ok(Lesson::Kept(known));
        }
        Found::Pointer(_) | Found::Nothing => {}
    }
    drop(newest);
    let mut paths = PathCollection::default();
    let gathered = gather::gather(storage, entries, &mut paths, |_| ()).await;
    let images = gathered.map_err(LearnError::Graphs)?.images;
    let revision = format!("history, {}", base.base_name());
    let plan = make(paths, revision).await?;
    let pointer = store(storage, &plan, base, images as u64).await?;
    Ok(Lesson::New(pointer))
}

/// Those of the period, as many as a plan takes for samples. The newest are first.
fn of_the_period(entries: &[GraphEntry]) -> &[GraphEntry] {
    let newest = entries.first().and_then(|entry| entry.written);
    let is_old = |entry: &GraphEntry| {
        let age = newest.zip(entry.written);
        age.is_some_and(|(newest, written)| {
            newest.duration_since(written).unwrap_or_default() > PERIOD
        })
    };
    let end = entries.iter().position(is_old).unwrap_or(entries.len());
    &entries[..end.min(usize::from(DEFAULT_SAMPLES))]
}

/// The newest images, as far as they can be read.
async fn newest(
    storage: &dyn Storage,
    entries: &[GraphEntry],
) -> Result<Vec<RecordedGraph>, GraphsError> {
    let newest = &entries[..entries.len().min(NEWEST)];
    let read = gather::all(storage, newest).or_else(async |error| match error {
        GraphsError::File { .. } => Ok(None),
        error => Err(error),
    });
    let read = read.try_filter_map(async |image| Ok(image));
    Box::pin(read).try_collect().await
}

/// In a thread of its own, which a process that ends does not wait for: it may take minutes.
async fn make(paths: PathCollection, revision: String) -> Result<ClusterPlan, LearnError> {
    let (made, plan) = oneshot::channel::<Result<ClusterPlan, BuildPlanError>>();
    let work = move || {
        let sample = paths.to_sample(DEFAULT_SAMPLES, DEFAULT_SEED);
        // Nobody hears it where the learning was given up meanwhile.
        let _ = made.send(build(&sample, revision, &mut |_| ()));
    };
    let thread = std::thread::Builder::new().name("plan".to_owned());
    thread.spawn(work).map_err(|_| LearnError::Broken)?;
    let plan = plan.await.map_err(|_| LearnError::Broken)?;
    plan.map_err(LearnError::Build)
}
