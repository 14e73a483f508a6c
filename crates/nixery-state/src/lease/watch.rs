//! Watching a lease that somebody else has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nixery_storage::{Key, Storage, StorageError};
use tokio::time::Instant;

use super::content::{self, Content};

/// Whoever looks at least so often never counts as blind, however short the holder's lease time is:
/// well above the pauses between two looks.
const ATTENTIVE: Duration = Duration::from_secs(2);

/// Looks at a lease again and again, and tells by its own clock when it was left behind.
#[derive(Debug)]
pub struct Watch {
    storage: Arc<dyn Storage>,
    key: Key,
    ttl: Duration,
    seen: Option<Seen>,
}

/// How a lease stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Sight {
    /// Nobody has it.
    Free,
    /// Somebody has it.
    Held {
        /// For logs: the holder's host and process.
        holder: String,
        /// Which acquisition it is; empty where the format is unknown.
        token: String,
    },
    /// Somebody had it and is gone.
    Abandoned,
}

/// The same bytes, time after time.
#[derive(Debug)]
struct Seen {
    bytes: Bytes,
    since: Instant,
    last: Instant,
    stale: bool,
}

impl Watch {
    pub(super) fn new(storage: Arc<dyn Storage>, key: Key, ttl: Duration) -> Self {
        Self {
            storage,
            key,
            ttl,
            seen: None,
        }
    }

    /// How the lease stands now.
    ///
    /// # Errors
    /// The store failed.
    pub async fn look(&mut self) -> Result<Sight, StorageError> {
        let Some(bytes) = content::read(&*self.storage, &self.key).await? else {
            self.seen = None;
            return Ok(Sight::Free);
        };
        let content = Content::parse(&bytes);
        let lease_time = content.as_ref().map_or(self.ttl, Content::lease_time);
        let stale = judge(&mut self.seen, bytes, Instant::now(), lease_time);
        Ok(match content {
            Some(content) if stale || content.holder_is_dead() => {
                if let Some(seen) = &mut self.seen {
                    seen.stale = true;
                }
                Sight::Abandoned
            }
            None if stale => Sight::Abandoned,
            Some(content) => Sight::Held {
                holder: content.holder().to_owned(),
                token: content.token,
            },
            None => Sight::Held {
                holder: "a server of another version".to_owned(),
                token: String::new(),
            },
        })
    }
}

/// Whether the bytes were seen unchanged for the lease time. Once found stale they stay so.
///
/// Whoever has not looked for half of the lease time, and for two seconds at least, because the store
/// failed or the machine slept, counts from now: the holder may not have been able to renew either.
fn judge(seen: &mut Option<Seen>, bytes: Bytes, now: Instant, lease_time: Duration) -> bool {
    match seen {
        Some(seen) if seen.bytes == bytes => {
            let blind = ATTENTIVE.max(lease_time / 2);
            if !seen.stale && now.saturating_duration_since(seen.last) > blind {
                seen.since = now;
            }
            seen.last = now;
            seen.stale |= now.saturating_duration_since(seen.since) >= lease_time;
            seen.stale
        }
        _ => {
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
        let mut seen = None;
        let mut last = false;
        for (at, content) in looks {
            let now = start + Duration::from_millis(*at);
            last = judge(&mut seen, (*content).into(), now, Duration::from_secs(1));
        }
        assert_eq!(last, stale);
    }
}
