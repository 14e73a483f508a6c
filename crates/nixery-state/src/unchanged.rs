//! Detects by the clock of this process that the writer of an object is gone: the object stays
//! unchanged for too long. No two clocks are compared.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// What was observed of an object.
#[derive(Debug, Default)]
pub(crate) struct Unchanged(Option<Observed>);

/// Bytes that were the same at each look.
#[derive(Debug)]
struct Observed {
    bytes: Bytes,
    since: Instant,
    last: Instant,
    stale: bool,
}

impl Unchanged {
    /// Whether the object, which has these bytes now, has been unchanged for `patience`.
    ///
    /// After a gap of more than `longest_gap` between two looks, because the store failed or the
    /// machine slept, the time counts from now: the writer may not have been able to write either.
    pub(crate) fn is_stale(
        &mut self,
        bytes: Bytes,
        now: Instant,
        patience: Duration,
        longest_gap: Duration,
    ) -> bool {
        match &mut self.0 {
            Some(observed) if observed.bytes == bytes => {
                if now.saturating_duration_since(observed.last) > longest_gap {
                    observed.since = now;
                }
                observed.last = now;
                observed.stale || now.saturating_duration_since(observed.since) >= patience
            }
            observed => {
                let (since, last, stale) = (now, now, false);
                *observed = Some(Observed {
                    bytes,
                    since,
                    last,
                    stale,
                });
                false
            }
        }
    }

    /// Records that the writer is gone: the object is stale until it changes.
    pub(crate) fn mark_stale(&mut self) {
        if let Some(observed) = &mut self.0 {
            observed.stale = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Looks at these milliseconds, with content named by a letter and a lease time of a second.
    #[rstest]
    #[case::unchanged(&[(0, "a"), (300, "a"), (600, "a"), (999, "a"), (1000, "a")], true)]
    #[case::not_yet(&[(0, "a"), (300, "a"), (600, "a"), (999, "a")], false)]
    #[case::renewed(&[(0, "a"), (400, "a"), (800, "b"), (1200, "b"), (1600, "b")], false)]
    #[case::slower_than_half_the_lease_time(&[(0, "a"), (900, "a"), (1800, "a")], true)]
    #[case::two_looks_far_apart(&[(0, "a"), (5000, "a")], false)]
    #[case::a_gap(&[(0, "a"), (400, "a"), (3000, "a"), (3400, "a"), (3900, "a")], false)]
    #[case::a_gap_and_then_long_enough(&[(0, "a"), (3000, "a"), (3400, "a"), (3800, "a"), (4000, "a")], true)]
    #[case::stale_stays_stale(&[(0, "a"), (500, "a"), (1000, "a"), (60_000, "a")], true)]
    #[case::stale_then_alive(&[(0, "a"), (500, "a"), (1000, "a"), (60_000, "b")], false)]
    fn staleness_is_time_without_change(
        #[case] looks: &[(u64, &'static str)],
        #[case] stale: bool,
    ) {
        let start = Instant::now();
        let mut unchanged = Unchanged::default();
        let (lease_time, longest_gap) = (Duration::from_secs(1), Duration::from_secs(2));
        let mut last = false;
        for (at, content) in looks {
            let now = start + Duration::from_millis(*at);
            last = unchanged.is_stale((*content).into(), now, lease_time, longest_gap);
            if last {
                unchanged.mark_stale();
            }
        }
        assert_eq!(last, stale);
    }

    /// As the collector's note is observed: an object that is not marked stale is stale no more
    /// after a gap.
    #[test]
    fn a_gap_begins_the_observation_again() {
        let start = Instant::now();
        let mut unchanged = Unchanged::default();
        let mut look = |at| {
            let now = start + Duration::from_secs(at);
            unchanged.is_stale(
                "a".into(),
                now,
                Duration::from_secs(3),
                Duration::from_secs(2),
            )
        };
        assert_eq!(
            [0, 2, 4, 7, 9].map(&mut look),
            [false, false, true, false, false]
        );
    }
}
