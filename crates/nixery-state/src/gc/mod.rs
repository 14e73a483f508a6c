//! Collecting garbage in a blob store: dropping images nobody uses, and the blobs nothing needs.
//!
//! [`collect`] may run at any time, beside any number of servers that serve and build from the
//! same store, and may be killed at any moment:
//!
//! - An image is dropped by deleting its cache entry. Its blobs are marked as used just before, so
//!   that a client that was answered with it until then has the whole grace to fetch them.
//! - A blob is deleted when no cache entry leads to it and nobody stored, marked or was served it
//!   for longer than the grace. Builds mark an old blob before they rely on it and then read the
//!   collector's note of what it is deleting; the collector writes the note first and then looks
//!   for marks. Whoever comes second sees the other.
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
//! let policy = GcPolicy {
//!     max_unused: Some(Duration::from_secs(30 * 24 * 60 * 60)),
//!     max_size: Some(100_000_000_000),
//!     ..GcPolicy::default()
//! };
//! let report = gc::collect(storage, &policy, &[graphs::KEPT], GcMode::DryRun, |_| ()).await?;
//! println!("{} images would go", report.dropped_images());
//! # Ok(()) }
//! ```

mod inventory;
mod plan;
mod records;
mod remembered;
mod report;
mod survey;
mod sweep;
#[cfg(test)]
mod tests;
mod turn;

use crate::lease::LEASES;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use nixery_manifest::Digest;
use nixery_storage::{Key, Operation, PutMode, Storage, StorageError};

pub use plan::Reason;
pub use remembered::{FindInUse, InUse, Retention};
pub use report::{DroppedImage, GcReport};

use sweep::Sweep;
use turn::Turn;

/// The object that tells the store's time; as short-lived as a lease.
const CLOCK: &[u8] = b"gc clock";
/// How often it is stored at most, when other collections delete it before its time is read.
const CLOCK_TRIES: u32 = 10;

/// How long whatever was stored or needed is safe from collection, unless configured: longer than
/// any build and any pull.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(6 * 60 * 60);

/// What may stay in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcPolicy {
    /// Images that nobody asked for in so long are dropped.
    pub max_unused: Option<Duration>,
    /// Images built longer ago are dropped, used or not.
    pub max_age: Option<Duration>,
    /// While images need more bytes, the least recently used one is dropped.
    pub max_size: Option<u64>,
    /// Whatever was written or used in so long stays in any case. Longer than any build and any
    /// pull, and not shorter than the grace that the builders on the store are
    /// configured with.
    pub grace: Duration,
}

impl Default for GcPolicy {
    /// No image is dropped; blobs that nothing needs are deleted.
    fn default() -> Self {
        Self {
            max_unused: None,
            max_age: None,
            max_size: None,
            grace: DEFAULT_GRACE,
        }
    }
}

impl GcPolicy {
    /// Whether any image can ever be dropped by it.
    #[must_use]
    pub const fn has_limit(&self) -> bool {
        self.max_unused.is_some() || self.max_age.is_some() || self.max_size.is_some()
    }
}

/// Whether a collection does anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcMode {
    /// Only look.
    DryRun,
    /// Drop and delete.
    Sweep,
}

/// What a collection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcPhase {
    /// Listing the store.
    List,
    /// Reading cache entries.
    Read,
    /// Dropping images.
    Drop,
    /// Deleting blobs.
    Delete,
    /// Deleting what leads nowhere.
    Tidy,
}

impl GcPhase {
    /// One word for people.
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

/// How far a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcProgress {
    /// What it is doing.
    pub phase: GcPhase,
    /// Objects done in this phase.
    pub done: u64,
    /// Objects to do in this phase; 0 while that is not known.
    pub total: u64,
}

/// Why a collection ended early. Whatever it did until then was right; the next one goes on.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// There is one at a time.
    #[error("another collection is running in this store; try again when it has ended")]
    Busy,
    /// Another collector took this one for dead, after an outage or a long pause.
    #[error("another collector has taken over from this one, which was not heard of for too long")]
    Superseded,
    /// It was told to.
    #[error("the collection was stopped")]
    Stopped,
    /// The store failed.
    #[error("something could not be {doing}")]
    Storage {
        /// What was to be done: "listed", "deleted".
        doing: &'static str,
        /// The store's reason.
        #[source]
        source: StorageError,
    },
    /// The store did not answer.
    #[error("the store takes too long to delete {key}; nothing more is deleted now")]
    Slow {
        /// What was to be deleted.
        key: Key,
    },
}

fn doing(doing: &'static str) -> impl Fn(StorageError) -> GcError {
    move |source| GcError::Storage { doing, source }
}

/// Tells the caller how far it is.
struct Watch<'a> {
    at: GcProgress,
    tell: &'a mut (dyn FnMut(GcProgress) + Send),
}

impl Watch<'_> {
    fn enter(&mut self, phase: GcPhase, total: u64) {
        let done = 0;
        self.at = GcProgress { phase, done, total };
        (self.tell)(self.at);
    }

    fn step(&mut self) {
        self.at.done += 1;
        (self.tell)(self.at);
    }
}

/// Collects garbage, or tells what would be. `retentions` say how long what features store is
/// remembered; folders without one are left alone. `progress` is called after each object.
///
/// # Errors
/// Another collection runs, or the store failed. Dropping the future at any moment is harmless, as
/// is killing the process.
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

/// The same until `stop` is ready. Then nothing more is done but to let others collect, who would
/// else wait for this collector for a while.
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
    let turn = match mode {
        GcMode::DryRun => None,
        GcMode::Sweep => Some(Turn::take(&storage, stop.as_mut()).await?),
    };
    let result = tokio::select! {
        result = collect_as(&*storage, policy, retentions, turn.as_ref(), &mut progress) => result,
        () = stop => Err(GcError::Stopped),
    };
    if let Some(turn) = turn {
        turn.end().await;
    }
    result
}

/// Without a turn it only looks.
async fn collect_as(
    storage: &dyn Storage,
    policy: &GcPolicy,
    retentions: &[Retention],
    turn: Option<&Turn>,
    tell: &mut (dyn FnMut(GcProgress) + Send),
) -> Result<GcReport, GcError> {
    let now = store_time(storage, turn.is_none()).await?;
    let mut watch = Watch {
        at: GcProgress {
            phase: GcPhase::List,
            done: 0,
            total: 0,
        },
        tell,
    };
    let inventory = survey::survey(storage, policy, retentions, now, &mut watch).await?;
    let plan = plan::plan(&inventory, policy, now);
    let mut report = GcReport::of_plan(&inventory, &plan, now);
    if let Some(turn) = turn {
        report.dry_run = false;
        let sweep = Sweep {
            storage,
            inventory: &inventory,
            plan: &plan,
            policy,
            now,
            turn,
        };
        sweep.run(&mut report, &mut watch).await?;
    }
    Ok(report)
}

/// The time by the clock that dates the store's objects.
async fn store_time(storage: &dyn Storage, only_look: bool) -> Result<SystemTime, GcError> {
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
        // Guessing would make everything old where this machine's clock is ahead.
        Err(StorageError::Failed {
            backend: storage.backend(),
            operation: Operation::Stat,
            target: key.to_string(),
            retryable: true,
            source: "it vanishes as soon as it is stored".into(),
        })
    };
    match write.await {
        Ok(Some(now)) => Ok(now),
        // A store that knows no ages: everything in it is new.
        Ok(None) => Ok(SystemTime::now()),
        // To look at a store that is full or mounted read-only, the clock of this machine will do.
        Err(StorageError::Denied { .. } | StorageError::NoSpace { .. }) if only_look => {
            Ok(SystemTime::now())
        }
        Err(source) => Err(doing("dated")(source)),
    }
}

/// How long ago that was; what is of the future by some other clock is new.
pub(super) fn age(now: SystemTime, then: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}
