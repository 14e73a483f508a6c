//! A limit of builds that do something at once, for which clients queue in rotation.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::BuildError;
use crate::fair_queue::{FairQueue, Party, Pool, Ticket};
use crate::handle::BuildHandle;
use crate::progress::BuildId;

/// A semaphore that serves the parties on whose behalf builds wait in rotation. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct FairLimit(Arc<Mutex<LimitState>>);

#[derive(Debug)]
struct LimitState {
    queue: FairQueue,
    waiting: HashMap<Ticket, oneshot::Sender<FairPermit>>,
}

/// The right to do what the limit is about. Dropping it passes it on.
#[derive(Debug)]
#[must_use = "the permit is passed on when it is dropped"]
pub(crate) struct FairPermit {
    limit: FairLimit,
    party: Party,
    pool: Pool,
}

impl FairLimit {
    /// Returns a limit of `shared` permits, and `background` further ones for builds that nobody
    /// requested.
    pub(crate) fn new(shared: usize, background: usize) -> Self {
        Self(Arc::new(Mutex::new(LimitState {
            queue: FairQueue::new(shared, background),
            waiting: HashMap::new(),
        })))
    }

    /// Waits for a permit, on behalf of those who wait for the build.
    pub(crate) async fn acquire(&self, build: &BuildHandle) -> Result<FairPermit, BuildError> {
        let (ticket, permit) = self.enqueue(build);
        let _waits = CancelOnDrop {
            limit: self,
            ticket,
        };
        // The sender is dropped with the limit only.
        permit.await.map_err(BuildError::internal)
    }

    fn enqueue(&self, build: &BuildHandle) -> (Ticket, oneshot::Receiver<FairPermit>) {
        let (sender, permit) = oneshot::channel();
        let mut state = self.state();
        // Read under the lock: whoever joins the build afterwards finds the ticket.
        let ticket = state.queue.enqueue(build.id(), &build.parties());
        state.waiting.insert(ticket, sender);
        self.grant(state);
        (ticket, permit)
    }

    /// Lets a build, if it waits here, wait on behalf of a further party as well.
    pub(crate) fn lend(&self, build: BuildId, party: Party) {
        let mut state = self.state();
        state.queue.lend(build, party);
        self.grant(state);
    }

    /// Hands out the permits that are free.
    fn grant(&self, mut state: MutexGuard<'_, LimitState>) {
        let mut granted = Vec::new();
        while let Some(grant) = state.queue.next_grant() {
            let permit = FairPermit {
                limit: self.clone(),
                party: grant.party,
                pool: grant.pool,
            };
            granted.push((state.waiting.remove(&grant.ticket), permit));
        }
        // Without the lock: a permit that nobody receives any more is passed on here.
        drop(state);
        for (sender, permit) in granted {
            if let Some(sender) = sender {
                let _ = sender.send(permit);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, LimitState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        let mut state = self.limit.state();
        state.queue.release(self.party, self.pool);
        self.limit.grant(state);
    }
}

/// Leaves the queue when the wait ends, however it ends.
struct CancelOnDrop<'a> {
    limit: &'a FairLimit,
    ticket: Ticket,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        let mut state = self.limit.state();
        state.queue.cancel(self.ticket);
        state.waiting.remove(&self.ticket);
    }
}
