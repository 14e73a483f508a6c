//! Leases: of several servers on one store, one does a task while the others wait for it.
//!
//! A lease is a small object in the store. The first server that wants to do a task creates it, and
//! deletes it at the end of the task. The holder renews it every third of the lease time. A server
//! that waits observes it by its own clock: a lease that stays unchanged for the lease time belongs
//! to a server that is gone, and is taken over. No two clocks are compared. A lease whose holder is
//! a dead process of this machine is taken over at once, so that a server that restarts after a
//! crash continues without a pause.
//!
//! Leases only save work: everything a task writes may be written twice. After a pause or an outage
//! two servers may hold the same lease, and when the store fails a task continues without one.
//!
//! A lease is taken over by Fischer's algorithm: a server writes its name, waits longer than others
//! need between reading and writing, and holds the lease if its name is still there.

mod contender;
mod content;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nixery_manifest::Digest;
use nixery_storage::{
    Contents, Folder, Key, PutMode, PutOutcome, Storage, StorageError, can_create_exclusively,
};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use contender::Contender;

use content::LeaseContent;

/// Leases, each named by the SHA-256 of its task.
pub const LEASES: Folder = Folder::new("leases", Contents::Json);

/// How long a process that ends waits for its leases to be deleted. The others expire.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// Renewals within one lease time.
const RENEWALS: u32 = 3;

/// The leases of one process on a store. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct Leases(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    storage: Arc<dyn Storage>,
    ttl: Duration,
    exclusive: bool,
    /// For tokens and pauses; tests choose its seed.
    random: Mutex<fastrand::Rng>,
    /// The tasks that renew and delete leases. Closed, so that waiting for it ends.
    keepers: TaskTracker,
    /// Ends all keepers.
    release_all: CancellationToken,
}

impl Leases {
    /// Leases that expire after `ttl`; with a `ttl` of zero, every server gets every lease.
    ///
    /// `exclusive` says whether the store lets exactly one of several servers create an object.
    /// Otherwise each server waits a moment to see whether its lease was replaced.
    pub fn new(storage: Arc<dyn Storage>, ttl: Duration, exclusive: bool) -> Self {
        let seed = RandomState::new().hash_one("lease");
        Self::seeded(storage, ttl, exclusive, seed)
    }

    /// Leases if they work in this store. If not, logs a warning, and every server gets every
    /// lease.
    pub async fn where_exclusive(storage: Arc<dyn Storage>, ttl: Duration) -> Self {
        // A read-only store cannot be tested. Leases assume that they work when it is no longer so.
        if ttl.is_zero() || storage.is_read_only() {
            return Self::new(storage, ttl, true);
        }
        let exclusive = can_create_exclusively(&*storage).await;
        let exclusive = exclusive.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot test whether leases work in this store; assuming that they do");
            true
        });
        let ttl = if exclusive {
            ttl
        } else {
            tracing::warn!(
                storage = storage.backend(),
                "this store does not create objects exclusively, so leases are off: servers that share it may build an image twice, and must not collect garbage at the same time"
            );
            Duration::ZERO
        };
        Self::new(storage, ttl, exclusive)
    }

    fn seeded(storage: Arc<dyn Storage>, ttl: Duration, exclusive: bool, seed: u64) -> Self {
        let keepers = TaskTracker::new();
        keepers.close();
        Self(Arc::new(Shared {
            storage,
            ttl,
            exclusive,
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            keepers,
            release_all: CancellationToken::new(),
        }))
    }

    /// Returns a contender for the lease of a task.
    pub fn contender(&self, task: &str) -> Contender {
        Contender::new(self.clone(), task)
    }

    /// Waits until every lease of this process has been dropped or released, and is deleted.
    pub async fn settled(&self) {
        self.0.keepers.wait().await;
    }

    /// Releases every lease, for a process that ends before its tasks do. Takes at most five
    /// seconds. Leases that are taken later are released at once.
    pub async fn give_up(&self) {
        self.0.release_all.cancel();
        let released = tokio::time::timeout(RELEASE_TIMEOUT, self.settled()).await;
        if released.is_err() {
            tracing::warn!(
                "the store takes too long to delete leases; other servers wait until these expire"
            );
        }
    }

    /// Holds a lease whose object this process has written.
    fn hold(&self, key: Key, content: LeaseContent) -> Lease {
        let released = self.0.release_all.child_token();
        let lost = Arc::new(AtomicBool::new(false));
        let keeper = Keeper {
            leases: self.clone(),
            key,
            content,
            lost: Arc::clone(&lost),
        };
        let keeper = self.0.keepers.spawn(keeper.run(released.clone()));
        Lease(Some(HeldLease {
            keeper,
            released: released.drop_guard(),
            lost,
        }))
    }

    fn random(&self) -> MutexGuard<'_, fastrand::Rng> {
        self.0.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The object of a task's lease.
fn key_of(task: &str) -> Key {
    Key::new(LEASES, Digest::of(task.as_bytes()))
}

/// A lease that this process holds. Dropping it releases it in the background.
#[derive(Debug)]
#[must_use = "a lease that is dropped is released"]
pub struct Lease(Option<HeldLease>);

#[derive(Debug)]
struct HeldLease {
    keeper: JoinHandle<()>,
    /// Ends the keeper when it is dropped.
    released: DropGuard,
    lost: Arc<AtomicBool>,
}

impl Lease {
    /// A lease that does not keep other servers from doing the same task.
    pub const fn unguarded() -> Self {
        Self(None)
    }

    /// Whether another server holds the lease now, as far as this process has noticed.
    pub fn is_lost(&self) -> bool {
        let held = self.0.as_ref();
        held.is_some_and(|held| held.lost.load(Ordering::SeqCst))
    }

    /// Releases the lease, and returns when its object is deleted.
    pub async fn release(self) {
        if let Some(HeldLease {
            keeper, released, ..
        }) = self.0
        {
            drop(released);
            // A keeper that panicked has nothing left to delete.
            let _ = keeper.await;
        }
    }
}

/// The task behind a lease. It alone writes the object, so that its writes keep their order.
struct Keeper {
    leases: Leases,
    key: Key,
    content: LeaseContent,
    lost: Arc<AtomicBool>,
}

impl Keeper {
    async fn run(mut self, released: CancellationToken) {
        let interval = self.leases.0.ttl / RENEWALS;
        while released
            .run_until_cancelled(tokio::time::sleep(interval))
            .await
            .is_some()
        {
            self.renew().await;
        }
        if let Err(error) = self.delete().await {
            tracing::warn!(key = %self.key, %error, "cannot delete a lease; other servers wait until it expires");
        }
    }

    async fn renew(&mut self) {
        if self.lost.load(Ordering::SeqCst) {
            return;
        }
        match self.write().await {
            Ok(true) => {}
            Ok(false) => {
                self.lost.store(true, Ordering::SeqCst);
                let holder = &self.content.holder;
                tracing::warn!(key = %self.key, holder, "another server took over a lease; its task continues here");
            }
            Err(error) => {
                tracing::warn!(key = %self.key, %error, "cannot renew a lease; its task continues");
            }
        }
    }

    /// Writes the next state of the lease; `false` if another server holds it.
    async fn write(&mut self) -> Result<bool, StorageError> {
        let storage = &self.leases.0.storage;
        let mode = match content::read(&**storage, &self.key).await? {
            None => PutMode::CreateNew,
            Some(bytes) if self.content.has_token_of(&bytes) => PutMode::Replace,
            Some(_) => return Ok(false),
        };
        self.content.renewals += 1;
        let stored = storage.put(&self.key, self.content.bytes(), mode).await?;
        Ok(stored == PutOutcome::Stored)
    }

    /// Deletes the lease, unless another server holds it.
    async fn delete(&self) -> Result<(), StorageError> {
        let storage = &self.leases.0.storage;
        let bytes = content::read(&**storage, &self.key).await?;
        if bytes.is_some_and(|bytes| self.content.has_token_of(&bytes)) {
            storage.delete(&self.key).await?;
        }
        Ok(())
    }
}
