//! Acquiring a lease: creating it, or taking over the lease of a server that is gone.

use std::time::Duration;

use nixery_storage::{Backoff, Key, PutMode, PutOutcome, StorageError};
use tokio::time::{Instant, sleep};

use super::content::{self, LeaseContent};
use super::{Lease, Leases, key_of};
use crate::unchanged::Unchanged;

/// Pause after the first look at a lease that another server holds.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a name must stay unchanged before it counts: longer than others need between reading
/// and writing. In a slow store, [`SETTLE_TIMES`] the time that the write took.
const SETTLE: Duration = Duration::from_millis(200);
const SETTLE_TIMES: u32 = 4;
/// Attempts to create a lease that comes and goes, before another server counts as its holder.
const TRIES: usize = 3;
/// Looks that are at most this far apart observe a lease without a gap, however short its lease
/// time is: well above the pauses between two looks.
const LONGEST_GAP: Duration = Duration::from_secs(2);

/// Acquires the lease of one task, as soon as no other server holds it.
#[derive(Debug)]
pub struct Contender {
    leases: Leases,
    task: String,
    key: Key,
    unchanged: Unchanged,
    pauses: u32,
    /// Since when the store has been failing.
    failing_since: Option<Instant>,
}

/// The state of a lease.
#[derive(Debug, PartialEq)]
enum LeaseState {
    Free,
    /// Another server holds it.
    Held,
    /// This is the lease that the caller tried to create.
    Ours,
    /// The server that held it is gone.
    Abandoned,
}

impl Contender {
    pub(super) fn new(leases: Leases, task: &str) -> Self {
        Self {
            leases,
            task: task.to_owned(),
            key: key_of(task),
            unchanged: Unchanged::default(),
            pauses: 0,
            failing_since: None,
        }
    }

    /// Returns the lease as soon as no live server holds it; `None` when another server holds it
    /// for longer than `patience`, or when `stop` is ready. Never stops within a call to the store,
    /// which could leave an object there that nobody deletes.
    ///
    /// # Errors
    /// The store failed.
    pub async fn take_within(
        &mut self,
        patience: Duration,
        mut stop: impl Future<Output = ()> + Unpin,
    ) -> Result<Option<Lease>, StorageError> {
        let begun = Instant::now();
        let mut may_try = true;
        loop {
            if may_try && let Some(lease) = self.try_take().await? {
                return Ok(Some(lease));
            }
            if begun.elapsed() > patience {
                return Ok(None);
            }
            tokio::select! {
                () = self.pause() => {}
                () = &mut stop => return Ok(None),
            }
            may_try = self.may_try().await;
        }
    }

    /// Returns the lease if no live server holds it; `None` while another server does.
    ///
    /// # Errors
    /// The store failed.
    pub async fn try_take(&mut self) -> Result<Option<Lease>, StorageError> {
        let shared = &self.leases.0;
        if shared.ttl.is_zero() {
            return Ok(Some(Lease::unguarded()));
        }
        let exclusive = shared.exclusive;
        let token = format!("{:032x}", self.leases.random().u128(..));
        let content = LeaseContent::new(&self.task, shared.ttl, token);
        if !exclusive {
            return self.replace(content).await;
        }
        for _ in 0..TRIES {
            let created = self.put(&content, PutMode::CreateNew).await?;
            if created == PutOutcome::Stored {
                return Ok(Some(self.hold(content)));
            }
            match self.look(Some(&content.token)).await? {
                // It was released between the two calls.
                LeaseState::Free => {}
                // The store created it but reported otherwise, as after a lost answer.
                LeaseState::Ours => return Ok(Some(self.hold(content))),
                LeaseState::Held => return Ok(None),
                LeaseState::Abandoned => return self.replace(content).await,
            }
        }
        Ok(None)
    }

    /// Waits between two looks: a little longer each time.
    pub async fn pause(&mut self) {
        let longest = LONGEST_PAUSE.min(self.leases.0.ttl / 5);
        self.pauses += 1;
        let random = self.leases.random().f64();
        sleep(Backoff::new(FIRST_PAUSE, longest).wait_with(self.pauses, random)).await;
    }

    /// Whether [`Contender::try_take`] may succeed now. Also `true` when the store has been failing
    /// for the lease time: the task must then be tried without a lease.
    pub async fn may_try(&mut self) -> bool {
        match self.look(None).await {
            Ok(state) => {
                self.failing_since = None;
                state != LeaseState::Held
            }
            Err(error) => {
                tracing::warn!(task = self.task, %error, "cannot read a lease");
                let since = *self.failing_since.get_or_insert_with(Instant::now);
                since.elapsed() >= self.leases.0.ttl
            }
        }
    }

    /// Reads the state of the lease. `token` names the lease that the caller tried to create.
    async fn look(&mut self, token: Option<&str>) -> Result<LeaseState, StorageError> {
        let shared = &self.leases.0;
        let Some(bytes) = content::read(&*shared.storage, &self.key).await? else {
            self.unchanged = Unchanged::default();
            return Ok(LeaseState::Free);
        };
        // A lease of another version is only observed for changes.
        let content = LeaseContent::parse(&bytes);
        let lease_time = content
            .as_ref()
            .map_or(shared.ttl, LeaseContent::lease_time);
        let longest_gap = LONGEST_GAP.max(lease_time / 2);
        let now = Instant::now();
        if self.unchanged.is_stale(bytes, now, lease_time, longest_gap)
            || content.as_ref().is_some_and(LeaseContent::holder_is_dead)
        {
            self.unchanged.mark_stale();
            return Ok(LeaseState::Abandoned);
        }
        Ok(match content {
            Some(content) if token == Some(&content.token) => LeaseState::Ours,
            _ => LeaseState::Held,
        })
    }

    /// Replaces the lease of a server that is gone, unless another server is faster.
    async fn replace(&mut self, content: LeaseContent) -> Result<Option<Lease>, StorageError> {
        let begun = Instant::now();
        let state = self.look(None).await?;
        if state == LeaseState::Held {
            return Ok(None);
        }
        let _ = self.put(&content, PutMode::Replace).await?;
        // Until every server that looked at the same time has written.
        sleep(SETTLE.max(begun.elapsed() * SETTLE_TIMES)).await;
        let ours = match content::read(&*self.leases.0.storage, &self.key).await {
            Ok(bytes) => bytes.is_some_and(|bytes| content.has_token_of(&bytes)),
            Err(error) => {
                tracing::warn!(task = self.task, %error, "cannot read who holds a lease; assuming that this server does");
                true
            }
        };
        if ours && state == LeaseState::Abandoned {
            tracing::info!(
                task = self.task,
                "took over the lease of a server that is gone"
            );
        }
        Ok(ours.then(|| self.hold(content)))
    }

    async fn put(&self, content: &LeaseContent, mode: PutMode) -> Result<PutOutcome, StorageError> {
        let storage = &self.leases.0.storage;
        let stored = storage.put(&self.key, content.bytes(), mode).await;
        if stored.is_err() {
            // The object may be there nevertheless: delete it, so that nobody waits for it.
            drop(self.hold(content.clone()));
        }
        stored
    }

    fn hold(&self, content: LeaseContent) -> Lease {
        self.leases.hold(self.key, content)
    }
}
