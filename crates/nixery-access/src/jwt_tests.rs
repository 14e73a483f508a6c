use std::sync::LazyLock;

use jsonwebtoken::EncodingKey;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::testing::{NOW, all_keys, now, private_key, public_key, sign, unsigned};

static KEYS: LazyLock<KeySet> =
    LazyLock::new(|| KeySet::parse(all_keys().to_string().as_bytes()).expect("it is a key set"));

static VALID: LazyLock<String> = LazyLock::new(|| token(&json!({})));

fn rules() -> TokenRules {
    TokenRules::new("registry.example")
}

/// Returns valid claims, with some of them replaced. `null` removes a claim.
fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "iss": "https://auth.example",
        "aud": "registry.example",
        "sub": "alice",
        "exp": NOW + 300,
    });
    for (name, value) in changes.as_object().expect("it is an object") {
        claims[name] = value.clone();
    }
    let claims = claims.as_object().expect("it is an object").clone();
    claims
        .into_iter()
        .filter(|(name, value)| !value.is_null() || name == "access")
        .collect()
}

/// Returns a token with changed claims that is signed by Ed25519.
fn token(changes: &Value) -> String {
    let header = json!({ "alg": "EdDSA", "kid": "EdDSA" });
    let algorithm = Algorithm::EdDSA;
    sign(
        algorithm,
        &private_key(algorithm),
        &header,
        &claims(changes),
    )
}

fn verify(token: &str) -> Result<VerifiedToken, TokenError> {
    rules().verify(&KEYS, token, now())
}

fn verify_changed(changes: &Value) -> Result<VerifiedToken, TokenError> {
    verify(&token(changes))
}

fn after(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn a_token_says_who_sends_it() {
    let verified = verify(&VALID).expect("the token is valid");
    assert_eq!(verified.identity, Identity::user("alice"));
    assert_eq!(verified.expires, after(NOW + 300 + 60));
}

#[rstest]
#[case(Algorithm::RS256)]
#[case(Algorithm::RS384)]
#[case(Algorithm::RS512)]
#[case(Algorithm::PS256)]
#[case(Algorithm::PS384)]
#[case(Algorithm::PS512)]
#[case(Algorithm::ES256)]
#[case(Algorithm::ES384)]
#[case(Algorithm::EdDSA)]
fn an_algorithm_with_a_public_key_is_accepted(#[case] algorithm: Algorithm) {
    let rsa = |name: &str| name.starts_with("RS") || name.starts_with("PS");
    let name = format!("{algorithm:?}");
    let kid = if rsa(&name) { "RS256" } else { &name };
    let key = private_key(algorithm);
    for header in [json!({ "alg": name, "kid": kid }), json!({ "alg": name })] {
        let token = sign(algorithm, &key, &header, &claims(&json!({})));
        assert!(verify(&token).is_ok(), "{header}");
        // The signature of another document does not fit.
        let message = unsigned(&header, &claims(&json!({ "sub": "bob" })));
        let (_, other) = token.rsplit_once('.').expect("it has a signature");
        let forged = verify(&format!("{message}.{other}")).expect_err("it is forged");
        let is_expected = matches!(
            forged,
            TokenError::Signature | TokenError::UnknownKey { .. }
        );
        assert!(is_expected, "{header}: {forged:?}");
    }
}

#[rstest]
#[case("none")]
#[case("None")]
#[case("NONE")]
#[case("nOnE")]
#[case("")]
#[case("ES512")]
#[case("RS1")]
#[case("HS256")]
#[case("HS384")]
#[case("HS512")]
#[case("eddsa")]
fn another_algorithm_is_refused(#[case] name: &str) {
    for header in [
        json!({ "alg": name, "kid": "EdDSA" }),
        json!({ "alg": name }),
    ] {
        let message = unsigned(&header, &claims(&json!({})));
        let (_, signature) = VALID.rsplit_once('.').expect("it has a signature");
        for token in [format!("{message}."), format!("{message}.{signature}")] {
            assert_eq!(verify(&token), Err(TokenError::Algorithm), "{header}");
        }
    }
}

#[test]
fn a_public_key_is_not_a_secret() {
    let key = public_key(Algorithm::EdDSA);
    let x = key["x"].as_str().expect("it has a point");
    let bytes = URL_SAFE_NO_PAD.decode(x).expect("it is base64");
    let document = key.to_string();
    for secret in [bytes.as_slice(), x.as_bytes(), document.as_bytes()] {
        let secret = EncodingKey::from_secret(secret).expect("it is not empty");
        for alg in ["HS256", "EdDSA"] {
            let header = json!({ "alg": alg, "kid": "EdDSA" });
            let token = sign(Algorithm::HS256, &secret, &header, &claims(&json!({})));
            assert!(verify(&token).is_err(), "{alg}");
        }
    }
}

#[rstest]
#[case("RS256", "ES256")]
#[case("ES256", "RS256")]
#[case("ES256", "ES384")]
#[case("ES384", "ES256")]
#[case("EdDSA", "ES256")]
#[case("ES256", "EdDSA")]
#[case("PS256", "EdDSA")]
fn a_key_of_another_kind_is_refused(#[case] alg: &str, #[case] kid: &str) {
    let algorithm = asymmetric_algorithm(alg).expect("it is an algorithm");
    let header = json!({ "alg": alg, "kid": kid });
    let token = sign(
        algorithm,
        &private_key(algorithm),
        &header,
        &claims(&json!({})),
    );
    assert_eq!(verify(&token), Err(TokenError::Signature));
}

#[test]
fn a_key_is_used_with_its_algorithm_only() {
    let mut key = public_key(Algorithm::RS256);
    key["alg"] = json!("RS512");
    key["kid"] = json!("rsa");
    let keys = json!({ "keys": [key] }).to_string();
    let keys = KeySet::parse(keys.as_bytes()).expect("it is a key set");
    for (name, is_accepted) in [("RS512", true), ("RS256", false), ("PS512", false)] {
        let algorithm = asymmetric_algorithm(name).expect("it is an algorithm");
        let header = json!({ "alg": name, "kid": "rsa" });
        let token = sign(
            algorithm,
            &private_key(algorithm),
            &header,
            &claims(&json!({})),
        );
        assert_eq!(
            rules().verify(&keys, &token, now()).is_ok(),
            is_accepted,
            "{name}"
        );
    }
}

/// A key that an attacker made.
fn foreign_key() -> (EncodingKey, Value) {
    use ed25519_dalek::pkcs8::EncodePrivateKey as _;
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
    let der = key.to_pkcs8_der().expect("it can be encoded");
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "EdDSA" });
    (EncodingKey::from_ed_der(der.as_bytes()), jwk)
}

#[rstest]
#[case::jwk("jwk", foreign_key().1)]
#[case::jku("jku", json!("https://attacker.example/keys.json"))]
#[case::x5u("x5u", json!("https://attacker.example/keys.pem"))]
#[case::x5c("x5c", json!(["MIIB"]))]
fn a_key_in_the_token_is_not_used(#[case] field: &str, #[case] value: Value) {
    let (foreign, _) = foreign_key();
    for kid in [Some("EdDSA"), None] {
        let mut header = json!({ "alg": "EdDSA", field: value });
        if let Some(kid) = kid {
            header["kid"] = json!(kid);
        }
        let forged = sign(Algorithm::EdDSA, &foreign, &header, &claims(&json!({})));
        let expected = match kid {
            Some(_) => TokenError::Signature,
            None => TokenError::UnknownKey { kid: None },
        };
        assert_eq!(verify(&forged), Err(expected));
        // The field does not matter if a known key has signed the token.
        let key = private_key(Algorithm::EdDSA);
        let token = sign(Algorithm::EdDSA, &key, &header, &claims(&json!({})));
        assert!(verify(&token).is_ok());
    }
}

#[test]
fn an_unknown_key_is_named() {
    let header = json!({ "alg": "EdDSA", "kid": "new\u{1b}\n" });
    let key = private_key(Algorithm::EdDSA);
    let error = verify(&sign(Algorithm::EdDSA, &key, &header, &claims(&json!({}))));
    let error = error.expect_err("the key is unknown");
    assert_eq!(
        error,
        TokenError::UnknownKey {
            kid: Some("new\u{1b}\n".to_owned())
        }
    );
    assert_eq!(
        error.to_string(),
        "the token is signed by an unknown key `new\\u{1b}\\n`"
    );
    let header = json!({ "alg": "EdDSA", "kid": "k".repeat(5000) });
    let error = verify(&format!("{}.", unsigned(&header, &json!({}))));
    assert_eq!(
        error,
        Err(TokenError::UnknownKey {
            kid: Some("k".repeat(64))
        })
    );
}

#[test]
fn without_an_id_some_keys_are_tried() {
    let (_, foreign) = foreign_key();
    let header = json!({ "alg": "EdDSA" });
    let key = private_key(Algorithm::EdDSA);
    let token = sign(Algorithm::EdDSA, &key, &header, &claims(&json!({})));
    for (others, is_accepted) in [(0, true), (7, true), (8, false)] {
        let mut keys = vec![foreign.clone(); others];
        keys.push(public_key(Algorithm::EdDSA));
        let keys = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes());
        let verified = rules().verify(&keys.expect("it is a key set"), &token, now());
        assert_eq!(verified.is_ok(), is_accepted, "{others}");
    }
}

#[rstest]
#[case::valid(NOW + 1, Ok(()))]
#[case::within_the_leeway(NOW - 59, Ok(()))]
#[case::beyond_the_leeway(NOW - 60, Err(TokenError::Expired))]
#[case::long_ago(0, Err(TokenError::Expired))]
#[case::in_the_far_future(u64::MAX, Ok(()))]
fn a_token_expires(#[case] exp: u64, #[case] expected: Result<(), TokenError>) {
    assert_eq!(verify_changed(&json!({ "exp": exp })).map(drop), expected);
}

#[rstest]
#[case::long_ago(0, Ok(()))]
#[case::now(NOW, Ok(()))]
#[case::within_the_leeway(NOW + 60, Ok(()))]
#[case::beyond_the_leeway(NOW + 61, Err(TokenError::NotYetValid))]
#[case::in_the_far_future(u64::MAX, Err(TokenError::NotYetValid))]
fn a_token_is_not_valid_before_its_time(
    #[case] nbf: u64,
    #[case] expected: Result<(), TokenError>,
) {
    assert_eq!(verify_changed(&json!({ "nbf": nbf })).map(drop), expected);
}

#[test]
fn times_may_be_fractions() {
    let verified = verify_changed(&json!({ "exp": NOW as f64 + 0.5, "nbf": NOW as f64 - 0.5 }));
    assert_eq!(
        verified.expect("the token is valid").expires,
        after(NOW + 60) + Duration::from_millis(500)
    );
    assert_eq!(
        verify_changed(&json!({ "exp": -1e300 })),
        Err(TokenError::Expired)
    );
    assert!(verify_changed(&json!({ "exp": 1e300, "nbf": -5 })).is_ok());
}

#[test]
fn without_leeway_times_are_exact() {
    let strict = TokenRules {
        leeway: Duration::ZERO,
        ..rules()
    };
    let verify = |exp| strict.verify(&KEYS, &token(&json!({ "exp": exp })), now());
    assert!(verify(NOW + 1).is_ok());
    assert_eq!(verify(NOW), Err(TokenError::Expired));
    let endless = TokenRules {
        leeway: Duration::MAX,
        ..rules()
    };
    assert!(endless.verify(&KEYS, &VALID, now()).is_err());
}

#[rstest]
#[case::one(json!("registry.example"), Ok(()))]
#[case::several(json!(["other.example", "registry.example"]), Ok(()))]
#[case::other(json!("other.example"), Err(TokenError::OtherService))]
#[case::others(json!(["other.example", "registry.example.com"]), Err(TokenError::OtherService))]
#[case::nobody(json!([]), Err(TokenError::OtherService))]
#[case::absent(Value::Null, Err(TokenError::OtherService))]
#[case::number(json!(1), Err(TokenError::Malformed))]
fn a_token_is_for_a_service(#[case] aud: Value, #[case] expected: Result<(), TokenError>) {
    assert_eq!(verify_changed(&json!({ "aud": aud })).map(drop), expected);
}

#[rstest]
#[case::same(json!("https://auth.example"), Ok(()))]
#[case::other(json!("https://auth.example/"), Err(TokenError::OtherIssuer))]
#[case::absent(Value::Null, Err(TokenError::OtherIssuer))]
#[case::list(json!(["https://auth.example"]), Err(TokenError::Malformed))]
fn a_token_is_of_an_issuer(#[case] iss: Value, #[case] expected: Result<(), TokenError>) {
    let token = token(&json!({ "iss": iss }));
    let rules = TokenRules {
        issuer: Some("https://auth.example".to_owned()),
        ..rules()
    };
    let verified = rules.verify(&KEYS, &token, now());
    assert_eq!(verified.map(drop), expected);
    // Without a required issuer, any is accepted.
    let is_malformed = expected == Err(TokenError::Malformed);
    assert_eq!(verify(&token).is_ok(), !is_malformed);
}

#[rstest]
#[case::no_expiry(json!({ "exp": null }), TokenError::NoExpiry)]
#[case::text_as_expiry(json!({ "exp": "1800000300" }), TokenError::Malformed)]
#[case::number_as_user(json!({ "sub": 5 }), TokenError::Malformed)]
#[case::control_character(json!({ "sub": "ali\nce" }), TokenError::InvalidUser)]
#[case::long_name(json!({ "sub": "a".repeat(129) }), TokenError::InvalidUser)]
#[case::access_as_text(json!({ "access": "repository:git:pull" }), TokenError::Malformed)]
#[case::actions_as_text(json!({ "access": [{ "actions": "pull" }] }), TokenError::Malformed)]
#[case::groups_as_number(json!({ "groups": 5 }), TokenError::Malformed)]
#[case::numbers_as_groups(json!({ "groups": ["a", 5] }), TokenError::Malformed)]
fn unusable_claims_are_refused(#[case] changes: Value, #[case] expected: TokenError) {
    assert_eq!(verify_changed(&changes), Err(expected));
}

#[rstest]
#[case("")]
#[case(".")]
#[case("..")]
#[case("...")]
#[case("a.b.c")]
#[case("e30.e30.e30")]
fn another_text_is_not_a_token(#[case] text: &str) {
    assert_eq!(verify(text), Err(TokenError::Malformed));
}

#[test]
fn a_token_with_other_parts_is_refused() {
    let parts: Vec<_> = VALID.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        panic!("it has three parts")
    };
    for (token, expected) in [
        (format!("{header}.{payload}"), TokenError::Malformed),
        (
            format!("{header}.{payload}.{signature}."),
            TokenError::Malformed,
        ),
        (
            format!("{header}.{payload}.{signature}.x"),
            TokenError::Malformed,
        ),
        (format!(".{payload}.{signature}"), TokenError::Malformed),
        (
            format!("{header}=.{payload}.{signature}"),
            TokenError::Malformed,
        ),
        (
            format!("{header}.{payload}.{signature}="),
            TokenError::Malformed,
        ),
        (format!("{header}..{signature}"), TokenError::Signature),
        (format!("{header}.{payload}."), TokenError::Signature),
        (
            format!(" {header}.{payload}.{signature}"),
            TokenError::Malformed,
        ),
    ] {
        assert_eq!(verify(&token), Err(expected), "{token}");
    }
}

#[test]
fn critical_extensions_are_refused() {
    let key = private_key(Algorithm::EdDSA);
    let header = json!({ "alg": "EdDSA", "kid": "EdDSA", "crit": ["exp"], "exp": 1 });
    let token = sign(Algorithm::EdDSA, &key, &header, &claims(&json!({})));
    assert_eq!(verify(&token), Err(TokenError::Malformed));
}

#[test]
fn a_claim_that_is_there_twice_is_refused() {
    let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
    let key = private_key(Algorithm::EdDSA);
    for (header, payload) in [
        (
            r#"{"alg":"EdDSA","kid":"EdDSA"}"#,
            r#"{"aud":"registry.example","exp":1800000300,"sub":"a","sub":"b"}"#,
        ),
        (
            r#"{"alg":"none","alg":"EdDSA","kid":"EdDSA"}"#,
            r#"{"aud":"registry.example","exp":1800000300}"#,
        ),
    ] {
        let message = format!("{}.{}", encode(header), encode(payload));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::EdDSA);
        let token = format!("{message}.{}", signature.expect("the key fits"));
        assert_eq!(verify(&token), Err(TokenError::Malformed), "{header}");
    }
}

#[test]
fn a_long_token_is_refused_before_it_is_parsed() {
    let long = token(&json!({ "padding": "x".repeat(13_000) }));
    assert!(long.len() > 17_000);
    assert_eq!(verify(&long), Err(TokenError::TooLong));
    assert_eq!(verify(&".".repeat(17_000)), Err(TokenError::TooLong));
    assert!(verify_changed(&json!({ "padding": "x".repeat(11_000) })).is_ok());
}

#[rstest]
#[case::absent(json!({}), None)]
#[case::null(json!({ "access": null }), Some(vec![]))]
#[case::empty(json!({ "access": [] }), Some(vec![]))]
#[case::pull(json!({ "access": [{ "type": "repository", "name": "git", "actions": ["pull"] }] }), Some(vec!["git"]))]
#[case::all(json!({ "access": [{ "type": "repository", "name": "git", "actions": ["*"] }] }), Some(vec!["git"]))]
#[case::push(json!({ "access": [{ "type": "repository", "name": "git", "actions": ["push", "delete"] }] }), Some(vec![]))]
#[case::other_type(json!({ "access": [{ "type": "registry", "name": "git", "actions": ["*"] }] }), Some(vec![]))]
#[case::no_actions(json!({ "access": [{ "type": "repository", "name": "git" }] }), Some(vec![]))]
#[case::several(
    json!({ "access": [
        { "type": "repository", "name": "shell/git", "actions": ["push", "pull"] },
        { "type": "repository", "class": "", "name": "curl", "actions": ["pull"] },
        { "type": "repository", "name": "jq", "actions": [] },
    ] }),
    Some(vec!["shell/git", "curl"])
)]
fn a_token_limits_its_bearer(#[case] changes: Value, #[case] expected: Option<Vec<&str>>) {
    let verified = verify_changed(&changes).expect("the token is valid");
    let names = |names: Vec<&str>| TokenScope::new(names.into_iter().map(str::to_owned));
    assert_eq!(verified.identity.scope().cloned(), expected.map(names));
}

#[rstest]
#[case::absent(Value::Null)]
#[case::empty(json!(""))]
fn without_a_user_the_scope_still_holds(#[case] sub: Value) {
    let access = json!([{ "type": "repository", "name": "git", "actions": ["pull"] }]);
    let verified = verify_changed(&json!({ "sub": sub, "access": access }));
    let identity = verified.expect("the token is valid").identity;
    assert!(identity.is_anonymous());
    let scope = identity.scope().expect("the token has a scope");
    assert!(scope.allows_pull("git"));
    assert!(!scope.allows_pull("curl"));
}

#[rstest]
#[case::list(json!(["b", "a"]), &["a", "b"])]
#[case::one(json!("a"), &["a"])]
#[case::none(json!([]), &[])]
#[case::null(Value::Null, &[])]
fn groups_are_a_claim(#[case] groups: Value, #[case] expected: &[&str]) {
    let claims = json!({ "roles": groups, "groups": ["of another service"] });
    let rules = TokenRules {
        groups_claim: "roles".to_owned(),
        ..rules()
    };
    let verified = rules.verify(&KEYS, &token(&claims), now());
    let identity = verified.expect("the token is valid").identity;
    assert_eq!(identity.groups().iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_token_with_any_changed_byte_is_refused() {
    for position in 0..VALID.len() {
        for flip in [1, 0x20] {
            let mut bytes = VALID.clone().into_bytes();
            bytes[position] ^= flip;
            let Ok(changed) = String::from_utf8(bytes) else {
                continue;
            };
            assert!(verify(&changed).is_err(), "{position}: {changed}");
        }
    }
}

proptest! {
    #[test]
    fn no_other_text_is_accepted(text in "(?s).{0,200}|[A-Za-z0-9_-]{0,50}\\.[A-Za-z0-9_-]{0,50}\\.[A-Za-z0-9_-]{0,86}") {
        prop_assert!(verify(&text).is_err());
    }

    #[test]
    fn no_changed_token_is_accepted(position in 0..VALID.len(), replacement in "[A-Za-z0-9_.=-]{0,3}", cut in 0..4_usize) {
        let end = VALID.len().min(position + cut);
        let changed = format!("{}{replacement}{}", &VALID[..position], &VALID[end..]);
        prop_assert_eq!(verify(&changed).is_ok(), changed == *VALID);
    }

    #[test]
    fn any_header_and_claims_without_a_signature_are_refused(
        algorithm in "none|HS256|RS256|ES256|ES384|EdDSA|[A-Za-z0-9]{0,5}",
        kid in "RS256|ES256|ES384|EdDSA|[a-z]{0,5}",
        signature in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let header = json!({ "alg": algorithm, "kid": kid });
        let signature = URL_SAFE_NO_PAD.encode(signature);
        let token = format!("{}.{signature}", unsigned(&header, &claims(&json!({}))));
        prop_assert!(verify(&token).is_err());
    }

    #[test]
    fn any_rsa_key_refuses_any_other_signature(
        modulus in proptest::collection::vec(any::<u8>(), 255..260),
        exponent in proptest::collection::vec(any::<u8>(), 1..6),
        algorithm in "(RS|PS)(256|384|512)",
        signature in proptest::collection::vec(any::<u8>(), 250..260),
    ) {
        let encode = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        let key = json!({ "kty": "RSA", "n": encode(modulus), "e": encode(exponent) });
        if let Ok(keys) = KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()) {
            let message = unsigned(&json!({ "alg": algorithm }), &claims(&json!({})));
            let token = format!("{message}.{}", encode(signature));
            prop_assert!(rules().verify(&keys, &token, now()).is_err());
        }
    }
}
