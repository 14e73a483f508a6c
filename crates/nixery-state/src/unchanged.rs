//! Finding out by the clock of this process that whoever writes an object is gone: the object stays
//! unchanged for too long. No two clocks are compared.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// What was seen of an object.
#[derive(Debug, Default)]
pub(crate) struct Unchanged(Option<Seen>);

/// The same bytes, time after time.
#[derive(Debug)]
struct Seen {
    bytes: Bytes,
    since: Instant,
    last: Instant,
    stale: bool,
}

impl Unchanged {
    /// Whether the object, which has these bytes now, was seen unchanged for `patience`. Once found
    /// stale it stays so until it changes.
    ///
    /// Where nobody has looked for longer than `attentive`, because the store failed or the machine
    /// slept, the time counts from now: the writer may not have been able to write either.
    pub(crate) fn is_stale(
        &mut self,
        bytes: Bytes,
        now: Instant,
        patience: Duration,
        attentive: Duration,
    ) -> bool {
        match &mut self.0 {
            Some(seen) if seen.bytes == bytes => {
                if !seen.stale && now.saturating_duration_since(seen.last) > attentive {
                    seen.since = now;
                }
                seen.last = now;
                seen.stale |= now.saturating_duration_since(seen.since) >= patience;
                seen.stale
            }
            seen => {
                *seen = Some(Seen {
                    bytes,
                    since: now,
                    last: now,
                    stale: false,
                });
                false
            }
        }
    }

    /// Notes that the writer is known to be gone.
    pub(crate) fn mark_stale(&mut self) {
        if let Some(seen) = &mut self.0 {
            seen.stale = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Looks at these milliseconds, at content named by a letter, with a lease time of a second.
    #[rstest]
    #[case::unchanged(&[(0, "a"), (300, "a"), (600, "a"), (999, "a"), (1000, "a")], true)]
    #[case::not_yet(&[(0, "a"), (300, "a"), (600, "a"), (999, "a")], false)]
    #[case::renewed(&[(0, "a"), (400, "a"), (800, "b"), (1200, "b"), (1600, "b")], false)]
    #[case::slower_than_half_the_lease_time(&[(0, "a"), (900, "a"), (1800, "a")], true)]
    #[case::two_looks_far_apart(&[(0, "a"), (5000, "a")], false)]
    #[case::blind_for_a_while(&[(0, "a"), (400, "a"), (3000, "a"), (3400, "a"), (3900, "a")], false)]
    #[case::blind_and_then_long_enough(&[(0, "a"), (3000, "a"), (3400, "a"), (3800, "a"), (4000, "a")], true)]
    #[case::stale_stays_stale(&[(0, "a"), (500, "a"), (1000, "a"), (60_000, "a")], true)]
    #[case::stale_then_alive(&[(0, "a"), (500, "a"), (1000, "a"), (60_000, "b")], false)]
    fn staleness_is_time_without_change(
        #[case] looks: &[(u64, &'static str)],
        #[case] stale: bool,
    ) {
        let start = Instant::now();
        let mut seen = Unchanged::default();
        let (lease_time, attentive) = (Duration::from_secs(1), Duration::from_secs(2));
        let mut last = false;
        for (at, content) in looks {
            let now = start + Duration::from_millis(*at);
            last = seen.is_stale((*content).into(), now, lease_time, attentive);
        }
        assert_eq!(last, stale);
    }
}
