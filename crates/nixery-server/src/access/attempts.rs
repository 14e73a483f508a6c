//! Bounds how often somebody may try to log in.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nixery_builder::ClientId;
use tokio::time::Instant;

use super::LoginError;

/// The time in which attempts are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Clients with recent attempts. Each has from 100 bytes to some kilobytes of memory.
const MAX_CLIENTS: usize = 20_000;
/// Time between two searches of a full table for clients without recent attempts.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);

/// How many attempts are allowed in a minute.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttemptLimits {
    /// For one user from one client.
    pub(super) per_user: usize,
    /// From one client for all users.
    pub(super) per_client: usize,
}

/// The recent attempts of all clients.
#[derive(Debug)]
pub(super) struct Attempts {
    limits: AttemptLimits,
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    attempts: HashMap<ClientId, ClientAttempts>,
    /// When the full table was last searched for clients without recent attempts.
    searched: Option<Instant>,
}

/// The recent attempts of one client with their users, the oldest first.
#[derive(Debug, Default)]
struct ClientAttempts(VecDeque<(Instant, ClientId)>);

impl ClientAttempts {
    /// Forgets attempts that are no longer recent, and returns whether some remain.
    fn forget_old(&mut self, now: Instant) -> bool {
        while self.0.front().is_some_and(|(at, _)| *at + WINDOW <= now) {
            self.0.pop_front();
        }
        !self.0.is_empty()
    }

    /// Looks whether an attempt is allowed.
    ///
    /// # Errors
    /// There were too many: the time until the next one is allowed.
    fn check(
        &mut self,
        limits: AttemptLimits,
        user: ClientId,
        now: Instant,
    ) -> Result<(), Duration> {
        self.forget_old(now);
        let of_user = self.0.iter().filter(|(_, other)| *other == user);
        let of_user: Vec<_> = of_user.map(|(at, _)| *at).collect();
        let full = if of_user.len() >= limits.per_user {
            of_user.first().copied()
        } else if self.0.len() >= limits.per_client {
            self.0.front().map(|(at, _)| *at)
        } else {
            None
        };
        full.map_or(Ok(()), |oldest| {
            Err((oldest + WINDOW).saturating_duration_since(now))
        })
    }
}

impl Clients {
    /// Makes room for a client. A full table must not lock out others, so that an arbitrary client
    /// is forgotten if all have recent attempts.
    fn make_room(&mut self, client: ClientId, now: Instant) {
        if self.attempts.len() < MAX_CLIENTS || self.attempts.contains_key(&client) {
            return;
        }
        if self.searched.is_none_or(|at| at + SEARCH_PAUSE <= now) {
            self.searched = Some(now);
            self.attempts.retain(|_, attempts| attempts.forget_old(now));
        }
        while self.attempts.len() >= MAX_CLIENTS
            && let Some(other) = self.attempts.keys().next().copied()
        {
            self.attempts.remove(&other);
        }
    }
}

impl Attempts {
    pub(super) fn new(limits: AttemptLimits) -> Self {
        Self {
            limits,
            clients: Mutex::default(),
        }
    }

    /// Looks whether a client is allowed an attempt, without counting it.
    ///
    /// # Errors
    /// There were too many: the time until the next one is allowed.
    pub(super) fn check(&self, client: ClientId, user: &str) -> Result<(), LoginError> {
        let (user, now) = (ClientId::from_user(user), Instant::now());
        let mut clients = self.clients();
        let attempts = clients.attempts.get_mut(&client);
        let checked = attempts.map_or(Ok(()), |all| all.check(self.limits, user, now));
        drop(clients);
        checked.map_err(|retry| refused(client, retry))
    }

    /// Counts an attempt of a client. One that is refused does not count, so that waiting always
    /// helps.
    ///
    /// # Errors
    /// There were too many: the time until the next one is allowed.
    pub(super) fn count(&self, client: ClientId, user: &str) -> Result<(), LoginError> {
        let (user, now) = (ClientId::from_user(user), Instant::now());
        let mut clients = self.clients();
        clients.make_room(client, now);
        let attempts = clients.attempts.entry(client).or_default();
        let checked = attempts.check(self.limits, user, now);
        if checked.is_ok() {
            attempts.0.push_back((now, user));
        }
        drop(clients);
        checked.map_err(|retry| refused(client, retry))
    }

    /// Forgets clients without recent attempts.
    pub(super) fn shrink(&self) {
        let now = Instant::now();
        let attempts = &mut self.clients().attempts;
        attempts.retain(|_, attempts| attempts.forget_old(now));
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(client: ClientId, retry: Duration) -> LoginError {
    tracing::warn!(%client, "too many attempts to log in from a client: further ones are refused for a while");
    LoginError::TooMany { retry }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts() -> Attempts {
        Attempts::new(AttemptLimits {
            per_user: 10,
            per_client: 100,
        })
    }

    fn client(number: u32) -> ClientId {
        ClientId::from_address(number.to_be_bytes().into())
    }

    fn retry(counted: Result<(), LoginError>) -> Option<Duration> {
        match counted {
            Ok(()) => None,
            Err(LoginError::TooMany { retry }) => Some(retry),
            Err(other) => panic!("another error: {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_of_a_client_has_ten_attempts_a_minute() {
        let attempts = attempts();
        for _ in 0..10 {
            assert_eq!(retry(attempts.count(client(1), "alice")), None);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let wait = Some(Duration::from_secs(50));
        assert_eq!(retry(attempts.check(client(1), "alice")), wait);
        assert_eq!(retry(attempts.count(client(1), "alice")), wait);
        assert_eq!(retry(attempts.check(client(1), "bob")), None);
        assert_eq!(retry(attempts.count(client(1), "bob")), None);
        assert_eq!(retry(attempts.count(client(2), "alice")), None);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(retry(attempts.count(client(1), "alice")), None);
        let wait = Some(Duration::from_secs(1));
        assert_eq!(retry(attempts.count(client(1), "alice")), wait);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_a_hundred_attempts_a_minute() {
        let attempts = attempts();
        for number in 0..100 {
            let user = format!("user-{number}");
            assert_eq!(retry(attempts.count(client(1), &user)), None);
        }
        assert_eq!(retry(attempts.count(client(1), "alice")), Some(WINDOW));
        assert_eq!(retry(attempts.count(client(2), "alice")), None);
        tokio::time::advance(WINDOW).await;
        attempts.shrink();
        assert!(attempts.clients().attempts.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_table_locks_nobody_out() {
        let attempts = attempts();
        for number in 0..20_000 {
            assert_eq!(retry(attempts.count(client(number), "alice")), None);
        }
        for number in 20_000..20_010 {
            assert_eq!(retry(attempts.check(client(number), "alice")), None);
            assert_eq!(retry(attempts.count(client(number), "alice")), None);
            assert_eq!(attempts.clients().attempts.len(), 20_000);
        }
        // Those whose attempts are old are forgotten together.
        tokio::time::advance(WINDOW).await;
        assert_eq!(retry(attempts.count(client(1 << 30), "alice")), None);
        assert_eq!(attempts.clients().attempts.len(), 1);
    }
}
