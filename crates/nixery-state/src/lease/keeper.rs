//! Holding a lease: a task of its own renews it, and deletes it at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nixery_storage::{Key, PutMode, PutOutcome, StorageError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::Leases;
use super::content::{self, Content};

/// Renewals within one lease time.
const RENEWALS: u32 = 3;

/// A lease that this process holds. Dropping it gives it back, in the background.
#[derive(Debug)]
#[must_use = "a lease that is dropped is given back"]
pub struct Lease(Option<Kept>);

#[derive(Debug)]
struct Kept {
    leases: Leases,
    orders: mpsc::Sender<Order>,
    /// Left with the keeper when the lease is dropped, for it to drop when all is done.
    end: Option<oneshot::Sender<Ending>>,
    lost: Arc<AtomicBool>,
}

/// Counts among what [`Leases::settled`] waits for, while it lives.
#[derive(Debug)]
struct Ending(Leases);

/// What a keeper is told. Without a sender left, it ends as well.
#[derive(Debug)]
pub(super) enum Order {
    Release(oneshot::Sender<()>),
}

impl Lease {
    /// Nobody is kept from doing the same.
    pub const fn unguarded() -> Self {
        Self(None)
    }

    pub(super) fn keep(leases: &Leases, key: Key, content: Content) -> Self {
        let (orders, inbox) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        let lost = Arc::new(AtomicBool::new(false));
        let keeper = Keeper {
            leases: leases.clone(),
            key,
            content,
            lost: Arc::clone(&lost),
        };
        {
            let mut keepers = leases.keepers();
            keepers.retain(|keeper| keeper.strong_count() > 0);
            keepers.push(orders.downgrade());
        }
        tokio::spawn(keeper.run(inbox, ended));
        Self(Some(Kept {
            leases: leases.clone(),
            orders,
            end: Some(end),
            lost,
        }))
    }

    /// Whether somebody else has it by now, as far as this process has noticed.
    pub fn is_lost(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|kept| kept.lost.load(Ordering::SeqCst))
    }

    /// Gives it back, and returns when that is done.
    pub async fn release(self) {
        if let Some(kept) = &self.0 {
            let (done, released) = oneshot::channel();
            if kept.orders.send(Order::Release(done)).await.is_ok() {
                // A keeper that is gone has released it.
                let _ = released.await;
            }
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Before the other sender goes, at which the keeper ends.
        if let Some(end) = self.end.take() {
            // A keeper that is gone has nothing left to do.
            let _ = end.send(Ending::new(&self.leases));
        }
    }
}

impl Ending {
    fn new(leases: &Leases) -> Self {
        leases.0.ending.send_modify(|ending| *ending += 1);
        Self(leases.clone())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.0.ending.send_modify(|ending| *ending -= 1);
    }
}

/// The task behind a lease. It alone writes the object, so that nothing it does overtakes anything else.
struct Keeper {
    leases: Leases,
    key: Key,
    content: Content,
    lost: Arc<AtomicBool>,
}

impl Keeper {
    async fn run(mut self, mut inbox: mpsc::Receiver<Order>, _end: oneshot::Receiver<Ending>) {
        let interval = self.leases.0.ttl / RENEWALS;
        let released = loop {
            let next = sleep(interval);
            let order = tokio::select! {
                order = inbox.recv() => order,
                () = next => {
                    self.renew().await;
                    continue;
                }
            };
            match order {
                None => break None,
                Some(Order::Release(done)) => break Some(done),
            }
        };
        self.release().await;
        if let Some(done) = released {
            // Whoever asked may have gone.
            let _ = done.send(());
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
                let holder = self.content.holder();
                tracing::warn!(key = %self.key, holder, "a lease was taken over while its task ran; the task goes on");
            }
            Err(error) => {
                tracing::warn!(key = %self.key, %error, "cannot renew a lease; the task goes on");
            }
        }
    }

    /// Writes the next state of the lease, if it is still ours or nobody's; `false` if it is not.
    async fn write(&mut self) -> Result<bool, StorageError> {
        let mode = match self.found().await? {
            Found::Ours => PutMode::Replace,
            Found::Nothing => PutMode::CreateNew,
            Found::Other => return Ok(false),
        };
        self.content.renewals += 1;
        let storage = &self.leases.0.storage;
        let stored = storage.put(&self.key, self.content.bytes(), mode).await?;
        Ok(stored == PutOutcome::Stored)
    }

    async fn release(&self) {
        let deleted = async {
            if matches!(self.found().await?, Found::Ours) {
                let _ = self.leases.0.storage.delete(&self.key).await?;
            }
            Ok::<_, StorageError>(())
        };
        if let Err(error) = deleted.await {
            tracing::warn!(key = %self.key, %error, "cannot delete a lease; others wait until it goes stale");
        }
    }

    async fn found(&self) -> Result<Found, StorageError> {
        let bytes = content::read(&*self.leases.0.storage, &self.key).await?;
        Ok(match bytes {
            None => Found::Nothing,
            Some(bytes) => match Content::parse(&bytes) {
                Some(found) if found.token == self.content.token => Found::Ours,
                _ => Found::Other,
            },
        })
    }
}

/// What is under the key of a lease.
enum Found {
    Ours,
    Other,
    Nothing,
}
