//! Garbage collection: drops unused images, and deletes the blobs that nothing needs.
//!
//! [`collect`] may run at any time, while any number of servers serve and build from the same
//! store, and may be killed at any moment:
//!
//! - An image is dropped by deleting its cache entry. Its blobs are marked just before, so that a
//!   client that was served it until then has the whole grace period to fetch them.
//! - A blob is deleted when no cache entry leads to it and nobody stored, marked or was served it
//!   for longer than the grace period. A build marks an old blob before it relies on it, and then
//!   reads the collector's note of what is being deleted. The collector first writes the note, then
//!   looks for marks. The second of the two notices the first.
//! - Ages are differences of times by the store's own clock.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use nixery_state::gc::{self, GcMode, GcPolicy};
//! use nixery_state::graphs;
//! use nixery_storage::MemoryStorage;
//!
//! # #[tokio::main] async fn main() -> Result<(), gc::GcError> {
//! let storage = Arc::new(MemoryStorage::new());
//! let mut policy = GcPolicy::default();
//! policy.max_unused = Some(Duration::from_secs(30 * 24 * 60 * 60));
//! policy.max_size = Some(100_000_000_000);
//! let report = gc::collect(storage, &policy, &[graphs::KEPT], GcMode::DryRun, |_| ()).await?;
//! println!("{} images would be dropped", report.dropped_images());
//! # Ok(()) }
//! ```

mod inventory;
mod plan;
mod report;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use nixery_manifest::Digest;
use nixery_storage::{Folder, Key, Operation, PutMode, Storage, StorageError};
use tokio::time::Instant;

use crate::lease::{LEASES, Lease, Leases};

pub use plan::DropReason;
pub use report::{DroppedImage, GcReport};

use sweep::Sweep;

/// The default of [`GcPolicy::grace`]: longer than any build and any pull.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(6 * 60 * 60);

/// Names the lease that one collector at a time holds: two do no harm, but twice the work.
const TASK: &str = "gc";
/// The time without a renewal after which a collector counts as dead.
const LEASE_TIME: Duration = Duration::from_secs(15);
/// How long to wait for the lease: a dead holder is detected by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// Names the object that shows the store's time; it is as short-lived as a lease.
const CLOCK: &[u8] = b"gc clock";
/// How often it is stored at most, if other collections delete it before its time is read.
const CLOCK_TRIES: u32 = 10;

/// What may stay in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcPolicy {
    /// Images that nobody requested for this long are dropped.
    pub max_unused: Option<Duration>,
    /// Images built longer ago are dropped, used or not.
    pub max_age: Option<Duration>,
    /// While images need more bytes, the least recently used one is dropped.
    pub max_size: Option<u64>,
    /// While images need more than this many percent of what the store's file system has for the
    /// store, of bytes or of files, the least recently used one is dropped. The file system has for
    /// the store what the store uses and what is free. Not used where the store does not know its
    /// [space](Storage::space).
    pub max_share_percent: Option<u8>,
    /// Whatever was written or used within this time stays in any case. Longer than any build and
    /// any pull, and not shorter than the grace period that the builders on the store are
    /// configured with.
    pub grace: Duration,
}

impl Default for GcPolicy {
    /// Drops no image; blobs that nothing needs are deleted.
    fn default() -> Self {
        Self {
            max_unused: None,
            max_age: None,
            max_size: None,
            max_share_percent: None,
            grace: DEFAULT_GRACE,
        }
    }
}

impl GcPolicy {
    /// Whether it can ever drop an image.
    #[must_use]
    pub const fn has_limit(&self) -> bool {
        self.max_unused.is_some()
            || self.max_age.is_some()
            || self.max_size.is_some()
            || self.max_share_percent.is_some()
    }
}

/// How long the objects of one folder are kept. A feature that stores objects declares it, and the
/// caller of a collection passes it on.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
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

impl Retention {
    /// Keeps at most `limit` objects, and those that are not in use for `kept_for`.
    #[must_use]
    pub const fn new(folder: Folder, kept_for: Duration, limit: usize, in_use: InUse) -> Self {
        Self {
            folder,
            kept_for,
            limit,
            in_use,
        }
    }
}

/// Which objects of a folder are in use.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum InUse {
    /// None.
    Nothing,
    /// Objects with the name of a cached image's entry.
    OfCachedImages,
    /// Objects that the function finds; `None` stands for all. It is called after the folder was
    /// listed: an object that is put into use later is young.
    Found(FindInUse),
}

/// Finds the objects in use in a store.
pub type FindInUse =
    for<'a> fn(&'a dyn Storage) -> BoxFuture<'a, Result<Option<Vec<Key>>, StorageError>>;

/// Whether a collection changes the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcMode {
    /// Only report what would be done.
    DryRun,
    /// Drop and delete.
    Sweep,
}

/// The phases of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GcPhase {
    /// Listing the store.
    List,
    /// Reading cache entries.
    Read,
    /// Dropping images.
    Drop,
    /// Deleting blobs.
    Delete,
    /// Deleting cache entries, marks and leases that have become useless.
    Tidy,
}

impl GcPhase {
    /// Returns one word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::Drop => "drop",
            Self::Delete => "delete",
            Self::Tidy => "tidy",
        }
    }
}

/// The progress of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcProgress {
    /// The current phase.
    pub phase: GcPhase,
    /// Objects done in this phase.
    pub done: u64,
    /// Objects to do in this phase; 0 while that is not known.
    pub total: u64,
}

/// Why a collection ended early. What it did until then is valid, and the next one continues.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GcError {
    /// Only one collection runs at a time.
    #[error("another collection is running in this store. Fix: try again when it has ended")]
    Busy,
    /// After an outage or a long pause, another collector treated this one as dead.
    #[error("another collection has taken over: this one did not renew its lease in time")]
    Superseded,
    /// The caller stopped it.
    #[error("the collection was stopped")]
    Stopped,
    /// The store failed.
    #[error("cannot collect garbage: an object could not be {doing}")]
    Storage {
        /// The failed operation: "listed", "deleted".
        doing: &'static str,
        /// The error of the store.
        #[source]
        source: StorageError,
    },
    /// The store did not answer.
    #[error(
        "the store takes too long to delete {key}, so the collection ends early. Fix: check the store; the next collection continues"
    )]
    Slow {
        /// The object to delete.
        key: Key,
    },
}

fn failed_to(doing: &'static str) -> impl Fn(StorageError) -> GcError {
    move |source| GcError::Storage { doing, source }
}

/// Passes the progress on to the caller.
struct ProgressReporter<'a> {
    at: GcProgress,
    report: &'a mut (dyn FnMut(GcProgress) + Send),
}

impl ProgressReporter<'_> {
    fn enter(&mut self, phase: GcPhase, total: u64) {
        let done = 0;
        self.at = GcProgress { phase, done, total };
        (self.report)(self.at);
    }

    fn step(&mut self) {
        self.at.done += 1;
        (self.report)(self.at);
    }
}

/// Collects garbage, or reports what would be collected. `retentions` say how long the data of
/// features is kept; other folders are not touched. `progress` is called after each object.
///
/// # Errors
/// Another collection runs, or the store failed. Dropping the future at any moment is harmless, and
/// so is killing the process.
pub async fn collect(
    storage: Arc<dyn Storage>,
    policy: &GcPolicy,
    retentions: &[Retention],
    mode: GcMode,
    progress: impl FnMut(GcProgress) + Send,
) -> Result<GcReport, GcError> {
    let never = std::future::pending();
    collect_until(storage, policy, retentions, mode, progress, never).await
}

/// Collects garbage like [`collect`] until `stop` is ready. Then it only releases its lease, so
/// that other collectors do not wait for it.
///
/// # Errors
/// As [`collect`], and [`GcError::Stopped`].
pub async fn collect_until(
    storage: Arc<dyn Storage>,
    policy: &GcPolicy,
    retentions: &[Retention],
    mode: GcMode,
    mut progress: impl FnMut(GcProgress) + Send,
    stop: impl Future<Output = ()> + Send,
) -> Result<GcReport, GcError> {
    let mut stop = std::pin::pin!(stop);
    let lease = match mode {
        GcMode::DryRun => None,
        GcMode::Sweep => Some(acquire_lease(&storage, stop.as_mut()).await?),
    };
    let work = collect_with(&*storage, policy, retentions, lease.as_ref(), &mut progress);
    let result = tokio::select! {
        result = work => result,
        () = stop => Err(GcError::Stopped),
    };
    if let Some(lease) = lease {
        lease.release().await;
    }
    result
}

async fn acquire_lease(
    storage: &Arc<dyn Storage>,
    stop: impl Future<Output = ()> + Unpin,
) -> Result<Lease, GcError> {
    // Works in every store; the pause that it takes does not matter here.
    let exclusive = false;
    let leases = Leases::new(Arc::clone(storage), LEASE_TIME, exclusive);
    let begun = Instant::now();
    let lease = leases.contender(TASK).take_within(PATIENCE, stop).await;
    lease.map_err(failed_to("leased"))?.ok_or_else(|| {
        if begun.elapsed() > PATIENCE {
            GcError::Busy
        } else {
            GcError::Stopped
        }
    })
}

/// Without a lease, it changes nothing.
async fn collect_with(
    storage: &dyn Storage,
    policy: &GcPolicy,
    retentions: &[Retention],
    lease: Option<&Lease>,
    report: &mut (dyn FnMut(GcProgress) + Send),
) -> Result<GcReport, GcError> {
    let now = store_time(storage, lease.is_none()).await?;
    let at = GcProgress {
        phase: GcPhase::List,
        done: 0,
        total: 0,
    };
    let mut progress = ProgressReporter { at, report };
    let inventory =
        inventory::take_inventory(storage, policy.grace, retentions, now, &mut progress).await?;
    let space = match policy.max_share_percent {
        None => None,
        Some(_) => storage.space().await.map_err(failed_to("measured"))?,
    };
    let plan = plan::plan(&inventory, policy, space, now);
    let mut report = GcReport::of_plan(&inventory, &plan, now);
    if let Some(lease) = lease {
        report.dry_run = false;
        let sweep = Sweep {
            storage,
            inventory: &inventory,
            plan: &plan,
            policy,
            now,
            lease,
            report: &mut report,
        };
        sweep.run(&mut progress).await?;
    }
    Ok(report)
}

/// Returns the time by the clock that dates the store's objects.
async fn store_time(storage: &dyn Storage, dry_run: bool) -> Result<SystemTime, GcError> {
    let key = Key::new(LEASES, Digest::of(CLOCK));
    let write = async {
        for _ in 0..CLOCK_TRIES {
            let json = Bytes::from_static(b"{}\n");
            let _ = storage.put(&key, json, PutMode::Replace).await?;
            let stat = storage.stat(&key).await?;
            let _ = storage.delete(&key).await?;
            if let Some(stat) = stat {
                return Ok(stat.modified);
            }
        }
        // A guess would make every object old if the clock of this machine is ahead.
        Err(StorageError::Failed {
            backend: storage.backend(),
            operation: Operation::Stat,
            target: key.to_string(),
            retryable: true,
            source: "it disappears as soon as it is stored".into(),
        })
    };
    match write.await {
        Ok(Some(now)) => Ok(now),
        // In a store without times every object is new.
        Ok(None) => Ok(SystemTime::now()),
        // A dry run on a store that is full or mounted read-only uses the clock of this machine.
        Err(StorageError::Denied { .. } | StorageError::NoSpace { .. }) if dry_run => {
            Ok(SystemTime::now())
        }
        Err(source) => Err(failed_to("dated")(source)),
    }
}

/// Returns how long ago `then` was; 0 for a time that is in the future by another clock.
fn age(now: SystemTime, then: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}
