//! The keys of another token service, which are loaded again when they change.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use nixery_access::{KeySet, TokenError, TokenRules, VerifiedToken};
use nixery_builder::load_document;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::LoginError;
use super::files::AccessError;
use crate::config::{KeyLocation, TokenRealm, TokenSettings};

/// Bytes of the largest key set.
const MAX_BYTES: usize = 256 * 1024;
/// Time after which keys at a URL are loaded again.
const RELOAD_AFTER: Duration = Duration::from_secs(5 * 60);
/// Time between two loads because of tokens with an unknown key, which anybody can send.
const RELOAD_PAUSE: Duration = Duration::from_secs(5);
/// How long a request waits for the keys.
const PATIENCE: Duration = Duration::from_secs(10);

/// The keys that verify tokens.
#[derive(Debug)]
pub(super) struct TokenKeys {
    location: KeyLocation,
    /// `None` until the keys could be loaded.
    keys: RwLock<Option<Arc<KeySet>>>,
    /// When they were last requested. Held while they are.
    requested: Mutex<Option<Instant>>,
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
        // Whoever waits here for another request finds the keys that it loaded.
        let _ = timeout(PATIENCE, self.reload_after(RELOAD_PAUSE)).await;
        let keys = self.keys().ok_or(LoginError::NoKeys)?;
        verify(&keys).map_err(LoginError::Token)
    }

    /// Loads keys again that are old. Keys in a file are compared each time.
    pub(super) async fn refresh(&self) {
        self.reload_after(match self.location {
            KeyLocation::File(_) => Duration::ZERO,
            KeyLocation::Url(_) if self.keys().is_none() => RELOAD_PAUSE,
            KeyLocation::Url(_) => RELOAD_AFTER,
        })
        .await;
    }

    async fn reload_after(&self, pause: Duration) {
        let mut requested = self.requested.lock().await;
        if requested.is_some_and(|requested| requested.elapsed() < pause) {
            return;
        }
        *requested = Some(Instant::now());
        if let Err(error) = self.reload().await {
            // The keys that are known stay.
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
        let keys = KeySet::parse(&bytes).map_err(AccessError::Keys)?;
        let current = self.keys.write();
        *current.unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
        Ok(())
    }

    fn keys(&self) -> Option<Arc<KeySet>> {
        let keys = self.keys.read();
        keys.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn log(error: &AccessError) {
    let error = nixery_storage::error_chain(error);
    tracing::error!(error, "the keys that verify tokens cannot be loaded");
}
