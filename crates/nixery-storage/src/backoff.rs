//! [`Backoff`]: how long to wait before the next attempt.

use std::time::Duration;

/// Waits that double from a first to a longest one.
///
/// Each wait is up to a quarter shorter or longer at random, so that clients that failed together
/// do not retry together.
///
/// ```
/// use std::time::Duration;
/// use nixery_storage::Backoff;
///
/// let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// let wait = backoff.wait(2);
/// assert!(wait >= Duration::from_millis(300) && wait <= Duration::from_millis(500));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits of `first`, twice `first` and so on up to `longest`, each before its random part.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The wait after attempt number `attempt` (from 1) failed.
    #[must_use]
    pub fn wait(&self, attempt: u32) -> Duration {
        self.wait_with(attempt, fastrand::f64())
    }

    /// The wait after attempt number `attempt` (from 1) failed, with the caller's random number
    /// from 0 to 1: for simulations that must be repeatable.
    #[must_use]
    pub fn wait_with(&self, attempt: u32, random: f64) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1 << attempt.saturating_sub(1).min(16));
        doubled.min(self.longest).mul_f64(0.75 + 0.5 * random)
    }

    /// The longest wait.
    #[must_use]
    pub const fn longest(&self) -> Duration {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit() {
        let (first, longest) = (Duration::from_millis(200), Duration::from_secs(5));
        let backoff = Backoff::new(first, longest);
        for attempt in 0..3 {
            let full = first * (1 << attempt);
            let wait = backoff.wait(attempt + 1);
            assert!(
                wait >= full.mul_f64(0.75) && wait <= full.mul_f64(1.25),
                "{wait:?}"
            );
        }
        for attempt in [6, 7, 100, u32::MAX] {
            let wait = backoff.wait(attempt);
            assert!(
                wait >= longest.mul_f64(0.75) && wait <= longest.mul_f64(1.25),
                "{wait:?}"
            );
        }
    }
}
