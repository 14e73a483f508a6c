//! Passwords and static tokens.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::ConnectInfo;
use futures::future::join_all;
use http::Method;
use nixery_server::config::table::{POLICY, TOKEN_REALM};
use rstest::rstest;
use tracing_subscriber::fmt::MakeWriter;

use super::{ALICE, BOB, CI_TOKEN, Files, HTOP_FOR_BOB, basic, bearer, get, pull};
use crate::registry::{Answer, Registry, request};

const CHALLENGE: &str = "Basic realm=\"Nixery\", charset=\"UTF-8\"";

#[rstest]
#[case::password(&basic(ALICE))]
#[case::other_user(&basic(BOB))]
#[case::token(&bearer(CI_TOKEN))]
#[case::token_as_password(&basic(("ci", CI_TOKEN)))]
#[tokio::test]
async fn who_logs_in_may_pull_everything_without_a_policy(#[case] credentials: &str) {
    let registry = Files::with_users().registry().await;
    assert_eq!(get(&registry, "/v2/", credentials).await.status, 200);
    let manifest = pull(&registry, "git", credentials).await;
    let path = format!("/v2/git/blobs/{}", super::layer(&manifest));
    assert_eq!(get(&registry, &path, credentials).await.status, 200);
    // Again, from memory.
    assert_eq!(pull(&registry, "git", credentials).await.status, 200);
}

#[rstest]
#[case::nobody(
    "",
    "you may not pull images from this registry: you have not logged in. Fix: log in, for"
)]
#[case::empty(
    "Basic Og==",
    "you may not pull images from this registry: you have not logged in. Fix: log in, for"
)]
#[case::wrong_password(&basic(("alice", "U*U*")), "the user and the password, or the token, are wrong. Fix: log in again")]
#[case::no_password(&basic(("alice", "")), "are wrong. Fix: log in again")]
#[case::unknown_user(&basic(("mallory", "U*U")), "are wrong. Fix: log in again")]
#[case::long_password(&basic(("alice", &"U*U".repeat(100_000))), "are wrong. Fix: log in again")]
#[case::token_of_another(&basic(("alice", CI_TOKEN)), "are wrong. Fix: log in again")]
#[case::unknown_token(&bearer("0123456789abcdef"), "are wrong. Fix: log in again")]
#[case::password_as_token(&bearer("U*U"), "are wrong. Fix: log in again")]
#[case::malformed("Basic ???", "the `Authorization` header is malformed. Fix:")]
#[case::another_scheme("Digest a=b", "another scheme than Basic and Bearer. Fix:")]
#[tokio::test]
async fn others_get_a_challenge_and_cause_nothing(
    #[case] credentials: &str,
    #[case] expected: &str,
) {
    let registry = Files::with_users().registry().await;
    let answer = pull(&registry, "git", credentials).await;
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (401, "UNAUTHORIZED"));
    assert!(message.contains(expected), "{message}");
    assert_eq!(answer.header("www-authenticate"), CHALLENGE);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(get(&registry, "/v2/", credentials).await.status, 401);
    assert_eq!(registry.nix.evaluations(), 0);
    assert!(registry.state.builder().recent().is_empty());
}

#[tokio::test]
async fn an_unknown_user_gets_the_answer_of_a_wrong_password() {
    let registry = Files::with_users().registry().await;
    let one = pull(&registry, "git", &basic(("alice", "wrong"))).await;
    let other = pull(&registry, "git", &basic(("mallory", "wrong"))).await;
    assert_eq!(one.headers, other.headers);
    assert_eq!((one.status, one.body), (other.status, other.body));
}

#[tokio::test]
async fn a_request_with_two_logins_is_refused() {
    let registry = Files::with_users().registry().await;
    let alice = basic(ALICE);
    let both = [("authorization", alice.as_str()), ("authorization", &alice)];
    let answer = registry.get_with("/v2/git/manifests/latest", &both).await;
    let (status, _, message) = answer.error();
    assert_eq!(status, 401);
    assert!(message.contains("several `Authorization` headers. Fix: send one"));
}

/// Pulls git from an address.
async fn pull_from(registry: &Registry, peer: &str, credentials: &str) -> Answer {
    let headers = [("authorization", credentials)];
    let mut request = request(Method::GET, "/v2/git/manifests/latest", &headers);
    let peer: SocketAddr = peer.parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
    registry.ask(request).await
}

#[tokio::test(start_paused = true)]
async fn failed_logins_are_limited_for_a_user_of_an_address() {
    let registry = Files::with_users().registry().await;
    let (hostile, other) = ("192.0.2.1:1", "192.0.2.2:1");
    // It is verified now, and then known.
    assert_eq!(
        pull_from(&registry, hostile, &basic(ALICE)).await.status,
        200
    );
    for number in 0..9 {
        let wrong = basic(("alice", &format!("wrong {number}")));
        assert_eq!(pull_from(&registry, hostile, &wrong).await.status, 401);
    }
    let refused = pull_from(&registry, hostile, &basic(("alice", "wrong"))).await;
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=61).contains(&seconds), "{seconds}");
    let (status, code, message) = refused.error();
    assert_eq!((status, code.as_str()), (429, "TOOMANYREQUESTS"));
    assert!(message.contains("too many attempts to log in from your address. Fix: try again in"));
    // Others, other users and those who have logged in are not affected.
    assert_eq!(
        pull_from(&registry, hostile, &basic(ALICE)).await.status,
        200
    );
    assert_eq!(pull_from(&registry, hostile, &basic(BOB)).await.status, 200);
    let wrong = basic(("alice", "wrong"));
    assert_eq!(pull_from(&registry, other, &wrong).await.status, 401);
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    assert_eq!(pull_from(&registry, hostile, &wrong).await.status, 401);
}

#[tokio::test]
async fn equal_wrong_logins_at_once_are_one_attempt() {
    let registry = Files::with_users().registry().await;
    let wrong = basic(("alice", "wrong"));
    let answers = (0..100).map(|_| pull_from(&registry, "192.0.2.1:1", &wrong));
    let answers = join_all(answers).await;
    let count = |status: u16| {
        answers
            .iter()
            .filter(|answer| answer.status == status)
            .count()
    };
    assert_eq!((count(401), count(429)), (100, 0));
    // A client that repeats a wrong password does not lock out its user.
    for number in 0..8 {
        let wrong = basic(("alice", &format!("wrong {number}")));
        assert_eq!(
            pull_from(&registry, "192.0.2.1:1", &wrong).await.status,
            401
        );
    }
    let alice = pull_from(&registry, "192.0.2.1:1", &basic(ALICE)).await;
    assert_eq!(alice.status, 200);
}

#[tokio::test]
async fn equal_right_logins_at_once_are_one_attempt() {
    let registry = Files::with_users().registry().await;
    let alice = basic(ALICE);
    let answers = (0..100).map(|_| pull_from(&registry, "192.0.2.1:1", &alice));
    let answers = join_all(answers).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
}

/// The right token gets the answer of the wrong ones, so that guessing is of no use.
#[rstest]
#[case::bearer(bearer)]
#[case::as_password(|token: &str| basic(("ci", token)))]
#[tokio::test(start_paused = true)]
async fn guesses_of_tokens_are_refused(#[case] login: fn(&str) -> String) {
    let registry = Files::with_users().registry().await;
    let hostile = "192.0.2.1:1";
    for number in 0..20 {
        let unknown = login(&format!("0123456789abcdef-{number}"));
        let expected = if number < 10 { 401 } else { 429 };
        let answer = pull_from(&registry, hostile, &unknown).await;
        assert_eq!(answer.status, expected);
    }
    let right = login(CI_TOKEN);
    assert_eq!(pull_from(&registry, hostile, &right).await.status, 429);
    let other = pull_from(&registry, "192.0.2.2:1", &right).await;
    assert_eq!(other.status, 200);
    // It is in memory now.
    assert_eq!(pull_from(&registry, hostile, &right).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_used_before_the_guesses_is_accepted() {
    let registry = Files::with_users().registry().await;
    let ci = bearer(CI_TOKEN);
    assert_eq!(pull(&registry, "git", &ci).await.status, 200);
    for number in 0..10 {
        let unknown = bearer(&format!("0123456789abcdef-{number}"));
        assert_eq!(pull(&registry, "git", &unknown).await.status, 401);
    }
    assert_eq!(pull(&registry, "git", &ci).await.status, 200);
}

#[rstest]
#[case::nobody_may_pull(Files::with_users(), 401)]
#[case::some_users_may_pull(Files::with_policy(HTOP_FOR_BOB), 401)]
#[case::everybody_may_pull(
    Files::with_policy("[[allow]]\nwho = [\"anonymous\"]\npackages = [\"git\"]"),
    200
)]
#[case::with_tokens(
    Files::with_own_tokens().with(POLICY, "[[allow]]\nwho = [\"anonymous\"]\npackages = [\"git\"]"),
    401
)]
#[case::without_logins(
    Files::none().with(POLICY, "[[allow]]\nwho = [\"anonymous\"]\npackages = [\"git\"]"),
    200
)]
#[case::nobody_at_all(Files::none().with(POLICY, ""), 403)]
#[tokio::test]
async fn the_start_of_the_api_says_whether_a_login_is_needed(
    #[case] files: Files,
    #[case] expected: u16,
) {
    let registry = files.registry().await;
    let answer = get(&registry, "/v2/", "").await;
    assert_eq!(answer.status, expected);
    assert_eq!(
        answer.headers.contains_key("www-authenticate"),
        expected == 401
    );
    assert_eq!(
        answer.header("docker-distribution-api-version"),
        "registry/2.0"
    );
}

/// Where nobody can log in, credentials that a client sends all the same have no effect.
#[tokio::test]
async fn credentials_have_no_effect_without_users() {
    let open = Registry::new().await;
    assert_eq!(
        pull(&open, "git", &basic(("alice", "wrong"))).await.status,
        200
    );
    assert_eq!(pull(&open, "git", "Digest a").await.status, 200);
    let without_realm = Files::with_users().set(TOKEN_REALM, "");
    assert_eq!(
        get(&without_realm.registry().await, "/token", &basic(ALICE))
            .await
            .status,
        404
    );
}

/// Collects log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn the_access_log_names_the_address_and_the_user() {
    let registry = Files::with_users().registry().await;
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(lines.clone());
    // With one dispatcher alone, `tracing` asks that of whichever thread logs a line first, and
    // remembers for all threads that nobody wants the line.
    let _second = tracing::Dispatch::new(tracing_subscriber::fmt().finish());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    pull_from(&registry, "192.0.2.1:1", &basic(ALICE)).await;
    pull_from(&registry, "192.0.2.2:1", &basic(("alice", "hunter2"))).await;
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let line = |address: &str| text.lines().find(|line| line.contains(address)).unwrap();
    assert!(
        line("address=192.0.2.1").contains("user=\"alice\""),
        "{text}"
    );
    let refused = line("address=192.0.2.2");
    assert!(
        refused.contains("status=401") && !refused.contains("alice"),
        "{text}"
    );
    assert!(!text.contains("U*U") && !text.contains("hunter2"), "{text}");
}
