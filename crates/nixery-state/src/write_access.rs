//! Whether a store refuses to be written to, as far as it was checked recently.

use std::sync::Arc;
use std::time::Duration;

use nixery_storage::{Storage, error_chain};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};

/// How long the result of a check of a read-only store is used.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Time limit of a check, so that a request that waits for it does not wait for long.
const CHECK_TIMEOUT: Duration = Duration::from_secs(8);

/// Checks a store that was read-only again, as long as somebody wants to write to it. Clones share
/// the checks.
#[derive(Debug, Clone)]
pub struct WriteAccess {
    storage: Arc<dyn Storage>,
    /// When the store was last checked. Locked during a check.
    checked: Arc<Mutex<Option<Instant>>>,
}

impl WriteAccess {
    /// Returns the access to a store.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            checked: Arc::default(),
        }
    }

    /// Returns whether the store is read-only. If it was read-only before, checks it again, at most
    /// every ten seconds.
    pub async fn is_read_only(&self) -> bool {
        if self.storage.is_read_only() {
            let checked = Arc::clone(&self.checked).lock_owned().await;
            self.check_if_due(checked).await;
        }
        self.storage.is_read_only()
    }

    /// Returns whether the store was read-only when it was last checked. If so, checks it again in
    /// the background, at most every ten seconds.
    pub fn was_read_only(&self, runtime: &Handle) -> bool {
        if !self.storage.is_read_only() {
            return false;
        }
        // A check that is running holds the lock.
        if let Ok(checked) = Arc::clone(&self.checked).try_lock_owned()
            && is_due(&checked)
        {
            let access = self.clone();
            runtime.spawn(async move { access.check_if_due(checked).await });
        }
        true
    }

    async fn check_if_due(&self, mut checked: OwnedMutexGuard<Option<Instant>>) {
        // Another caller may have checked the store meanwhile.
        if !self.storage.is_read_only() || !is_due(&checked) {
            return;
        }
        match timeout(CHECK_TIMEOUT, self.storage.check()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %error_chain(&error), "cannot check whether the store is still read-only");
            }
            Err(_) => {
                tracing::warn!(after = ?CHECK_TIMEOUT, "cannot check whether the store is still read-only: it does not answer");
            }
        }
        *checked = Some(Instant::now());
    }
}

fn is_due(checked: &Option<Instant>) -> bool {
    checked.is_none_or(|at| at.elapsed() >= LOOK_AGAIN)
}
