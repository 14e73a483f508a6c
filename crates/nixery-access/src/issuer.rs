//! Tokens that a registry issues itself.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{Identity, KeySet, TokenRules};

/// Signs tokens by Ed25519 in the format of the distribution specification.
#[derive(Clone)]
pub struct Issuer {
    /// The claim `iss`.
    name: String,
    key: EncodingKey,
    key_id: String,
    jwks: String,
    key_set: KeySet,
}

/// There is no key to sign tokens with.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The system has no random numbers.
    #[error("cannot generate a key, because the system has no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// The text is not a private key.
    #[error(
        "the key is not a private Ed25519 key in the format PKCS#8: {0}. \
         Fix: create one with `openssl genpkey -algorithm ed25519`"
    )]
    Key(#[from] ed25519_dalek::pkcs8::Error),
    /// The public key of the private key is not usable.
    #[error(transparent)]
    KeySet(#[from] crate::KeySetError),
}

impl Issuer {
    /// Returns an issuer with a new key. Its tokens cannot be verified after a restart, or by
    /// another instance.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn generate(issuer: String) -> Result<Self, IssuerError> {
        let mut secret = ed25519_dalek::SecretKey::default();
        getrandom::fill(&mut secret)?;
        Self::new(issuer, &SigningKey::from_bytes(&secret))
    }

    /// Returns an issuer with the key of a PEM file, as written by
    /// `openssl genpkey -algorithm ed25519`.
    ///
    /// # Errors
    /// If the text is not a private Ed25519 key.
    pub fn from_pem(issuer: String, pem: &str) -> Result<Self, IssuerError> {
        Self::new(issuer, &SigningKey::from_pkcs8_pem(pem.trim())?)
    }

    fn new(name: String, key: &SigningKey) -> Result<Self, IssuerError> {
        let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
        // The thumbprint of RFC 7638, so that the same key always has the same ID.
        let thumbprint = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(thumbprint.as_bytes()));
        let jwk = json!({
            "kty": "OKP", "crv": "Ed25519", "x": x, "kid": key_id, "use": "sig", "alg": "EdDSA",
        });
        let jwks = json!({ "keys": [jwk] }).to_string();
        Ok(Self {
            name,
            key: EncodingKey::from_ed_der(key.to_pkcs8_der()?.as_bytes()),
            key_id,
            key_set: KeySet::parse(jwks.as_bytes())?,
            jwks,
        })
    }

    /// Returns the public key, which verifies the tokens.
    #[must_use]
    pub fn key_set(&self) -> &KeySet {
        &self.key_set
    }

    /// Returns the public key as a JSON Web Key Set, for other services.
    #[must_use]
    pub fn jwks(&self) -> &str {
        &self.jwks
    }

    /// Returns the rules that accept the tokens of this issuer for a service.
    #[must_use]
    pub fn rules(&self, service: impl Into<String>) -> TokenRules {
        TokenRules {
            issuer: Some(self.name.clone()),
            ..TokenRules::new(service)
        }
    }

    /// Issues a token for a service that allows its bearer to pull from repositories, from `now`
    /// for a lifetime.
    ///
    /// The token has the name and the groups of the identity. If a token limits the identity to
    /// repositories, the new one allows none beyond them.
    #[must_use]
    pub fn issue<S: AsRef<str>>(
        &self,
        identity: &Identity,
        service: &str,
        repositories: &[S],
        lifetime: Duration,
        now: SystemTime,
    ) -> String {
        let is_allowed = |name: &&str| identity.scope().is_none_or(|all| all.allows_pull(name));
        let access: Vec<_> = repositories
            .iter()
            .map(AsRef::as_ref)
            .filter(is_allowed)
            .map(|name| json!({ "type": "repository", "name": name, "actions": ["pull"] }))
            .collect();
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = json!({
            "iss": self.name,
            "sub": identity.name().unwrap_or_default(),
            "aud": service,
            "iat": now.as_secs(),
            "nbf": now.as_secs(),
            "exp": now.saturating_add(lifetime).as_secs(),
            "access": access,
            "groups": identity.groups(),
        });
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, &claims, &self.key)
            .expect("an Ed25519 key signs every document")
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("name", &self.name)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}
