//! The token flow of the distribution specification, with this server as the issuer.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nixery_access::{Identity, Issuer};
use nixery_server::config::table::POLICY;
use rstest::rstest;
use serde_json::json;

use super::{ALICE, BOB, CI_TOKEN, Files, HTOP_FOR_BOB, basic, bearer, get, layer, pull};
use crate::registry::Registry;

const MINUTE: Duration = Duration::from_secs(60);
const ALL_SCOPES: &str = "/token?service=nixery&scope=repository:git:pull,push&scope=repository:htop:pull%20repository:jq:pull";

/// Returns the token of a successful answer.
async fn token(registry: &Registry, path: &str, credentials: &str) -> String {
    let answer = get(registry, path, credentials).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store");
    let json = answer.json();
    assert_eq!(json["token"], json["access_token"]);
    assert_eq!(json["expires_in"], 300);
    json["token"].as_str().unwrap().to_owned()
}

/// The issuer of the server, as it is after a restart.
fn issuer() -> Issuer {
    let key = include_str!("../../../../nixery-access/tests/keys/ed25519.pem");
    Issuer::from_pem("nixery".to_owned(), key).unwrap()
}

/// Returns a token of alice for git, which becomes valid after `start` seconds, for a minute.
fn token_at(service: &str, start: i64) -> String {
    let start_from = SystemTime::now();
    let offset = Duration::from_secs(start.unsigned_abs());
    let now = if start < 0 {
        start_from - offset
    } else {
        start_from + offset
    };
    issuer().issue(&Identity::user("alice"), service, &["git"], MINUTE, now)
}

#[rstest]
#[case::password(&basic(ALICE))]
#[case::static_token(&basic(("ci", CI_TOKEN)))]
#[tokio::test]
async fn a_client_gets_a_token_and_pulls_with_it(#[case] login: &str) {
    let registry = Files::with_own_tokens().registry().await;
    let refused = pull(&registry, "git", "").await;
    assert_eq!(refused.status, 401);
    let challenge = "Bearer realm=\"http://registry.test:5000/token\",service=\"nixery\",scope=\"repository:git:pull\"";
    assert_eq!(refused.header("www-authenticate"), challenge);
    let path = "/token?account=alice&service=nixery&scope=repository:git:pull";
    let token = bearer(&token(&registry, path, login).await);
    let manifest = pull(&registry, "git", &token).await;
    let blob = format!("/v2/git/blobs/{}", layer(&manifest));
    assert_eq!(get(&registry, &blob, &token).await.status, 200);
    assert_eq!(get(&registry, "/v2/", &token).await.status, 200);
    // A password without a token is accepted as well.
    assert_eq!(pull(&registry, "git", login).await.status, 200);
    // Another repository needs another token, which the challenge says.
    let (evaluations, other) = (
        registry.nix.evaluations(),
        pull(&registry, "htop", &token).await,
    );
    assert_eq!(other.status, 401);
    let challenge = other.header("www-authenticate");
    let expected = "scope=\"repository:htop:pull\",error=\"insufficient_scope\"";
    assert!(challenge.contains(expected), "{challenge}");
    assert_eq!(registry.nix.evaluations(), evaluations);
}

#[rstest]
#[case::nobody("/token?service=nixery", "", 401)]
#[case::wrong_password("/token?service=nixery", &basic(("alice", "wrong")), 401)]
#[case::another_service("/token?service=other", &basic(ALICE), 400)]
#[case::malformed_scope("/token?scope=git", &basic(ALICE), 400)]
#[tokio::test]
async fn others_get_no_token(#[case] path: &str, #[case] login: &str, #[case] expected: u16) {
    let registry = Files::with_own_tokens().registry().await;
    let answer = get(&registry, path, login).await;
    assert_eq!(answer.status, expected, "{}", answer.text());
    if expected == 401 {
        // A token would not help to get a token.
        assert!(answer.header("www-authenticate").starts_with("Basic "));
    }
}

#[tokio::test]
async fn a_token_has_what_the_policy_allows_of_its_scope() {
    let registry = Files::with_own_tokens()
        .with(POLICY, HTOP_FOR_BOB)
        .registry()
        .await;
    let bob = bearer(&token(&registry, ALL_SCOPES, &basic(BOB)).await);
    assert_eq!(pull(&registry, "htop", &bob).await.status, 200);
    // Another token would not help.
    let (status, code, message) = pull(&registry, "git", &bob).await.error();
    assert_eq!((status, code.as_str()), (403, "DENIED"));
    assert!(message.contains("`git`"), "{message}");
    let alice = bearer(&token(&registry, ALL_SCOPES, &basic(ALICE)).await);
    for image in ["git", "htop", "jq"] {
        assert_eq!(pull(&registry, image, &alice).await.status, 200, "{image}");
    }
    assert_eq!(get(&registry, "/token", "").await.status, 401);
}

#[tokio::test]
async fn nobody_gets_tokens_for_what_nobody_may_pull() {
    let policy = "[[allow]]\nwho = [\"anonymous\"]\npackages = [\"git\"]";
    let registry = Files::with_own_tokens()
        .with(POLICY, policy)
        .registry()
        .await;
    assert_eq!(pull(&registry, "git", "").await.status, 200);
    let nobody = bearer(&token(&registry, ALL_SCOPES, "").await);
    assert_eq!(get(&registry, "/v2/", &nobody).await.status, 200);
    assert_eq!(pull(&registry, "git", &nobody).await.status, 200);
    assert_eq!(pull(&registry, "htop", &nobody).await.status, 401);
}

/// A user who is removed must not keep access for longer than a token is valid.
#[tokio::test]
async fn a_token_cannot_be_renewed_without_a_password() {
    let registry = Files::with_own_tokens().registry().await;
    let path = "/token?service=nixery&scope=repository:git:pull";
    let first = bearer(&token(&registry, path, &basic(ALICE)).await);
    let (status, code, message) = get(&registry, path, &first).await.error();
    assert_eq!((status, code.as_str()), (401, "UNAUTHORIZED"));
    assert!(message.contains("cannot be exchanged"), "{message}");
}

#[rstest]
#[case::valid(token_at("nixery", 0), None)]
#[case::clock_of_the_issuer_is_late(token_at("nixery", -100), None)]
#[case::clock_of_the_issuer_is_early(token_at("nixery", 50), None)]
#[case::expired(token_at("nixery", -121), Some("the token has expired. Fix: get a new one"))]
#[case::not_yet_valid(token_at("nixery", 70), Some("the token is not valid yet. Fix:"))]
#[case::another_service(token_at("other", 0), Some("`aud` does not name this service"))]
#[case::another_issuer(
    {
        let key = include_str!("../../../../nixery-access/tests/keys/ed25519.pem");
        let other = Issuer::from_pem("other".to_owned(), key).unwrap();
        other.issue(&Identity::user("alice"), "nixery", &["git"], MINUTE, SystemTime::now())
    },
    Some("`iss` is not the issuer")
)]
#[case::another_key(
    {
        let other = Issuer::generate("nixery".to_owned()).unwrap();
        other.issue(&Identity::user("alice"), "nixery", &["git"], MINUTE, SystemTime::now())
    },
    Some("signed by an unknown key")
)]
#[case::no_algorithm(unsigned("none"), Some("an algorithm that is not accepted. Fix:"))]
#[case::symmetric(unsigned("HS256"), Some("an algorithm that is not accepted. Fix:"))]
#[case::changed(changed(), Some("the token's signature is wrong"))]
#[case::malformed("a.b.c".to_owned(), Some("the token is malformed"))]
#[case::long("a".repeat(1 << 20), Some("the token has over 16 KiB"))]
#[tokio::test]
async fn a_token_is_verified(#[case] token: String, #[case] expected: Option<&str>) {
    let registry = Files::with_own_tokens().registry().await;
    let answer = pull(&registry, "git", &bearer(&token)).await;
    let Some(expected) = expected else {
        assert_eq!(answer.status, 200, "{}", answer.text());
        return;
    };
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (401, "UNAUTHORIZED"));
    assert!(message.contains(expected), "{message}");
    let challenge = answer.header("www-authenticate");
    assert!(
        challenge.contains(",error=\"invalid_token\",error_description=\""),
        "{challenge}"
    );
    assert_eq!(registry.nix.evaluations(), 0);
}

/// A token of alice that nobody has signed.
fn unsigned(algorithm: &str) -> String {
    let claims =
        json!({"iss": "nixery", "sub": "alice", "aud": "nixery", "exp": 9_999_999_999_u64});
    let parts = [json!({"alg": algorithm, "typ": "JWT"}), claims];
    let parts = parts.map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    parts.join(".") + "."
}

/// A token whose claims were changed after it was signed.
fn changed() -> String {
    let token = token_at("nixery", 0);
    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    let claims = URL_SAFE_NO_PAD.decode(&parts[1]).unwrap();
    let claims = String::from_utf8(claims).unwrap().replace("alice", "admin");
    parts[1] = URL_SAFE_NO_PAD.encode(claims);
    parts.join(".")
}

/// What is kept in memory about a token ends with the token.
#[tokio::test]
async fn a_token_that_was_accepted_is_refused_after_its_end() {
    let registry = Files::with_own_tokens().registry().await;
    // It ends in four to five seconds, with the time that clocks may differ.
    let token = bearer(&token_at("nixery", -115));
    assert_eq!(pull(&registry, "git", &token).await.status, 200);
    assert_eq!(pull(&registry, "git", &token).await.status, 200);
    tokio::time::sleep(Duration::from_millis(5100)).await;
    let (status, _, message) = pull(&registry, "git", &token).await.error();
    assert_eq!(status, 401);
    assert!(message.contains("expired"), "{message}");
}

/// Clients of a server that was restarted have many tokens of an earlier key.
#[tokio::test]
async fn tokens_of_earlier_keys_do_not_lock_an_address_out() {
    let registry = Files::with_own_tokens().registry().await;
    for number in 0..150 {
        let before = Issuer::generate(format!("nixery-{number}")).unwrap();
        let user = Identity::user("alice");
        let token = before.issue(&user, "nixery", &["git"], MINUTE, SystemTime::now());
        let expected = if number < 100 { 401 } else { 429 };
        let answer = pull(&registry, "git", &bearer(&token)).await;
        assert_eq!(answer.status, expected);
    }
    let valid = bearer(&token_at("nixery", 0));
    assert_eq!(pull(&registry, "git", &valid).await.status, 200);
}

/// The signature of such a token is verified, so that the limit comes before that work.
#[rstest]
#[case::wrong_signature(changed(), 10)]
#[case::no_key_id(without_key_id(), 100)]
#[tokio::test]
async fn tokens_that_cost_work_are_limited(#[case] token: String, #[case] allowed: usize) {
    let registry = Files::with_own_tokens().registry().await;
    let known = bearer(&token_at("nixery", 0));
    assert_eq!(pull(&registry, "git", &known).await.status, 200);
    for _ in 0..allowed {
        assert_eq!(pull(&registry, "git", &bearer(&token)).await.status, 401);
    }
    assert_eq!(pull(&registry, "git", &bearer(&token)).await.status, 429);
    let valid = bearer(&token_at("nixery", 10));
    assert_eq!(pull(&registry, "git", &valid).await.status, 429);
    // Those that were verified before are not affected, nor are passwords.
    assert_eq!(pull(&registry, "git", &known).await.status, 200);
    assert_eq!(pull(&registry, "git", &basic(ALICE)).await.status, 200);
}

/// A token whose key ID was removed after it was signed.
fn without_key_id() -> String {
    let token = token_at("nixery", 0);
    let (_, rest) = token.split_once('.').unwrap();
    let header = json!({"alg": "EdDSA", "typ": "JWT"});
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
}

/// Returns the path that asks for a token with scopes, each in a parameter of its own.
fn path_of(names: impl Iterator<Item = String>) -> String {
    names.fold("/token?service=nixery".to_owned(), |path, name| {
        path + "&scope=repository:" + &name + ":pull"
    })
}

#[tokio::test]
async fn equal_scopes_are_in_a_token_once() {
    let registry = Files::with_own_tokens().registry().await;
    let names = ["htop", "git", "htop"].map(str::to_owned);
    let token = token(&registry, &path_of(names.into_iter()), &basic(ALICE)).await;
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap());
    let claims: serde_json::Value = serde_json::from_slice(&claims.unwrap()).unwrap();
    let access = ["git", "htop"]
        .map(|name| json!({"type": "repository", "name": name, "actions": ["pull"]}));
    assert_eq!(claims["access"], json!(access));
}

#[rstest]
#[case::many(64, 1, None)]
#[case::too_many(
    65,
    1,
    Some("the scope has over 64 resources. Fix: ask for them one after")
)]
#[case::too_long(
    64,
    240,
    Some("the token would have over 16 KiB, which this server does not")
)]
#[tokio::test]
async fn a_token_has_a_limited_size(
    #[case] count: usize,
    #[case] length: usize,
    #[case] expected: Option<&str>,
) {
    let registry = Files::with_own_tokens().registry().await;
    let names = (0..count).map(|number| "a".repeat(length) + &number.to_string());
    let answer = get(&registry, &path_of(names), &basic(ALICE)).await;
    let Some(expected) = expected else {
        assert_eq!(answer.status, 200, "{}", answer.text());
        return;
    };
    let (status, _, message) = answer.error();
    assert_eq!(status, 400);
    assert!(message.starts_with(expected), "{message}");
}
