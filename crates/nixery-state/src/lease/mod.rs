//! Leases: of several servers on one store, one does a task while the others wait for it.
//!
//! A lease is a small object in the store, created by whoever comes first and deleted at the end of
//! the task. Its holder renews it every third of the lease time. Whoever waits watches it by a clock
//! of its own: what stays unchanged for the lease time was left by a server that is gone, and is
//! taken over. No two clocks are ever compared. A holder that this machine can see to be dead is not
//! waited for at all, so that a server that restarts after a crash goes on at once.
//!
//! Nothing is ever right only because of a lease: everything a task writes may be written twice.
//! Two servers may both hold one after a pause or an outage, and a store that fails makes a task go
//! on without one. All it costs is that something is done twice.
//!
//! Taking over is Fischer's algorithm: write your name, wait longer than others need between
//! reading and writing, and it is yours if your name still stands there.

mod contender;
mod content;
mod keeper;
mod process;
#[cfg(test)]
mod tests;
mod watch;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nixery_manifest::Digest;
#[cfg(test)]
use nixery_storage::StorageError;
use nixery_storage::{Contents, Folder, Key, Storage, can_create_exclusively};
use tokio::sync::{mpsc, oneshot, watch as signal};

pub use contender::Contender;
pub use keeper::Lease;
pub use watch::Watch;

use keeper::Order;

/// Leases, each named by the SHA-256 of its task.
pub const LEASES: Folder = Folder::new("leases", Contents::Json);

/// How long a process that ends waits for a store to take its leases back. Whatever it does not take
/// goes stale.
const FAREWELL: Duration = Duration::from_secs(5);

/// The leases of one process on a store. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct Leases(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    storage: Arc<dyn Storage>,
    ttl: Duration,
    exclusive: bool,
    dice: Dice,
    /// The keepers of what is held now.
    keepers: Mutex<Vec<mpsc::WeakSender<Order>>>,
    /// Leases that were dropped and are being deleted.
    ending: signal::Sender<usize>,
}

impl Leases {
    /// Leases that go stale after `ttl`; with a `ttl` of zero everybody gets every lease.
    ///
    /// `exclusive` tells whether of several that create one object in this store exactly one wins.
    /// Where not, each waits a moment to see whether its lease stands.
    pub fn new(storage: Arc<dyn Storage>, ttl: Duration, exclusive: bool) -> Self {
        Self::seeded(
            storage,
            ttl,
            exclusive,
            RandomState::new().hash_one("lease"),
        )
    }

    /// Leases as far as they work in this store; where they do not, none, with a warning.
    pub async fn where_exclusive(storage: Arc<dyn Storage>, ttl: Duration) -> Self {
        if ttl.is_zero() {
            return Self::new(storage, ttl, true);
        }
        let exclusive = can_create_exclusively(&*storage).await;
        let exclusive = exclusive.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell whether leases work in this store: taken as if they did");
            true
        });
        let ttl = if exclusive {
            ttl
        } else {
            tracing::warn!(
                storage = storage.backend(),
                "this store does not create objects exclusively: there are no leases, and servers that share it may build an image twice, and must not collect garbage at the same time"
            );
            Duration::ZERO
        };
        Self::new(storage, ttl, exclusive)
    }

    fn seeded(storage: Arc<dyn Storage>, ttl: Duration, exclusive: bool, seed: u64) -> Self {
        Self(Arc::new(Shared {
            storage,
            ttl,
            exclusive,
            dice: Dice(AtomicU64::new(seed)),
            keepers: Mutex::default(),
            ending: signal::Sender::new(0),
        }))
    }

    /// One who wants the lease of a task, and may have to wait for it.
    pub fn contender(&self, task: &str) -> Contender {
        Contender::new(self.clone(), task)
    }

    /// The lease of a task if nobody has it, or whoever had it is dead.
    ///
    /// # Errors
    /// The store failed.
    #[cfg(test)]
    pub async fn try_acquire(&self, task: &str) -> Result<Option<Lease>, StorageError> {
        self.contender(task).try_take().await
    }

    /// The lease of a task, as soon as nobody else has it.
    ///
    /// # Errors
    /// The store failed.
    #[cfg(test)]
    pub async fn acquire(&self, task: &str) -> Result<Lease, StorageError> {
        let mut contender = self.contender(task);
        loop {
            if let Some(lease) = contender.try_take().await? {
                return Ok(lease);
            }
            contender.pause().await;
            while !contender.may_try().await {
                contender.pause().await;
            }
        }
    }

    /// Looks at the lease of a task without wanting it.
    pub fn watch(&self, task: &str) -> Watch {
        Watch::new(Arc::clone(&self.0.storage), key_of(task), self.0.ttl)
    }

    /// Waits until the leases that were dropped are deleted.
    pub async fn settled(&self) {
        // The sender is in `self`: the channel is open.
        let _ = self
            .0
            .ending
            .subscribe()
            .wait_for(|ending| *ending == 0)
            .await;
    }

    /// Gives up everything that is held, for a process that ends before its tasks do. Takes no longer
    /// than five seconds, whatever the store does.
    pub async fn give_up(&self) {
        if tokio::time::timeout(FAREWELL, self.release_all())
            .await
            .is_err()
        {
            tracing::warn!(
                "the store takes too long to delete leases; others wait until they go stale"
            );
        }
    }

    async fn release_all(&self) {
        let keepers: Vec<_> = {
            let mut keepers = self.keepers();
            keepers
                .drain(..)
                .filter_map(|keeper| keeper.upgrade())
                .collect()
        };
        let released = keepers.into_iter().map(async |keeper| {
            let (done, released) = oneshot::channel();
            if keeper.send(Order::Release(done)).await.is_ok() {
                // A keeper that is gone has released it.
                let _ = released.await;
            }
        });
        futures::future::join_all(released).await;
        self.settled().await;
    }

    fn keepers(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::WeakSender<Order>>> {
        self.0
            .keepers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The object of a task's lease.
fn key_of(task: &str) -> Key {
    Key::new(LEASES, Digest::of(task.as_bytes()))
}

/// Numbers nobody else draws: splitmix64, whose seed tests choose.
#[derive(Debug)]
struct Dice(AtomicU64);

impl Dice {
    fn draw(&self) -> u64 {
        let golden = 0x9E37_79B9_7F4A_7C15;
        let state = self.0.fetch_add(golden, Ordering::Relaxed);
        let mut z = state.wrapping_add(golden);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 32 hex digits that name one acquisition.
    fn token(&self) -> String {
        format!("{:016x}{:016x}", self.draw(), self.draw())
    }

    /// A number from 0 to 1.
    fn fraction(&self) -> f64 {
        self.draw() as f64 / u64::MAX as f64
    }
}
