//! The credentials of a request, in its `Authorization` header (RFC 9110, section 11.6.2).

use std::fmt;

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::Sha256;

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a client sends to say who it is. `Debug` shows no secrets.
#[derive(PartialEq, Eq)]
pub(super) enum Credentials {
    /// A user and a password (RFC 7617).
    Basic { user: String, password: Vec<u8> },
    /// A token (RFC 6750).
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic",
            Self::Bearer(_) => "Bearer",
        })
    }
}

/// Why a header has no credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CredentialsError {
    #[error("the request has several `Authorization` headers. Fix: send one")]
    Several,
    #[error(
        "the `Authorization` header has another scheme than Basic and Bearer. Fix: send a user with a password, or a token"
    )]
    Scheme,
    #[error(
        "the `Authorization` header is malformed. Fix: after `Basic`, send `USER:PASSWORD` in base64"
    )]
    Malformed,
}

/// Returns the credentials of a request, if it has some. Empty ones, which some clients send
/// without a login, count as none.
pub(super) fn find(headers: &HeaderMap) -> Result<Option<Credentials>, CredentialsError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(CredentialsError::Several);
    }
    let value = value.to_str().map_err(|_| CredentialsError::Malformed)?;
    let (scheme, value) = value.split_once(' ').unwrap_or((value, ""));
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok((!value.is_empty()).then(|| Credentials::Bearer(value.to_owned())));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(CredentialsError::Scheme);
    }
    let bytes = BASE64.decode(value);
    let bytes = bytes.map_err(|_| CredentialsError::Malformed)?;
    let colon = bytes.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or(CredentialsError::Malformed)?;
    let user = std::str::from_utf8(&bytes[..colon]);
    let user = user.map_err(|_| CredentialsError::Malformed)?;
    if user.contains(char::is_control) {
        return Err(CredentialsError::Malformed);
    }
    let password = bytes[colon + 1..].to_vec();
    let is_empty = user.is_empty() && password.is_empty();
    Ok((!is_empty).then(|| Credentials::Basic {
        user: user.to_owned(),
        password,
    }))
}

/// Stands for credentials in memory. It cannot be reversed without a key of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

/// Makes fingerprints, with a key of its own.
pub(super) struct Fingerprints(Hmac<Sha256>);

impl fmt::Debug for Fingerprints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fingerprints").finish_non_exhaustive()
    }
}

impl Default for Fingerprints {
    fn default() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system has random bytes");
        Self(Hmac::new_from_slice(&key).expect("a key of any length is allowed"))
    }
}

impl Fingerprints {
    /// Returns the fingerprint of credentials.
    pub(super) fn of(&self, credentials: &Credentials) -> Fingerprint {
        let hmac = self.0.clone();
        let hmac = match credentials {
            // A user has no control characters, so that the parts are separate.
            Credentials::Basic { user, password } => {
                let hmac = hmac.chain_update(b"basic\0").chain_update(user);
                hmac.chain_update(b"\0").chain_update(password)
            }
            Credentials::Bearer(token) => hmac.chain_update(b"bearer\0").chain_update(token),
        };
        Fingerprint(hmac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use rstest::rstest;

    use super::*;

    fn found(values: &[&str]) -> Result<Option<Credentials>, CredentialsError> {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            headers.append(AUTHORIZATION, value);
        }
        find(&headers)
    }

    fn basic(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Basic {
            user: user.to_owned(),
            password: password.into(),
        })
    }

    #[rstest]
    #[case::none(&[], None)]
    #[case::basic(&["Basic YWxpY2U6c2VjcmV0"], basic("alice", "secret"))]
    #[case::any_case(&["bAsIc YWxpY2U6c2VjcmV0"], basic("alice", "secret"))]
    #[case::colons(&["Basic YTpiOmM="], basic("a", "b:c"))]
    #[case::no_padding(&["Basic YTpiOmM"], basic("a", "b:c"))]
    #[case::no_password(&["Basic YTo="], basic("a", ""))]
    #[case::empty(&["Basic Og=="], None)]
    #[case::bearer(&["Bearer abc.def"], Some(Credentials::Bearer("abc.def".into())))]
    #[case::empty_bearer(&["Bearer"], None)]
    fn credentials_are_found(#[case] values: &[&str], #[case] expected: Option<Credentials>) {
        assert_eq!(found(values), Ok(expected));
    }

    #[rstest]
    #[case::several(&["Basic YTpi", "Basic YTpi"], CredentialsError::Several)]
    #[case::scheme(&["Digest a"], CredentialsError::Scheme)]
    #[case::no_scheme(&["YTpi"], CredentialsError::Scheme)]
    #[case::no_base64(&["Basic !"], CredentialsError::Malformed)]
    #[case::no_colon(&["Basic YQ=="], CredentialsError::Malformed)]
    #[case::control(&["Basic YQo6Yg=="], CredentialsError::Malformed)]
    #[case::not_utf8(&["Basic /zpi"], CredentialsError::Malformed)]
    fn other_headers_are_refused(#[case] values: &[&str], #[case] expected: CredentialsError) {
        assert_eq!(found(values), Err(expected));
    }

    #[test]
    fn different_credentials_have_different_fingerprints() {
        let fingerprints = Fingerprints::default();
        let all = [
            basic("a", "b"),
            basic("a", "c"),
            basic("", "a"),
            Some(Credentials::Bearer("a\0b".into())),
        ];
        let of = |fingerprints: &Fingerprints| {
            let all = all.iter().flatten();
            all.map(|one| fingerprints.of(one)).collect::<Vec<_>>()
        };
        let before = of(&fingerprints);
        assert_eq!(before, of(&fingerprints));
        for (index, one) in before.iter().enumerate() {
            assert!(!before[..index].contains(one));
        }
        assert_ne!(before, of(&Fingerprints::default()), "each has a key");
    }
}
