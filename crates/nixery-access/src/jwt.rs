//! Tokens that another service has signed: JSON Web Tokens (RFC 7519) in the format of the
//! distribution specification.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::key_set::asymmetric_algorithm;
use crate::lines::is_user_name;
use crate::scope::allows_pull;
use crate::{Identity, KeySet, TokenScope};

/// Bytes of the longest token that is accepted.
pub const LONGEST_TOKEN_BYTES: usize = 16 << 10;

/// How many keys are tried for a token that does not say which one signed it.
const MOST_TRIED_KEYS: usize = 8;

/// How many characters of an unknown key ID a message has at most.
const LONGEST_SHOWN_ID: usize = 64;

/// The start of the year 10000. Later times in claims become this one.
const LATEST_SECONDS: f64 = 253_402_300_800.0;

/// What a token must have to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    /// The name of the registry, which the claim `aud` must have.
    pub service: String,
    /// What the claim `iss` must be, if anything.
    pub issuer: Option<String>,
    /// The claim with the groups of the user: a list of names, or one name.
    pub groups_claim: String,
    /// How much the clocks of the registry and the issuer may differ.
    pub leeway: Duration,
}

/// A token that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Who sent the token, and what it limits them to.
    pub identity: Identity,
    /// From when on the token is refused. This includes the leeway.
    pub expires: SystemTime,
}

/// Why a token is refused. Messages are for the client that sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is not a JSON Web Token, or has claims of other types.
    #[error("the token is malformed")]
    Malformed,
    /// The token is longer than any that is needed.
    #[error("the token has over {} KiB", LONGEST_TOKEN_BYTES >> 10)]
    TooLong,
    /// The algorithm is `none`, symmetric or unknown.
    #[error(
        "the token is signed by an algorithm that is not accepted. \
         Fix: sign it by RS256, PS256, ES256, ES384 or EdDSA"
    )]
    Algorithm,
    /// The keys do not have the one that signed the token. The issuer may have a new key.
    #[error("the token is signed by an unknown key{}", shown_id(.kid.as_deref()))]
    UnknownKey {
        /// The ID of the key, shortened; `None` if the token does not say which key signed it.
        kid: Option<String>,
    },
    /// The key that the token names did not sign it, or is of another kind than the algorithm.
    #[error("the token's signature is wrong")]
    Signature,
    /// The token has expired.
    #[error("the token has expired. Fix: get a new one")]
    Expired,
    /// The token is not valid yet.
    #[error("the token is not valid yet. Fix: compare the clocks of the issuer and the registry")]
    NotYetValid,
    /// The token does not say when it expires.
    #[error("the token has no claim `exp`, so that it would never expire")]
    NoExpiry,
    /// The token is for another service.
    #[error("the token's claim `aud` does not name this service")]
    OtherService,
    /// Another service issued the token.
    #[error("the token's claim `iss` is not the issuer that this service trusts")]
    OtherIssuer,
    /// The name of the user is too long or has control characters.
    #[error("the token's claim `sub` is not a user's name")]
    InvalidUser,
}

fn shown_id(id: Option<&str>) -> String {
    id.map_or_else(String::new, |id| format!(" `{}`", id.escape_debug()))
}

impl TokenRules {
    /// Returns rules that accept the tokens of any issuer for a service, with groups in the claim
    /// `groups`, and clocks that differ by up to a minute.
    #[must_use]
    pub fn new(service: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            issuer: None,
            groups_claim: "groups".to_owned(),
            leeway: Duration::from_secs(60),
        }
    }

    /// Verifies a token: its signature, its service and issuer, and its times.
    ///
    /// The algorithm must be RSA (RS256 to PS512), ES256, ES384 or `EdDSA`, and the key one of
    /// `keys`. Keys and addresses of keys in the token itself (`jwk`, `jku`, `x5c`, `x5u`) are not
    /// used.
    ///
    /// The claim `sub` is the user; without it the identity is anonymous. The claim `access`
    /// limits the identity to the repositories that it allows to pull, also if it is empty.
    ///
    /// # Errors
    /// If the token is not valid at `now` under these rules.
    pub fn verify(
        &self,
        keys: &KeySet,
        token: &str,
        now: SystemTime,
    ) -> Result<VerifiedToken, TokenError> {
        let claims = verified_claims(keys, token)?;
        if let Some(issuer) = &self.issuer
            && claims.iss.as_ref() != Some(issuer)
        {
            return Err(TokenError::OtherIssuer);
        }
        if !claims.aud.0.contains(&self.service) {
            return Err(TokenError::OtherService);
        }
        let expires = self.check_times(&claims, now)?;
        let identity = self.identity(claims)?;
        Ok(VerifiedToken { identity, expires })
    }

    /// Returns from when on the token is refused.
    fn check_times(&self, claims: &Claims, now: SystemTime) -> Result<SystemTime, TokenError> {
        let exp = claims.exp.ok_or(TokenError::NoExpiry)?;
        let expires = time(exp)
            .checked_add(self.leeway)
            .ok_or(TokenError::Malformed)?;
        if expires <= now {
            return Err(TokenError::Expired);
        }
        let latest_start = now.checked_add(self.leeway).unwrap_or(now);
        if claims.nbf.is_some_and(|nbf| time(nbf) > latest_start) {
            return Err(TokenError::NotYetValid);
        }
        Ok(expires)
    }

    fn identity(&self, mut claims: Claims) -> Result<Identity, TokenError> {
        let identity = match claims.sub {
            Some(user) if !is_user_name(&user) => return Err(TokenError::InvalidUser),
            Some(user) if !user.is_empty() => Identity::user(user),
            _ => Identity::anonymous(),
        };
        let groups = claims.others.remove(&self.groups_claim);
        let groups: OneOrMany = groups
            .map_or_else(|| Ok(OneOrMany::default()), serde_json::from_value)
            .map_err(|_| TokenError::Malformed)?;
        let identity = identity.with_groups(groups.0);
        Ok(match claims.access {
            Some(access) => {
                let pulled = access
                    .into_iter()
                    .filter(|a| allows_pull(&a.kind, &a.actions));
                identity.with_scope(TokenScope::new(pulled.map(|access| access.name)))
            }
            None => identity,
        })
    }
}

/// What is read of a token's header. Keys in the header are not read at all.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    #[serde(default)]
    aud: OneOrMany,
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(default, deserialize_with = "access")]
    access: Option<Vec<Access>>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize)]
struct Access {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    actions: Vec<String>,
}

/// Reads the claim `access`. `null` is an empty list, as it is for Go's registry, and not the
/// absence of a limit.
fn access<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Access>>, D::Error> {
    Option::deserialize(deserializer).map(|access| Some(access.unwrap_or_default()))
}

/// A claim that is a text, a list of texts, or null.
#[derive(Default)]
struct OneOrMany(Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            One(String),
            Many(Vec<String>),
        }
        Ok(Self(match Option::deserialize(deserializer)? {
            Some(Form::One(text)) => vec![text],
            Some(Form::Many(texts)) => texts,
            None => Vec::new(),
        }))
    }
}

/// Returns the claims of a token whose signature is right.
fn verified_claims(keys: &KeySet, token: &str) -> Result<Claims, TokenError> {
    if token.len() > LONGEST_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    let header = header(token)?;
    let algorithm = asymmetric_algorithm(&header.alg).ok_or(TokenError::Algorithm)?;
    let id = header.kid.as_deref();
    if id.is_some_and(|id| !keys.has(id)) {
        return Err(unknown_key(id));
    }
    let validation = signature_only(algorithm);
    for key in keys.candidates(algorithm, id).take(MOST_TRIED_KEYS) {
        match jsonwebtoken::decode(token, key, &validation) {
            Ok(verified) => return Ok(verified.claims),
            Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
            Err(_) => return Err(TokenError::Malformed),
        }
    }
    // Without an ID, the token may be signed by a new key.
    Err(id.map_or(unknown_key(None), |_| TokenError::Signature))
}

fn unknown_key(id: Option<&str>) -> TokenError {
    let shorten = |id: &str| id.chars().take(LONGEST_SHOWN_ID).collect();
    TokenError::UnknownKey {
        kid: id.map(shorten),
    }
}

/// Returns what makes `jsonwebtoken` check the signature and the form of a token. It would compare
/// the times with the clock instead of with a given time, so the claims are checked here.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

fn header(token: &str) -> Result<TokenHeader, TokenError> {
    let mut parts = token.split('.');
    let (Some(header), Some(_), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Malformed);
    };
    let json = URL_SAFE_NO_PAD
        .decode(header)
        .map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}

/// Returns the time of a claim in seconds since 1970.
fn time(seconds: f64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs_f64(seconds.clamp(0.0, LATEST_SECONDS))
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
