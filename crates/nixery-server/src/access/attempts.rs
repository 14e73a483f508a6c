//! Bounds how often somebody may try to log in.

use std::num::NonZeroU32;

use governor::clock::Clock;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use nixery_builder::ClientId;

use super::LoginError;

/// Attempts in a minute for one user from one client. Verified credentials are kept in memory, so
/// that a client needs few.
const PER_USER: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// Attempts in a minute from one client, for all users: a cluster behind one address has several.
const PER_CLIENT: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

/// The attempts of the last minute.
pub(super) struct Attempts {
    by_user: DefaultKeyedRateLimiter<(ClientId, ClientId)>,
    by_client: DefaultKeyedRateLimiter<ClientId>,
}

impl std::fmt::Debug for Attempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (users, clients) = (self.by_user.len(), self.by_client.len());
        write!(f, "Attempts {{ users: {users}, clients: {clients} }}")
    }
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            by_user: RateLimiter::keyed(Quota::per_minute(PER_USER)),
            by_client: RateLimiter::keyed(Quota::per_minute(PER_CLIENT)),
        }
    }
}

impl Attempts {
    /// Counts an attempt of a client.
    ///
    /// # Errors
    /// There were too many: the time until the next one is allowed.
    pub(super) fn count(&self, client: ClientId, user: &str) -> Result<(), LoginError> {
        let user = ClientId::from_user(user);
        let by_user = self.by_user.check_key(&(client, user));
        let not_until = match by_user.and_then(|()| self.by_client.check_key(&client)) {
            Ok(()) => return Ok(()),
            Err(not_until) => not_until,
        };
        let retry = not_until.wait_time_from(self.by_user.clock().now());
        tracing::warn!(%client, "too many failed logins from a client: further ones are refused for a while");
        Err(LoginError::TooMany { retry })
    }

    /// Forgets clients without recent attempts.
    pub(super) fn shrink(&self) {
        self.by_user.retain_recent();
        self.by_client.retain_recent();
    }
}
