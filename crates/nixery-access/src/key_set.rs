//! The public keys of a service that issues tokens.

use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

const LONGEST_SET_BYTES: usize = 256 << 10;
const MOST_KEYS: usize = 64;

/// The sizes of RSA keys: NIST SP 800-131A forbids smaller ones, and the verification does not
/// support greater ones.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

/// The public keys of a service that issues tokens, as a JSON Web Key Set (RFC 7517).
#[derive(Clone)]
pub struct KeySet {
    keys: Vec<PublicKey>,
}

/// A document is not a set of keys.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// The document is too long.
    #[error("the key set has over {} KiB", LONGEST_SET_BYTES >> 10)]
    TooLong,
    /// The document has too many keys.
    #[error("the key set has over {MOST_KEYS} keys")]
    TooManyKeys,
    /// The document is not JSON, or has no list of keys.
    #[error("the key set is not a JSON Web Key Set: {0}")]
    Malformed(#[from] serde_json::Error),
    /// No key verifies tokens.
    #[error(
        "the key set has no key that verifies tokens. Fix: add a public key that is RSA with \
         2048 to 8192 bits, EC on P-256 or P-384, or OKP on Ed25519, and whose `use` is `sig`"
    )]
    NoUsableKey,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

#[derive(Clone)]
struct PublicKey {
    id: Option<String>,
    kind: KeyKind,
    /// The only algorithm that its owner uses it with.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl KeySet {
    /// Parses a key set. Keys that do not verify tokens are skipped.
    ///
    /// # Errors
    /// If the document is not a key set, is too long, or has too many keys or none that verifies
    /// tokens.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        if json.len() > LONGEST_SET_BYTES {
            return Err(KeySetError::TooLong);
        }
        let set: JsonKeySet = serde_json::from_slice(json)?;
        if set.keys.len() > MOST_KEYS {
            return Err(KeySetError::TooManyKeys);
        }
        let keys: Vec<_> = set.keys.into_iter().filter_map(PublicKey::new).collect();
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey);
        }
        Ok(Self { keys })
    }

    /// Whether a key has this ID (`kid`).
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// Returns the number of keys that verify tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no keys. A parsed set has at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the keys that may have signed a token with this algorithm and key ID.
    pub(crate) fn candidates<'a>(
        &'a self,
        algorithm: Algorithm,
        id: Option<&'a str>,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        let fits = move |key: &&PublicKey| {
            KeyKind::of(algorithm) == Some(key.kind)
                && key.algorithm.is_none_or(|only| only == algorithm)
                && (id.is_none() || key.id.as_deref() == id)
        };
        self.keys.iter().filter(fits).map(|key| &key.key)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| key.id.as_deref());
        f.debug_tuple("KeySet")
            .field(&ids.collect::<Vec<_>>())
            .finish()
    }
}

impl KeyKind {
    /// Returns the kind of key that an algorithm needs, or `None` for one that is never accepted.
    fn of(algorithm: Algorithm) -> Option<Self> {
        match algorithm {
            Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => Some(Self::Rsa),
            Algorithm::PS256 | Algorithm::PS384 | Algorithm::PS512 => Some(Self::Rsa),
            Algorithm::ES256 => Some(Self::P256),
            Algorithm::ES384 => Some(Self::P384),
            Algorithm::EdDSA => Some(Self::Ed25519),
            _ => None,
        }
    }

    /// Returns an algorithm that needs a key of this kind.
    fn algorithm(self) -> Algorithm {
        match self {
            Self::Rsa => Algorithm::RS256,
            Self::P256 => Algorithm::ES256,
            Self::P384 => Algorithm::ES384,
            Self::Ed25519 => Algorithm::EdDSA,
        }
    }
}

/// Returns an algorithm by its name in a token or key, if tokens may use it.
pub(crate) fn asymmetric_algorithm(name: &str) -> Option<Algorithm> {
    let algorithm = name.parse().ok()?;
    KeyKind::of(algorithm).map(|_| algorithm)
}

#[derive(Deserialize)]
struct JsonKeySet {
    /// Any values, because other kinds of keys have fields of other types.
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct JsonKey {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl PublicKey {
    /// Returns the key of a JSON value, if it is one that verifies tokens.
    fn new(json: serde_json::Value) -> Option<Self> {
        let json: JsonKey = serde_json::from_value(json).ok()?;
        let has_purpose = json.purpose.as_deref().is_none_or(|name| name == "sig");
        let verify = |operations: &[String]| operations.iter().any(|name| name == "verify");
        if !has_purpose || !json.key_ops.as_deref().is_none_or(verify) {
            return None;
        }
        let (kind, key) = json.key()?;
        let algorithm = match json.alg.as_deref() {
            Some(name) => {
                Some(asymmetric_algorithm(name).filter(|a| KeyKind::of(*a) == Some(kind))?)
            }
            None => None,
        };
        // Fails if the key is malformed, such as a point that is not on its curve.
        jsonwebtoken::crypto::verify("", b"", &key, kind.algorithm()).ok()?;
        Some(Self {
            id: json.kid,
            kind,
            algorithm,
            key,
        })
    }
}

impl JsonKey {
    fn key(&self) -> Option<(KeyKind, DecodingKey)> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (decode(self.n.as_deref()?)?, decode(self.e.as_deref()?)?);
                let is_usable = RSA_BITS.contains(&bits(&n)) && is_public_exponent(&e);
                let key = DecodingKey::from_rsa_raw_components(&n, &e);
                is_usable.then_some((KeyKind::Rsa, key))
            }
            ("EC", Some("P-256")) => Some((KeyKind::P256, self.point(32)?)),
            ("EC", Some("P-384")) => Some((KeyKind::P384, self.point(48)?)),
            ("OKP", Some("Ed25519")) => {
                let x = decode(self.x.as_deref()?)?;
                let key = DecodingKey::from_ed_der(&x);
                (x.len() == 32).then_some((KeyKind::Ed25519, key))
            }
            _ => None,
        }
    }

    /// Returns the key of a point, each of whose coordinates has `length` bytes.
    fn point(&self, length: usize) -> Option<DecodingKey> {
        let (x, y) = (decode(self.x.as_deref()?)?, decode(self.y.as_deref()?)?);
        // 4 marks an uncompressed point (SEC 1).
        let point = [&[4], x.as_slice(), &y].concat();
        (x.len() == length && y.len() == length).then(|| DecodingKey::from_ec_der(&point))
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// The number of bits of a big-endian integer without its leading zeros.
fn bits(integer: &[u8]) -> usize {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    integer.get(zeros).map_or(0, |first| {
        (integer.len() - zeros) * 8 - first.leading_zeros() as usize
    })
}

/// Whether an RSA exponent is odd and between 3 and 33 bits long, as the verification requires.
fn is_public_exponent(exponent: &[u8]) -> bool {
    (2..=33).contains(&bits(exponent)) && exponent.last().is_some_and(|byte| byte % 2 == 1)
}
