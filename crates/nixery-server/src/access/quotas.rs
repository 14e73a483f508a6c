//! Bounds how many builds a user may start in an hour, as the policy says.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nixery_builder::ClientId;
use tokio::time::Instant;

/// The time in which builds are counted.
const WINDOW: Duration = Duration::from_secs(60 * 60);

/// When each client started its builds of the last hour, the oldest first. A build takes work of
/// the server, which bounds their number.
#[derive(Debug, Default)]
pub(super) struct BuildQuotas(Mutex<HashMap<ClientId, VecDeque<Instant>>>);

impl BuildQuotas {
    /// Starts or joins a build of a client, and counts it if `start` returns a build that the
    /// client has started. Whether the build runs is asked while other requests wait, so that of
    /// two requests at once only one counts. So neither `runs` nor `start` must take long.
    ///
    /// # Errors
    /// The client has started too many, and this one was not started: the time until it may start
    /// the next one.
    pub(super) fn start<T>(
        &self,
        client: ClientId,
        per_hour: NonZeroU32,
        runs: impl FnOnce() -> bool,
        start: impl FnOnce() -> StartedBuild<T>,
    ) -> Result<T, Duration> {
        let now = Instant::now();
        let mut clients = self.clients();
        let started = clients.entry(client).or_default();
        forget_old(started, now);
        let limit = usize::try_from(per_hour.get()).unwrap_or(usize::MAX);
        let runs = runs();
        if !runs && started.len() >= limit {
            // Another rule may have allowed more than this one.
            let decides = started[started.len() - limit];
            return Err((decides + WINDOW).saturating_duration_since(now));
        }
        match start() {
            StartedBuild::Counts(build) if !runs => {
                started.push_back(now);
                Ok(build)
            }
            StartedBuild::Counts(build) | StartedBuild::Refused(build) => Ok(build),
        }
    }

    /// Forgets clients without recent builds.
    pub(super) fn shrink(&self) {
        let now = Instant::now();
        self.clients().retain(|_, started| forget_old(started, now));
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<ClientId, VecDeque<Instant>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A build that a client asked for.
pub(super) enum StartedBuild<T> {
    /// It was started.
    Counts(T),
    /// The builder refused it, or it has failed before, so that it costs nothing.
    Refused(T),
}

/// Forgets builds that are no longer recent, and returns whether some remain.
fn forget_old(started: &mut VecDeque<Instant>, now: Instant) -> bool {
    while started.front().is_some_and(|at| *at + WINDOW <= now) {
        started.pop_front();
    }
    !started.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(per_hour: u32) -> NonZeroU32 {
        NonZeroU32::new(per_hour).expect("not zero")
    }

    fn start(quotas: &BuildQuotas, user: &str, per_hour: u32) -> Result<(), Duration> {
        let client = ClientId::from_user(user);
        let start = || StartedBuild::Counts(());
        quotas.start(client, limit(per_hour), || false, start)
    }

    #[tokio::test(start_paused = true)]
    async fn no_hour_has_more_builds_than_allowed() {
        let quotas = BuildQuotas::default();
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert_eq!(start(&quotas, "ci", 2), Ok(()));
        tokio::time::advance(minutes(50)).await;
        assert_eq!(start(&quotas, "ci", 2), Ok(()));
        assert_eq!(start(&quotas, "ci", 2), Err(minutes(10)));
        assert_eq!(start(&quotas, "alice", 2), Ok(()));
        tokio::time::advance(minutes(10)).await;
        assert_eq!(start(&quotas, "ci", 2), Ok(()));
        assert_eq!(start(&quotas, "ci", 2), Err(minutes(50)));
        // A rule with a lower limit counts the same builds.
        assert_eq!(start(&quotas, "ci", 1), Err(minutes(60)));
        assert_eq!(start(&quotas, "ci", 3), Ok(()));
        tokio::time::advance(minutes(60)).await;
        quotas.shrink();
        assert!(quotas.clients().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_build_that_is_refused_does_not_count() {
        let (quotas, client) = (BuildQuotas::default(), ClientId::from_user("ci"));
        for _ in 0..10 {
            let refused = quotas.start(client, limit(1), || false, || StartedBuild::Refused(()));
            assert_eq!(refused, Ok(()));
        }
        assert_eq!(start(&quotas, "ci", 1), Ok(()));
        assert!(start(&quotas, "ci", 1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn joining_a_build_that_runs_neither_counts_nor_is_refused() {
        let (quotas, client) = (BuildQuotas::default(), ClientId::from_user("ci"));
        let join = || quotas.start(client, limit(1), || true, || StartedBuild::Counts(()));
        assert_eq!((join(), join()), (Ok(()), Ok(())));
        assert_eq!(start(&quotas, "ci", 1), Ok(()));
        assert!(start(&quotas, "ci", 1).is_err());
        assert_eq!(join(), Ok(()));
    }

    /// The requests of HEAD and GET for one image may come at once.
    #[test]
    fn of_requests_at_once_for_one_build_only_one_counts() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let (quotas, client) = (BuildQuotas::default(), ClientId::from_user("ci"));
        let running = AtomicBool::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let runs = || running.load(Ordering::SeqCst);
                    let start = || {
                        running.store(true, Ordering::SeqCst);
                        StartedBuild::Counts(())
                    };
                    assert_eq!(quotas.start(client, limit(1), runs, start), Ok(()));
                });
            }
        });
        assert_eq!(quotas.clients()[&client].len(), 1);
    }
}
