//! Who sends a request, and what they may pull.
//!
//! [`Access`] finds out who sends a request, from its credentials. The `Caller` then decides
//! about each name, tag and digest by the policy. Without settings everybody may pull everything,
//! and nothing of this costs time.

mod attempts;
mod caller;
mod challenge;
mod credentials;
mod files;
mod keys;
mod names;
mod quotas;
mod watch;

pub(crate) use caller::Caller;
pub use files::AccessError;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use http::request::Parts;
use nixery_access::{Identity, Issuer, TokenError, VerifiedToken};
use nixery_builder::{Builder, ClientId};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::arrival::{Arrival, ListenerRole};
use crate::client::client_id;
use crate::config::{AccessSettings, HttpSettings, KeyLocation, TokenRealm};
use crate::error::ApiError;
use attempts::{AttemptLimits, Attempts};
use credentials::{Credentials, CredentialsError};
use files::Files;
use keys::TokenKeys;
use names::Names;
use quotas::BuildQuotas;

/// How long verified credentials are not verified again.
const VERIFIED_FOR: Duration = Duration::from_secs(5 * 60);
/// How long a password waits for its verification.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long equal passwords that were refused are refused again without a verification.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Verified credentials in memory, and as many that were refused.
const MAX_VERIFIED: usize = 10_000;
/// Verified credentials are kept in memory, so that a client needs few attempts. A cluster behind
/// one address has several users.
const LOGINS: AttemptLimits = AttemptLimits {
    per_user: 10,
    per_client: 100,
};
/// Clients have many tokens of a key that was replaced, and get others when these are refused.
const UNKNOWN_KEYS: AttemptLimits = AttemptLimits {
    per_user: 100,
    per_client: 200,
};
/// Stands for the user of tokens.
const TOKENS: &str = "";
/// Stands for the user of tokens that say which key has signed them.
const WITH_KEY_ID: &str = "with";
/// Stands for the user of tokens that do not say which key has signed them: several are tried.
const WITHOUT_KEY_ID: &str = "without";

/// Finds out who sends requests, and what they may pull.
#[derive(Debug)]
pub struct Access {
    settings: AccessSettings,
    files: RwLock<Arc<Files>>,
    /// How often the files of passwords or tokens were replaced.
    file_changes: AtomicU64,
    issuer: Option<Issuer>,
    keys: Option<Arc<TokenKeys>>,
    verified: quick_cache::sync::Cache<credentials::Fingerprint, Verified>,
    /// Passwords that were refused, so that a client that repeats one needs no further attempt.
    refused: quick_cache::sync::Cache<credentials::Fingerprint, RefusedPassword>,
    fingerprints: credentials::Fingerprints,
    attempts: Attempts,
    /// Tokens with an unknown key, which do not count as attempts.
    unknown_keys: Attempts,
    /// Passwords that are verified at once: each takes a processor for a while.
    passwords_at_once: Arc<Semaphore>,
    names: Names,
    quotas: BuildQuotas,
}

/// An identity whose credentials were verified.
#[derive(Debug, Clone)]
struct Verified {
    identity: Identity,
    until: Instant,
    /// The changes of files and keys that the verification took into account at least.
    changes: u64,
}

/// A password that was refused.
#[derive(Debug, Clone, Copy)]
struct RefusedPassword {
    until: Instant,
    /// The changes of files before it was refused.
    changes: u64,
}

/// Why credentials are refused.
#[derive(Debug)]
enum LoginError {
    /// They have no form that is known.
    Credentials(CredentialsError),
    /// The name or the password or the token is wrong.
    Wrong,
    /// A signed token is refused.
    Token(TokenError),
    /// No keys that verify tokens could be loaded yet.
    NoKeys,
    /// Too many passwords wait for their verification.
    Busy,
    /// There were too many attempts.
    TooMany {
        /// When the next one is allowed.
        retry: Duration,
    },
}

/// Checks the files of the settings. Keys at a URL are not loaded.
///
/// # Errors
/// A file cannot be read, or something in it is wrong.
pub(crate) async fn check_files(settings: &AccessSettings) -> Result<(), AccessError> {
    let tokens = settings.token_service.as_ref();
    if let Some(TokenRealm::Other {
        keys: KeyLocation::Url(_),
        ..
    }) = tokens.map(|tokens| &tokens.realm)
    {
        files::read(settings.clone(), None).await?;
    } else {
        Access::load(settings.clone()).await?;
    }
    Ok(())
}

impl Access {
    /// Returns access without limits.
    #[must_use]
    pub fn open() -> Self {
        Self::with(AccessSettings::default(), Files::default(), None, None)
    }

    /// Reads the files of the settings.
    ///
    /// # Errors
    /// A file cannot be read, or something in it is wrong.
    pub async fn load(settings: AccessSettings) -> Result<Self, AccessError> {
        let files = files::read(settings.clone(), None).await?;
        let files = files.unwrap_or_default();
        let (mut issuer, mut keys) = (None, None);
        match settings.token_service.as_ref().map(|tokens| &tokens.realm) {
            Some(TokenRealm::Own {
                issuer: name, key, ..
            }) => issuer = Some(files::issuer(name.clone(), key.clone()).await?),
            Some(TokenRealm::Other { keys: location, .. }) => {
                keys = Some(TokenKeys::load(location.clone()).await?);
            }
            None => {}
        }
        Ok(Self::with(settings, files, issuer, keys))
    }

    fn with(
        settings: AccessSettings,
        files: Files,
        issuer: Option<Issuer>,
        keys: Option<Arc<TokenKeys>>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            settings,
            files: RwLock::new(Arc::new(files)),
            file_changes: AtomicU64::default(),
            issuer,
            keys,
            verified: quick_cache::sync::Cache::new(MAX_VERIFIED),
            refused: quick_cache::sync::Cache::new(MAX_VERIFIED),
            fingerprints: credentials::Fingerprints::default(),
            attempts: Attempts::new(LOGINS),
            unknown_keys: Attempts::new(UNKNOWN_KEYS),
            passwords_at_once: Arc::new(Semaphore::new((cores / 2).max(1))),
            names: Names::default(),
            quotas: BuildQuotas::default(),
        }
    }

    /// Whether anything limits who may pull what.
    pub(crate) fn is_limited(&self) -> bool {
        self.settings.is_configured()
    }

    fn files(&self) -> Arc<Files> {
        let files = self.files.read();
        Arc::clone(&files.unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses other files from now on. If passwords or tokens differ, credentials are verified again.
    fn replace_files(&self, files: Files) {
        let logins = files.logins;
        let mut current = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, Arc::new(files));
        drop(current);
        if before.logins != logins {
            // After the files are replaced: a reader of the new number gets the new files.
            self.file_changes.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Returns how often passwords, tokens and keys have changed.
    fn changes(&self) -> u64 {
        let of_keys = self.keys.as_ref().map_or(0, |keys| keys.changes());
        self.file_changes.load(Ordering::SeqCst) + of_keys
    }

    /// Finds out who sends a request.
    ///
    /// # Errors
    /// The credentials are wrong (401), or too many were (429).
    pub(crate) async fn caller<'a>(
        &'a self,
        builder: &'a Builder,
        http: &'a HttpSettings,
        request: &'a Parts,
    ) -> Result<Caller<'a>, ApiError> {
        if Arrival::of(request).role == ListenerRole::Admin {
            return Ok(Caller::operator(self, builder, http, request));
        }
        let caller = |identity| Caller::new(self, builder, http, request, identity);
        if !self.settings.has_logins() {
            return Ok(caller(Identity::anonymous()));
        }
        let found = credentials::find(&request.headers);
        let verified = match found {
            Ok(None) => return Ok(caller(Identity::anonymous())),
            Ok(Some(found)) => self.verify(request, found).await,
            Err(error) => Err(LoginError::Credentials(error)),
        };
        match verified {
            Ok(identity) => Ok(caller(identity)),
            Err(error) => Err(caller(Identity::anonymous()).refused(&error)),
        }
    }

    /// Verifies credentials, unless the same were verified a moment ago.
    async fn verify(
        &self,
        request: &Parts,
        credentials: Credentials,
    ) -> Result<Identity, LoginError> {
        let fingerprint = self.fingerprints.of(&credentials);
        let changes = self.changes();
        loop {
            let verifying = self.verify_now(request, &credentials, fingerprint);
            let verified = match &credentials {
                // Requests with equal passwords wait for one verification, which takes a while.
                Credentials::Basic { .. } => {
                    let verified = self.verified.get_or_insert_async(&fingerprint, verifying);
                    let verified = timeout(PATIENCE, verified).await;
                    verified.map_err(|_elapsed| LoginError::Busy)??
                }
                // Tokens may wait for keys. If they are refused, all of them are at once.
                Credentials::Bearer(_) => match self.verified.get(&fingerprint) {
                    Some(verified) => verified,
                    None => {
                        let verified = verifying.await?;
                        self.verified.insert(fingerprint, verified.clone());
                        verified
                    }
                },
            };
            if verified.changes >= changes && verified.until > Instant::now() {
                return Ok(verified.identity);
            }
            // Another request may have verified them again meanwhile, which costs little.
            self.verified.remove(&fingerprint);
        }
    }

    async fn verify_now(
        &self,
        request: &Parts,
        credentials: &Credentials,
        fingerprint: credentials::Fingerprint,
    ) -> Result<Verified, LoginError> {
        // Before the files and keys are read, which may change meanwhile.
        let changes = self.changes();
        let client = client_id(request);
        let mut until = Instant::now() + VERIFIED_FOR;
        let identity = match credentials {
            Credentials::Basic { user, password } => {
                if self.was_refused(&fingerprint, changes) {
                    return Err(LoginError::Wrong);
                }
                let verified = self.verify_password(client, user, password).await;
                if matches!(verified, Err(LoginError::Wrong)) {
                    let until = Instant::now() + REFUSED_FOR;
                    let refused = RefusedPassword { until, changes };
                    self.refused.insert(fingerprint, refused);
                }
                verified?
            }
            Credentials::Bearer(token) => {
                // The right token gets the answer of a wrong one, so that guessing is of no use.
                self.attempts.check(client, TOKENS)?;
                if let Some(user) = self.files().user_of_token(token) {
                    Identity::user(user)
                } else {
                    let verified = self.verify_token(client, token).await?;
                    let left = verified.expires.duration_since(SystemTime::now());
                    until = until.min(Instant::now() + left.unwrap_or_default());
                    verified.identity
                }
            }
        };
        Ok(Verified {
            identity,
            until,
            changes,
        })
    }

    /// Whether an equal password was refused a moment ago, by the files of now.
    fn was_refused(&self, fingerprint: &credentials::Fingerprint, changes: u64) -> bool {
        let refused = self.refused.get(fingerprint);
        refused.is_some_and(|refused| refused.changes >= changes && refused.until > Instant::now())
    }

    async fn verify_password(
        &self,
        client: ClientId,
        user: &str,
        password: &[u8],
    ) -> Result<Identity, LoginError> {
        // The right token or password gets the answer of a wrong one, so that guessing is of no
        // use.
        self.attempts.check(client, user)?;
        let files = self.files();
        // Programs may send a token as the password of its name.
        let token = std::str::from_utf8(password).ok();
        let of_token = token.and_then(|token| files.user_of_token(token));
        if of_token.as_deref() == Some(user) {
            return Ok(Identity::user(user));
        }
        let permit = Arc::clone(&self.passwords_at_once).acquire_owned().await;
        let permit = permit.map_err(|_closed| LoginError::Busy)?;
        // Before the work, so that nobody can cause much of it, and after the wait, so that a
        // request that gives up has made no attempt.
        self.attempts.count(client, user)?;
        let (user, password) = (user.to_owned(), password.to_vec());
        let verified = tokio::task::spawn_blocking(move || {
            // Here, because this work continues if the client disconnects.
            let _permit = permit;
            files.verify(&user, &password).then(|| Identity::user(user))
        });
        verified.await.ok().flatten().ok_or(LoginError::Wrong)
    }

    async fn verify_token(
        &self,
        client: ClientId,
        token: &str,
    ) -> Result<VerifiedToken, LoginError> {
        // Several keys may be tried for such a token, so that this is before the work.
        self.unknown_keys.check(client, WITHOUT_KEY_ID)?;
        let verified = self.verify_signed(client, token).await;
        match &verified {
            Err(LoginError::Token(TokenError::UnknownKey { kid: Some(_) })) => {
                self.unknown_keys.count(client, WITH_KEY_ID)?;
            }
            Err(error) if error.is_guess() => self.attempts.count(client, TOKENS)?,
            _ => {}
        }
        verified
    }

    /// Verifies a token of a token service. If its key is unknown, the keys of another service are
    /// loaded again.
    async fn verify_signed(
        &self,
        client: ClientId,
        token: &str,
    ) -> Result<VerifiedToken, LoginError> {
        let Some(tokens) = &self.settings.token_service else {
            return Err(LoginError::Wrong);
        };
        let now = SystemTime::now();
        let verify = || match (&self.issuer, &self.keys) {
            (Some(issuer), _) => {
                let rules = issuer.rules(tokens.service.as_str());
                let verified = rules.verify(issuer.key_set(), token, now);
                verified.map_err(LoginError::Token)
            }
            (None, Some(keys)) => keys.verify(&keys::rules(tokens), token, now),
            (None, None) => Err(LoginError::NoKeys),
        };
        let verified = verify();
        match &verified {
            // Before the wait, which the client can end.
            Err(LoginError::Token(TokenError::UnknownKey { kid: None })) => {
                self.unknown_keys.count(client, WITHOUT_KEY_ID)?;
            }
            Err(LoginError::Token(TokenError::UnknownKey { kid: Some(_) })) => {
                self.unknown_keys.check(client, WITH_KEY_ID)?;
            }
            Err(LoginError::NoKeys) => {}
            _ => return verified,
        }
        let Some(keys) = &self.keys else {
            return verified;
        };
        keys.load_newer().await;
        verify()
    }
}

impl LoginError {
    /// Whether the credentials may have been guessed. Clients also send tokens that were valid
    /// before, or are for another service.
    fn is_guess(&self) -> bool {
        matches!(
            self,
            Self::Wrong
                | Self::Token(
                    TokenError::Malformed
                        | TokenError::TooLong
                        | TokenError::Algorithm
                        | TokenError::Signature
                )
        )
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    /// The password is `U*U`.
    const ALICE: &str = "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    #[tokio::test(start_paused = true)]
    async fn equal_passwords_wait_for_a_limited_time_in_all() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), ALICE).expect("a written file");
        let mut settings = AccessSettings::default();
        settings.htpasswd = Some(file.path().to_owned());
        let access = Access::load(settings).await.expect("valid files");
        let (parts, ()) = http::Request::new(()).into_parts();
        let verify = || {
            let credentials = Credentials::Basic {
                user: "alice".to_owned(),
                password: b"U*U".to_vec(),
            };
            access.verify(&parts, credentials)
        };
        let permits = access.passwords_at_once.available_permits();
        let permits = u32::try_from(permits).expect("few permits");
        let busy = access.passwords_at_once.acquire_many(permits).await;
        let start = tokio::time::Instant::now();
        for verified in join_all((0..20).map(|_| verify())).await {
            assert!(matches!(verified, Err(LoginError::Busy)), "{verified:?}");
        }
        assert!(start.elapsed() < PATIENCE * 2);
        drop(busy);
        // None of them was an attempt.
        verify().await.expect("the right password");
    }
}
