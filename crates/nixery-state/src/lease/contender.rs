//! Getting a lease: creating it, or taking over what a dead server left.

use std::sync::Arc;
use std::time::Duration;

use nixery_storage::{Backoff, Key, PutMode, PutOutcome, StorageError};
use tokio::time::{Instant, sleep};

use super::content::{self, Content};
use super::keeper::Lease;
use super::watch::{Sight, Watch};
use super::{Leases, key_of};

/// Pause after the first look at a lease that somebody has.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a name must stand unchanged before it counts: longer than others need between reading
/// and writing. Stores that take longer are given as many times what they took.
const SETTLE: Duration = Duration::from_millis(200);
const SETTLE_TIMES: u32 = 4;
/// Looks at a lease that comes and goes, before somebody else counts as having it.
const TRIES: usize = 3;

/// One who wants the lease of a task.
#[derive(Debug)]
pub struct Contender {
    leases: Leases,
    task: String,
    key: Key,
    watch: Watch,
    pauses: u32,
    /// Since when the store has been failing.
    blind: Option<Instant>,
}

impl Contender {
    pub(super) fn new(leases: Leases, task: &str) -> Self {
        Self {
            watch: leases.watch(task),
            leases,
            task: task.to_owned(),
            key: key_of(task),
            pauses: 0,
            blind: None,
        }
    }

    /// The lease as soon as nobody has it who lives; `None` when somebody had it for longer than `patience`, or
    /// when `stop` ends. Not stopped within a call to the store, which would leave an object there that nobody
    /// deletes.
    ///
    /// # Errors
    /// The store failed.
    pub async fn take_within(
        &mut self,
        patience: Duration,
        mut stop: impl Future<Output = ()> + Unpin,
    ) -> Result<Option<Lease>, StorageError> {
        let begun = Instant::now();
        loop {
            if let Some(lease) = self.try_take().await? {
                return Ok(Some(lease));
            }
            loop {
                if begun.elapsed() > patience {
                    return Ok(None);
                }
                tokio::select! {
                    () = self.pause() => {}
                    () = &mut stop => return Ok(None),
                }
                if self.may_try().await {
                    break;
                }
            }
        }
    }

    /// The lease if nobody has it, or whoever had it is gone; `None` while somebody has it.
    ///
    /// # Errors
    /// The store failed.
    pub async fn try_take(&mut self) -> Result<Option<Lease>, StorageError> {
        let shared = Arc::clone(&self.leases.0);
        if shared.ttl.is_zero() {
            return Ok(Some(Lease::unguarded()));
        }
        let content = Content::new(&self.task, shared.ttl, shared.dice.token());
        if !shared.exclusive {
            return self.replace(content).await;
        }
        for _ in 0..TRIES {
            let created = self.put(&content, PutMode::CreateNew).await?;
            if created == PutOutcome::Stored {
                return Ok(Some(self.hold(content)));
            }
            match self.watch.look().await? {
                // It was given back between the two calls.
                Sight::Free => {}
                // The store created it and said otherwise, as after an answer that was lost.
                Sight::Held { token, .. } if token == content.token => {
                    return Ok(Some(self.hold(content)));
                }
                Sight::Held { .. } => return Ok(None),
                Sight::Abandoned => return self.replace(content).await,
            }
        }
        Ok(None)
    }

    /// Waits between two looks: a little longer each time.
    pub async fn pause(&mut self) {
        let longest = LONGEST_PAUSE.min(self.leases.0.ttl / 5);
        self.pauses += 1;
        let backoff = Backoff::new(FIRST_PAUSE, longest);
        sleep(backoff.wait_with(self.pauses, self.leases.0.dice.fraction())).await;
    }

    /// Whether [`Contender::try_take`] may succeed now. So it may in a store that has failed for
    /// the lease time: then whatever is to be done must be tried without a lease.
    pub async fn may_try(&mut self) -> bool {
        match self.watch.look().await {
            Ok(sight) => {
                self.blind = None;
                !matches!(sight, Sight::Held { .. })
            }
            Err(error) => {
                tracing::warn!(task = self.task, %error, "cannot look at a lease");
                let since = *self.blind.get_or_insert_with(Instant::now);
                since.elapsed() >= self.leases.0.ttl
            }
        }
    }

    /// Replaces what a dead holder left, unless somebody else is faster.
    async fn replace(&mut self, content: Content) -> Result<Option<Lease>, StorageError> {
        let begun = Instant::now();
        let sight = self.watch.look().await?;
        if matches!(sight, Sight::Held { .. }) {
            return Ok(None);
        }
        let _ = self.put(&content, PutMode::Replace).await?;
        // Until all who looked at the same time have written.
        sleep(SETTLE.max(begun.elapsed() * SETTLE_TIMES)).await;
        let ours = match content::read(&*self.leases.0.storage, &self.key).await {
            Ok(Some(bytes)) => {
                Content::parse(&bytes).is_some_and(|found| found.token == content.token)
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(task = self.task, %error, "cannot tell who has a lease: taken as ours");
                true
            }
        };
        if ours && sight == Sight::Abandoned {
            tracing::info!(
                task = self.task,
                "took over the lease of a server that is gone"
            );
        }
        Ok(ours.then(|| self.hold(content)))
    }

    async fn put(&self, content: &Content, mode: PutMode) -> Result<PutOutcome, StorageError> {
        let storage = &self.leases.0.storage;
        let stored = storage.put(&self.key, content.bytes(), mode).await;
        if stored.is_err() {
            // It may be there all the same: nobody shall wait for it.
            drop(self.hold(content.clone()));
        }
        stored
    }

    fn hold(&self, content: Content) -> Lease {
        Lease::keep(&self.leases, self.key, content)
    }
}
