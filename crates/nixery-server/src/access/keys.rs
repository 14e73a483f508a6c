//! The keys of another token service, which are loaded again when they change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use nixery_access::{KeySet, TokenRules, VerifiedToken};
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
    /// Locked during a load.
    loads: Arc<Mutex<Loads>>,
}

/// The loads so far.
#[derive(Debug, Default)]
struct Loads {
    /// When the last one began. The one at the start is not meant: it delays no other.
    began: Option<Instant>,
    /// When the last one that succeeded began.
    succeeded: Option<Instant>,
    /// The error of the last one. One that repeats is logged once.
    error: Option<String>,
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
    pub(super) async fn load(location: KeyLocation) -> Result<Arc<Self>, AccessError> {
        let keys = Self {
            location,
            keys: RwLock::default(),
            changes: AtomicU64::default(),
            loads: Arc::default(),
        };
        let began = Instant::now();
        let loaded = keys.reload().await;
        if matches!(keys.location, KeyLocation::File(_)) {
            loaded?;
        } else {
            keys.loads.lock().await.end(began, loaded);
        }
        Ok(Arc::new(keys))
    }

    /// Verifies a token by the keys that are known.
    pub(super) fn verify(
        &self,
        rules: &TokenRules,
        token: &str,
        now: SystemTime,
    ) -> Result<VerifiedToken, LoginError> {
        let keys = self.keys().ok_or(LoginError::NoKeys)?;
        rules.verify(&keys, token, now).map_err(LoginError::Token)
    }

    /// Returns how often other keys were loaded than before. Who verifies a token afterwards does
    /// so by these keys or by newer ones.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Waits until the keys are loaded again, unless that has begun after this call. Gives up after
    /// a while.
    pub(super) async fn load_newer(self: &Arc<Self>) {
        let _ = timeout(PATIENCE, self.load_newer_than(Instant::now())).await;
    }

    /// Loads the keys again after the pause, unless that has begun after a time.
    async fn load_newer_than(self: &Arc<Self>, time: Instant) {
        let mut loads = Arc::clone(&self.loads).lock_owned().await;
        if loads.began.is_some_and(|last| last > time) {
            return;
        }
        let keys = Arc::clone(self);
        // In a task, which has the lock: other requests wait for this load, and the client of this
        // one may disconnect before it ends.
        let loading = tokio::spawn(async move {
            if let Some(last) = loads.began {
                sleep_until(last + RELOAD_PAUSE).await;
            }
            keys.reload_with(&mut loads).await;
        });
        let _ = loading.await;
    }

    /// Loads keys again that are old. Keys in a file are compared each time.
    pub(super) async fn refresh(&self) {
        let is_older = |time: Option<Instant>, than| time.is_none_or(|time| time.elapsed() >= than);
        let mut loads = self.loads.lock().await;
        let is_due = match self.location {
            KeyLocation::File(_) => true,
            KeyLocation::Url(_) => {
                is_older(loads.began, RELOAD_PAUSE) && is_older(loads.succeeded, RELOAD_AFTER)
            }
        };
        if is_due {
            self.reload_with(&mut loads).await;
        }
    }

    /// Loads the keys. If that fails, those that are known stay.
    async fn reload_with(&self, loads: &mut Loads) {
        let began = Instant::now();
        loads.began = Some(began);
        loads.end(began, self.reload().await);
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
        // After the keys are replaced: a reader of the new number gets the new keys.
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

impl Loads {
    /// Records how a load ended.
    fn end(&mut self, began: Instant, loaded: Result<(), AccessError>) {
        let Err(error) = loaded else {
            (self.succeeded, self.error) = (Some(began), None);
            return;
        };
        let error = nixery_storage::error_chain(&error);
        if self.error.as_ref() != Some(&error) {
            tracing::error!(error, "the keys that verify tokens cannot be loaded");
            self.error = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use nixery_access::Issuer;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_load_that_failed_does_not_delay_the_next_one() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_str().expect("UTF-8");
        let publish = || {
            let issuer = Issuer::generate("auth".to_owned()).expect("a key");
            std::fs::write(path, issuer.jwks()).expect("a written file");
        };
        publish();
        let location = KeyLocation::Url(format!("file://{path}"));
        let keys = TokenKeys::load(location).await.expect("keys");
        assert_eq!(keys.changes(), 1);
        publish();
        keys.refresh().await;
        assert_eq!(keys.changes(), 1, "the keys are not old");
        std::fs::write(path, "{").expect("a written file");
        tokio::time::advance(RELOAD_AFTER).await;
        keys.refresh().await;
        assert!(keys.loads.lock().await.error.is_some());
        publish();
        tokio::time::advance(RELOAD_PAUSE).await;
        keys.refresh().await;
        assert_eq!(keys.changes(), 2);
        assert!(keys.loads.lock().await.error.is_none());
    }
}
