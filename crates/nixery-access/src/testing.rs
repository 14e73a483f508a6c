//! Keys and tokens for tests. The private keys are used nowhere else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

/// The time of the tests, in seconds since 1970.
pub(crate) const NOW: u64 = 1_800_000_000;

/// The private key of `openssl genpkey -algorithm ed25519`.
pub(crate) const ED25519_PEM: &str = include_str!("../tests/keys/ed25519.pem");

pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn der(pem: &str) -> Vec<u8> {
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    STANDARD
        .decode(lines.collect::<String>())
        .expect("a PEM file has base64")
}

/// Returns the private key for an algorithm.
pub(crate) fn private_key(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_der(&der(include_str!("../tests/keys/p256.pem"))),
        Algorithm::ES384 => EncodingKey::from_ec_der(&der(include_str!("../tests/keys/p384.pem"))),
        Algorithm::EdDSA => EncodingKey::from_ed_der(&der(ED25519_PEM)),
        _ => EncodingKey::from_rsa_der(&der(include_str!("../tests/keys/rsa.pem"))),
    }
}

/// Returns the public key for an algorithm as a JSON Web Key without an ID.
pub(crate) fn public_key(algorithm: Algorithm) -> Value {
    let jwk = Jwk::from_encoding_key(&private_key(algorithm), algorithm).expect("the key is valid");
    let mut jwk = serde_json::to_value(jwk).expect("it is JSON");
    jwk.as_object_mut().expect("it is an object").remove("alg");
    jwk
}

/// Returns the public keys of all kinds, whose IDs are `RS256`, `ES256`, `ES384` and `EdDSA`.
pub(crate) fn all_keys() -> Value {
    let algorithms = [
        Algorithm::RS256,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ];
    let keys = algorithms.map(|algorithm| {
        let mut key = public_key(algorithm);
        key["kid"] = json!(format!("{algorithm:?}"));
        key
    });
    json!({ "keys": keys })
}

/// Returns the parts of a token before its signature.
pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

/// Signs a token by an algorithm, whatever its header says.
pub(crate) fn sign(
    algorithm: Algorithm,
    key: &EncodingKey,
    header: &Value,
    claims: &Value,
) -> String {
    let message = unsigned(header, claims);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm);
    format!("{message}.{}", signature.expect("the key fits"))
}
