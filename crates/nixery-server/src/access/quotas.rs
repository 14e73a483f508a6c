//! Bounds how many builds a user may start in an hour, as the policy says.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::Clock;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use nixery_builder::ClientId;

type Limiter = DefaultKeyedRateLimiter<ClientId>;

/// The builds of the last hour, for each number of builds that the policy allows.
#[derive(Default)]
pub(super) struct BuildQuotas(Mutex<HashMap<NonZeroU32, Arc<Limiter>>>);

impl fmt::Debug for BuildQuotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.limiters().keys()).finish()
    }
}

impl BuildQuotas {
    /// Counts a build that a client starts.
    ///
    /// # Errors
    /// It has started too many: the time until it may start the next one.
    pub(super) fn count(&self, client: ClientId, per_hour: NonZeroU32) -> Result<(), Duration> {
        let limiter = {
            let mut limiters = self.limiters();
            let limiter = limiters
                .entry(per_hour)
                .or_insert_with(|| Arc::new(RateLimiter::keyed(Quota::per_hour(per_hour))));
            Arc::clone(limiter)
        };
        let counted = limiter.check_key(&client);
        counted.map_err(|not_until| not_until.wait_time_from(limiter.clock().now()))
    }

    /// Forgets clients without recent builds.
    pub(super) fn shrink(&self) {
        for limiter in self.limiters().values() {
            limiter.retain_recent();
        }
    }

    fn limiters(&self) -> MutexGuard<'_, HashMap<NonZeroU32, Arc<Limiter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
