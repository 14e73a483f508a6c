//! The keys of another token service, which are loaded again when they change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use nixery_access::{KeySet, TokenError, TokenRules, VerifiedToken};
use nixery_builder::load_document;
use nixery_manifest::Digest;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::LoginError;
use super::files::AccessError;
use crate::config::{KeyLocation, TokenRealm, TokenSettings};

/// Bytes of the largest key set.
const MAX_BYTES: usize = 256 * 1024;
/// Time after which keys at a URL are loaded again.
const RELOAD_AFTER: Duration = Duration::from_secs(5 * 60);
/// Time between two loads because of tokens with an unknown key, which anybody can send.
const RELOAD_PAUSE: Duration = Duration::from_secs(2);
/// How long a request waits for the keys.
const PATIENCE: Duration = Duration::from_secs(10);

/// The keys that verify tokens.
#[derive(Debug)]
pub(super) struct TokenKeys {
    location: KeyLocation,
    /// `None` until the keys could be loaded.
    keys: RwLock<Option<LoadedKeys>>,
    /// How often other keys were loaded than before.
    changes: AtomicU64,
    /// When the last load began. Held during a load.
    requested: Mutex<Option<Instant>>,
}

/// Keys, with the digest of their document.
#[derive(Debug, Clone)]
struct LoadedKeys {
    keys: Arc<KeySet>,
    digest: Digest,
}

/// Returns what a token of another service must have.
pub(super) fn rules(settings: &TokenSettings) -> TokenRules {
    let mut rules = TokenRules::new(settings.service.as_str());
    if let TokenRealm::Other {
        issuer,
        groups_claim,
        ..
    } = &settings.realm
    {
        rules.issuer.clone_from(issuer);
        rules.groups_claim.clone_from(groups_claim);
    }
    rules
}

impl TokenKeys {
    /// Loads the keys. A URL may fail: the token service may start later.
    ///
    /// # Errors
    /// The file cannot be read, or has no keys.
    pub(super) async fn load(location: KeyLocation) -> Result<Self, AccessError> {
        let keys = Self {
            location,
            keys: RwLock::default(),
            changes: AtomicU64::default(),
            requested: Mutex::default(),
        };
        match (keys.reload().await, &keys.location) {
            (Err(error), KeyLocation::File(_)) => Err(error),
            (Err(error), KeyLocation::Url(_)) => {
                log(&error);
                Ok(keys)
            }
            (Ok(()), _) => Ok(keys),
        }
    }

    /// Verifies a token. If its key is unknown, the keys are loaded again first.
    pub(super) async fn verify(
        &self,
        rules: &TokenRules,
        token: &str,
        now: SystemTime,
    ) -> Result<VerifiedToken, LoginError> {
        let verify = |keys: &KeySet| rules.verify(keys, token, now);
        match self.keys().map(|keys| verify(&keys)) {
            Some(Err(TokenError::UnknownKey { .. })) | None => {}
            Some(verified) => return verified.map_err(LoginError::Token),
        }
        let _ = timeout(PATIENCE, self.load_newer_than(Instant::now())).await;
        let keys = self.keys().ok_or(LoginError::NoKeys)?;
        verify(&keys).map_err(LoginError::Token)
    }

    /// Returns how often other keys were loaded than before. Who verifies a token afterwards does
    /// so by these keys or by newer ones.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Loads the keys again, unless that has begun after a time. Waits for the pause after the last
    /// load.
    async fn load_newer_than(&self, time: Instant) {
        let mut requested = self.requested.lock().await;
        if let Some(last) = *requested {
            if last > time {
                return;
            }
            sleep_until(last + RELOAD_PAUSE).await;
        }
        *requested = Some(Instant::now());
        self.reload_or_log().await;
    }

    /// Loads keys again that are old. Keys in a file are compared each time.
    pub(super) async fn refresh(&self) {
        let pause = match self.location {
            KeyLocation::File(_) => Duration::ZERO,
            KeyLocation::Url(_) if self.keys().is_none() => RELOAD_PAUSE,
            KeyLocation::Url(_) => RELOAD_AFTER,
        };
        let mut requested = self.requested.lock().await;
        if requested.is_none_or(|requested| requested.elapsed() >= pause) {
            *requested = Some(Instant::now());
            self.reload_or_log().await;
        }
    }

    /// Loads the keys. If that fails, those that are known stay.
    async fn reload_or_log(&self) {
        if let Err(error) = self.reload().await {
            log(&error);
        }
    }

    async fn reload(&self) -> Result<(), AccessError> {
        let location = match &self.location {
            KeyLocation::File(path) => path.to_string_lossy(),
            KeyLocation::Url(url) => url.into(),
        };
        let bytes = load_document("a JSON Web Key Set", &location, MAX_BYTES).await;
        let bytes = bytes.map_err(AccessError::NoKeys)?;
        let digest = Digest::of(&bytes);
        let known = self.loaded();
        if known.is_some_and(|known| known.digest == digest) {
            return Ok(());
        }
        let keys = Arc::new(KeySet::parse(&bytes).map_err(AccessError::Keys)?);
        let current = self.keys.write();
        *current.unwrap_or_else(PoisonError::into_inner) = Some(LoadedKeys { keys, digest });
        // Afterwards: who reads this number reads the new keys, too.
        self.changes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn keys(&self) -> Option<Arc<KeySet>> {
        self.loaded().map(|loaded| loaded.keys)
    }

    fn loaded(&self) -> Option<LoadedKeys> {
        let keys = self.keys.read();
        keys.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn log(error: &AccessError) {
    let error = nixery_storage::error_chain(error);
    tracing::error!(error, "the keys that verify tokens cannot be loaded");
}
