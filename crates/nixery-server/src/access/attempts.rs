//! Bounds how often somebody may try to log in.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nixery_builder::ClientId;
use tokio::time::Instant;

use super::LoginError;

/// The time in which attempts are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Attempts for one user from one client. Verified credentials are kept in memory, so that a client
/// needs few.
const MAX_PER_USER: usize = 10;
/// Attempts from one client for all users: a cluster behind one address has several.
const MAX_PER_CLIENT: usize = 100;
/// Clients with recent attempts. Each has from 100 bytes to some kilobytes of memory.
const MAX_CLIENTS: usize = 20_000;

/// The recent attempts of all clients.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<ClientId, ClientAttempts>>);

/// The recent attempts of one client, the oldest first, with the users whom they were for.
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

    /// Counts an attempt. One that is refused does not count, so that waiting always helps.
    ///
    /// # Errors
    /// There were too many: the time until the next one is allowed.
    fn count(&mut self, user: ClientId, now: Instant) -> Result<(), Duration> {
        self.forget_old(now);
        let of_user = self.0.iter().filter(|(_, other)| *other == user);
        let of_user: Vec<_> = of_user.map(|(at, _)| *at).collect();
        let full = if of_user.len() >= MAX_PER_USER {
            of_user.first().copied()
        } else if self.0.len() >= MAX_PER_CLIENT {
            self.0.front().map(|(at, _)| *at)
        } else {
            None
        };
        if let Some(oldest) = full {
            return Err((oldest + WINDOW).saturating_duration_since(now));
        }
        self.0.push_back((now, user));
        Ok(())
    }
}

impl Attempts {
    /// Counts an attempt of a client.
    ///
    /// # Errors
    /// There were too many: the time until the next one is allowed.
    pub(super) fn count(&self, client: ClientId, user: &str) -> Result<(), LoginError> {
        let now = Instant::now();
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, attempts| attempts.forget_old(now));
        }
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&client) {
            return Err(LoginError::TooMany { retry: WINDOW });
        }
        let attempts = clients.entry(client).or_default();
        let counted = attempts.count(ClientId::from_user(user), now);
        drop(clients);
        counted.map_err(|retry| {
            tracing::warn!(%client, "too many attempts to log in from a client: further ones are refused for a while");
            LoginError::TooMany { retry }
        })
    }

    /// Forgets clients without recent attempts.
    pub(super) fn shrink(&self) {
        let now = Instant::now();
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|_, attempts| attempts.forget_old(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let attempts = Attempts::default();
        for _ in 0..10 {
            assert_eq!(retry(attempts.count(client(1), "alice")), None);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let wait = Some(Duration::from_secs(50));
        assert_eq!(retry(attempts.count(client(1), "alice")), wait);
        assert_eq!(retry(attempts.count(client(1), "bob")), None);
        assert_eq!(retry(attempts.count(client(2), "alice")), None);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(retry(attempts.count(client(1), "alice")), None);
        let wait = Some(Duration::from_secs(1));
        assert_eq!(retry(attempts.count(client(1), "alice")), wait);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_a_hundred_attempts_a_minute() {
        let attempts = Attempts::default();
        for number in 0..100 {
            let user = format!("user-{number}");
            assert_eq!(retry(attempts.count(client(1), &user)), None);
        }
        assert_eq!(retry(attempts.count(client(1), "alice")), Some(WINDOW));
        assert_eq!(retry(attempts.count(client(2), "alice")), None);
        tokio::time::advance(WINDOW).await;
        attempts.shrink();
        assert!(attempts.0.lock().expect("not poisoned").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_for_clients_is_bounded() {
        let attempts = Attempts::default();
        for number in 0..20_000 {
            assert_eq!(retry(attempts.count(client(number), "alice")), None);
        }
        let another = client(1 << 30);
        assert_eq!(retry(attempts.count(another, "alice")), Some(WINDOW));
        assert_eq!(retry(attempts.count(client(1), "alice")), None);
        tokio::time::advance(WINDOW).await;
        assert_eq!(retry(attempts.count(another, "alice")), None);
    }
}
