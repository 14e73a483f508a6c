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

/// Why there is no key to sign tokens with.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The system returned no random bytes.
    #[error("cannot generate a key, because the system returned no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The text is not a private key.
    #[error(
        "the key is not a private Ed25519 key in the format PKCS#8: {0}. \
         Fix: create one with `openssl genpkey -algorithm ed25519`"
    )]
    Key(#[from] ed25519_dalek::pkcs8::Error),
}

impl Issuer {
    /// Returns an issuer with a new key. Its tokens cannot be verified after a restart, or by
    /// another instance.
    ///
    /// # Errors
    /// If the system returns no random bytes.
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
            key_set: KeySet::parse(jwks.as_bytes()).expect("an Ed25519 key verifies tokens"),
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

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
    use rstest::rstest;

    use super::*;
    use crate::testing::{ED25519_PEM, NOW, now, public_key};
    use crate::{TokenError, TokenScope};

    const HOUR: Duration = Duration::from_secs(3600);
    const SERVICE: &str = "registry.example";

    fn issuer() -> Issuer {
        Issuer::from_pem("nixery".to_owned(), ED25519_PEM).expect("the key is valid")
    }

    fn scope(names: &[&str]) -> TokenScope {
        TokenScope::new(names.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn a_token_is_verified_by_the_key_set_of_its_issuer() {
        let issuer = Issuer::generate("nixery".to_owned()).expect("the system has random numbers");
        let groups = ["admins".to_owned(), "users".to_owned()];
        let alice = Identity::user("alice").with_groups(groups);
        let token = issuer.issue(&alice, SERVICE, &["shell/git", "curl"], HOUR, now());
        let verified = issuer
            .rules(SERVICE)
            .verify(issuer.key_set(), &token, now());
        let verified = verified.expect("the token is valid");
        assert_eq!(
            verified.identity,
            alice.with_scope(scope(&["curl", "shell/git"]))
        );
        let expires = UNIX_EPOCH + Duration::from_secs(NOW + 3600 + 60);
        assert_eq!(verified.expires, expires);
    }

    #[test]
    fn a_token_without_a_user_or_repositories_allows_nothing() {
        let issuer = issuer();
        let token = issuer.issue::<&str>(&Identity::anonymous(), SERVICE, &[], HOUR, now());
        let verified = issuer
            .rules(SERVICE)
            .verify(issuer.key_set(), &token, now());
        let identity = verified.expect("the token is valid").identity;
        assert_eq!(
            identity,
            Identity::anonymous().with_scope(TokenScope::default())
        );
    }

    #[test]
    fn a_token_allows_nothing_beyond_the_one_that_it_was_issued_for() {
        let issuer = issuer();
        let limited = Identity::user("ci").with_scope(scope(&["git", "jq"]));
        let token = issuer.issue(&limited, SERVICE, &["git", "curl"], HOUR, now());
        let verified = issuer
            .rules(SERVICE)
            .verify(issuer.key_set(), &token, now());
        let identity = verified.expect("the token is valid").identity;
        assert_eq!(identity.scope(), Some(&scope(&["git"])));
    }

    #[test]
    fn issuers_with_one_key_verify_each_others_tokens() {
        let (one, other) = (issuer(), issuer());
        assert_eq!(one.jwks(), other.jwks());
        let token = one.issue(&Identity::user("alice"), SERVICE, &["git"], HOUR, now());
        let rules = other.rules(SERVICE);
        assert!(rules.verify(other.key_set(), &token, now()).is_ok());
        // But not with another key, another name, for another service, or later.
        let stranger = Issuer::generate("nixery".to_owned()).expect("the system is random");
        let unknown = rules.verify(stranger.key_set(), &token, now());
        assert!(
            matches!(unknown, Err(TokenError::UnknownKey { .. })),
            "{unknown:?}"
        );
        let renamed = Issuer::from_pem("other".to_owned(), ED25519_PEM).expect("the key is valid");
        let verify = |rules: TokenRules, now| rules.verify(one.key_set(), &token, now).map(drop);
        assert_eq!(
            verify(renamed.rules(SERVICE), now()),
            Err(TokenError::OtherIssuer)
        );
        assert_eq!(
            verify(one.rules("other"), now()),
            Err(TokenError::OtherService)
        );
        assert_eq!(
            verify(one.rules(SERVICE), now() + 2 * HOUR),
            Err(TokenError::Expired)
        );
        assert_eq!(
            verify(one.rules(SERVICE), now() - HOUR),
            Err(TokenError::NotYetValid)
        );
    }

    #[test]
    fn the_published_keys_verify_tokens() {
        let issuer = issuer();
        let published = KeySet::parse(issuer.jwks().as_bytes()).expect("it is a key set");
        assert_eq!(format!("{published:?}"), format!("{:?}", issuer.key_set()));
        let token = issuer.issue(&Identity::user("alice"), SERVICE, &["git"], HOUR, now());
        assert!(
            issuer
                .rules(SERVICE)
                .verify(&published, &token, now())
                .is_ok()
        );
    }

    #[test]
    fn the_id_of_a_key_is_that_of_rfc_7638() {
        let jwk: Jwk = serde_json::from_value(public_key(Algorithm::EdDSA)).expect("it is a key");
        let thumbprint = jwk.thumbprint(ThumbprintHash::SHA256);
        let thumbprint = thumbprint.expect("the key is valid");
        assert!(issuer().key_set().has(&thumbprint), "{thumbprint}");
    }

    #[rstest]
    #[case::empty("")]
    #[case::text("secret")]
    #[case::ec_key(include_str!("../tests/keys/p256.pem"))]
    #[case::rsa_key(include_str!("../tests/keys/rsa.pem"))]
    #[case::public_key(
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"
    )]
    fn another_key_is_refused(#[case] pem: &str) {
        let error = Issuer::from_pem("nixery".to_owned(), pem).expect_err("it is not usable");
        let message = error.to_string();
        assert!(
            message.contains("Fix: create one with `openssl genpkey"),
            "{message}"
        );
    }

    #[test]
    fn debugging_shows_no_key() {
        let shown = format!("{:?}", issuer());
        assert!(
            shown.starts_with("Issuer { name: \"nixery\", key_id: \""),
            "{shown}"
        );
        assert!(shown.ends_with("\", .. }"), "{shown}");
    }
}
