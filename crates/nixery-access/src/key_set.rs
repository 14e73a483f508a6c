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

/// Why a document is not a key set.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{all_keys, public_key};

    fn parse(keys: &Value) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn keys_of_all_kinds_are_parsed() {
        let keys = KeySet::parse(all_keys().to_string().as_bytes()).expect("it is a key set");
        assert_eq!(keys.len(), 4);
        assert!(!keys.is_empty());
        for id in ["RS256", "ES256", "ES384", "EdDSA"] {
            assert!(keys.has(id), "{id}");
        }
        assert!(!keys.has("PS256"));
        let ids = r#"KeySet([Some("RS256"), Some("ES256"), Some("ES384"), Some("EdDSA")])"#;
        assert_eq!(format!("{keys:?}"), ids);
    }

    /// Returns a public key with changed fields. `null` removes a field.
    fn changed(algorithm: Algorithm, changes: &Value) -> Value {
        let mut key = public_key(algorithm);
        for (name, value) in changes.as_object().expect("it is an object") {
            key[name] = value.clone();
        }
        let fields = key.as_object().expect("it is an object").clone();
        fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect()
    }

    #[rstest]
    #[case::for_signatures(Algorithm::EdDSA, json!({ "use": "sig" }))]
    #[case::to_verify(Algorithm::EdDSA, json!({ "key_ops": ["sign", "verify"] }))]
    #[case::with_its_algorithm(Algorithm::ES384, json!({ "alg": "ES384" }))]
    #[case::with_other_fields(Algorithm::RS256, json!({ "x5c": ["MIIB"], "issuer": 5 }))]
    fn a_key_that_verifies_tokens_is_kept(#[case] algorithm: Algorithm, #[case] changes: Value) {
        let keys = parse(&json!([changed(algorithm, &changes)])).expect("the key is usable");
        assert_eq!(keys.len(), 1);
    }

    #[rstest]
    #[case::for_encryption(Algorithm::EdDSA, json!({ "use": "enc" }))]
    #[case::to_encrypt(Algorithm::RS256, json!({ "key_ops": ["encrypt"] }))]
    #[case::unknown_kind(Algorithm::EdDSA, json!({ "kty": "AKP" }))]
    #[case::no_kind(Algorithm::EdDSA, json!({ "kty": null }))]
    #[case::symmetric(Algorithm::EdDSA, json!({ "kty": "oct", "k": "AAAA" }))]
    #[case::symmetric_algorithm(Algorithm::RS256, json!({ "alg": "HS256" }))]
    #[case::no_algorithm(Algorithm::RS256, json!({ "alg": "none" }))]
    #[case::algorithm_of_another_kind(Algorithm::RS256, json!({ "alg": "ES256" }))]
    #[case::encryption_algorithm(Algorithm::RS256, json!({ "alg": "RSA-OAEP" }))]
    #[case::small(Algorithm::RS256, json!({ "n": URL_SAFE_NO_PAD.encode([0xff; 255]) }))]
    #[case::small_with_zeros(
        Algorithm::RS256,
        json!({ "n": URL_SAFE_NO_PAD.encode([[0; 8], [0xff; 8]].concat().repeat(16)) })
    )]
    #[case::great(Algorithm::RS256, json!({ "n": URL_SAFE_NO_PAD.encode([0xff; 1025]) }))]
    #[case::no_exponent(Algorithm::RS256, json!({ "e": null }))]
    #[case::exponent_0(Algorithm::RS256, json!({ "e": "" }))]
    #[case::exponent_1(Algorithm::RS256, json!({ "e": "AQ" }))]
    #[case::even_exponent(Algorithm::RS256, json!({ "e": "AQAA" }))]
    #[case::great_exponent(Algorithm::RS256, json!({ "e": URL_SAFE_NO_PAD.encode([0xff; 6]) }))]
    #[case::not_base64(Algorithm::RS256, json!({ "n": "?" }))]
    #[case::other_curve(Algorithm::ES256, json!({ "crv": "P-521" }))]
    #[case::curve_of_another_size(Algorithm::ES256, json!({ "crv": "P-384" }))]
    #[case::not_on_the_curve(Algorithm::ES256, json!({ "x": URL_SAFE_NO_PAD.encode([1; 32]) }))]
    #[case::half_a_point(Algorithm::ES256, json!({ "y": null }))]
    #[case::shifted_point(
        Algorithm::ES256,
        json!({ "x": URL_SAFE_NO_PAD.encode([1; 31]), "y": URL_SAFE_NO_PAD.encode([1; 33]) })
    )]
    #[case::x25519(Algorithm::EdDSA, json!({ "crv": "X25519" }))]
    #[case::ed448(Algorithm::EdDSA, json!({ "crv": "Ed448" }))]
    #[case::short_point(Algorithm::EdDSA, json!({ "x": URL_SAFE_NO_PAD.encode([1; 31]) }))]
    #[case::long_point(Algorithm::EdDSA, json!({ "x": URL_SAFE_NO_PAD.encode([1; 33]) }))]
    #[case::empty_point(Algorithm::EdDSA, json!({ "x": "" }))]
    #[case::number_as_id(Algorithm::EdDSA, json!({ "kid": 5 }))]
    fn another_key_is_skipped(#[case] algorithm: Algorithm, #[case] changes: Value) {
        let key = changed(algorithm, &changes);
        let error = parse(&json!([key])).expect_err("no key is usable");
        assert!(matches!(error, KeySetError::NoUsableKey), "{error}");
        let keys = parse(&json!([key, 5, public_key(Algorithm::ES256)]));
        assert_eq!(keys.expect("one key is usable").len(), 1);
    }

    #[rstest]
    #[case("")]
    #[case("[]")]
    #[case("{}")]
    #[case(r#"{"keys":5}"#)]
    #[case("<html>")]
    fn another_document_is_refused(#[case] json: &str) {
        let error = KeySet::parse(json.as_bytes()).expect_err("it is not a key set");
        assert!(matches!(error, KeySetError::Malformed(_)), "{error}");
    }

    #[test]
    fn a_set_without_keys_is_refused() {
        let error = parse(&json!([])).expect_err("it has no keys");
        assert!(
            error
                .to_string()
                .contains("no key that verifies tokens. Fix: add")
        );
    }

    #[test]
    fn sizes_are_limited() {
        let keys = |count| vec![public_key(Algorithm::EdDSA); count];
        assert_eq!(
            parse(&json!(keys(64))).map(|keys| keys.len()).ok(),
            Some(64)
        );
        let error = parse(&json!(keys(65))).expect_err("it has too many keys");
        assert!(matches!(error, KeySetError::TooManyKeys), "{error}");
        let error = KeySet::parse(&vec![b' '; (256 << 10) + 1]).expect_err("it is too long");
        assert_eq!(error.to_string(), "the key set has over 256 KiB");
    }

    proptest! {
        #[test]
        fn any_document_is_parsed_or_refused(json in "(?s).{0,200}") {
            let _ = KeySet::parse(json.as_bytes());
        }

        #[test]
        fn any_key_is_kept_or_skipped(
            kty in "RSA|EC|OKP|oct|",
            crv in "P-256|P-384|Ed25519|",
            numbers in proptest::array::uniform4("[A-Za-z0-9_-]{0,100}"),
        ) {
            let [n, e, x, y] = numbers;
            let _ = parse(&json!([{ "kty": kty, "crv": crv, "n": n, "e": e, "x": x, "y": y }]));
        }
    }
}
