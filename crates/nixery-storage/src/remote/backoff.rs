//! How long to wait before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Wait after the first failure.
const FIRST: Duration = Duration::from_millis(200);
/// Longest wait.
pub(super) const LONGEST: Duration = Duration::from_secs(5);

/// The wait after attempt number `attempt` (from 1) failed: doubles each time, give or take a
/// quarter, so that replicas that failed together do not come back together.
pub(super) fn wait(attempt: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    // The standard library's hash keys are random: all that is needed here.
    let random = RandomState::new().hash_one(attempt) % 501;
    doubled.min(LONGEST).mul_f64(0.75 + random as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RemoteLimits;

    #[test]
    fn the_default_attempts_outlast_a_restart() {
        let waits = 1..RemoteLimits::default().attempts;
        let total: Duration = waits.map(wait).sum();
        assert!(total > Duration::from_secs(26), "{total:?}");
        assert!(total < Duration::from_secs(46), "{total:?}");
    }

    #[test]
    fn waits_grow_to_a_limit() {
        assert!(wait(1) <= FIRST.mul_f64(1.25));
        for attempt in [6, 7, 100, u32::MAX] {
            assert!(
                wait(attempt) >= LONGEST.mul_f64(0.74) && wait(attempt) <= LONGEST.mul_f64(1.26)
            );
        }
    }
}
