//! One collector at a time: two do no harm, but twice the work.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use nixery_storage::Storage;
use tokio::time::Instant;

use super::{GcError, doing};
use crate::lease::{Lease, Leases};

/// The name of the task.
const TASK: &str = "gc";
/// After so long without a sign of life a collector counts as dead.
const LEASE_TIME: Duration = Duration::from_secs(15);
/// How long to watch whoever has the lease: whoever is dead is found out by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// The right to collect.
#[derive(Debug)]
pub(super) struct Turn {
    lease: Lease,
    holder: String,
}

impl Turn {
    /// Takes it, if nobody has it who lives. Not stopped within a call to the store, which would
    /// leave an object there that nobody deletes.
    pub(super) async fn take(
        storage: &Arc<dyn Storage>,
        mut stop: impl Future<Output = ()> + Unpin,
    ) -> Result<Self, GcError> {
        // Not every store lets exactly one create an object. A pause of a moment costs nothing here.
        let exclusive = false;
        let leases = Leases::new(Arc::clone(storage), LEASE_TIME, exclusive);
        let mut contender = leases.contender(TASK);
        let begun = Instant::now();
        let taken = contender.take_within(PATIENCE, &mut stop).await;
        match taken.map_err(doing("leased"))? {
            Some(lease) => {
                let number = RandomState::new().hash_one(begun);
                let holder = format!("process {}, {number:016x}", std::process::id());
                Ok(Self { lease, holder })
            }
            None if begun.elapsed() > PATIENCE => Err(GcError::Busy),
            None => Err(GcError::Stopped),
        }
    }

    /// A name no other collector has.
    pub(super) fn holder(&self) -> &str {
        &self.holder
    }

    /// Whether it is still ours: asked before each step.
    pub(super) fn check(&self) -> Result<(), GcError> {
        if self.lease.is_lost() {
            return Err(GcError::Superseded);
        }
        Ok(())
    }

    /// Gives it back.
    pub(super) async fn end(self) {
        self.lease.release().await;
    }
}
