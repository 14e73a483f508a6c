//! Logins, pull secrets and refusals in each client.
//!
//! `docs/troubleshooting.md` has a table of what the clients print.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nixery_e2e::{LoginClient, Transport};
use rstest::rstest;
use serde_json::json;

use crate::guarded::{ALICE, CI, Guarded, LIMITED, Logins, PUBLIC, URSULA, assert_refused};

const WRONG: &str = "the user and the password, or the token, are wrong";
const NOT_LOGGED_IN: &str = "you have not logged in. Fix: log in, for example with `docker login`";
const DENIED_PACKAGE: &str = "you may not pull the package `htop`";
const DENIED_TAG: &str = "you may not pull the tag `other`";
const NO_MORE_BUILDS: &str = "you have started as many builds as you may in an hour (1)";

/// Asserts that a client may not pull an image, that it prints the words, and that the registry ran
/// nothing.
#[track_caller]
fn assert_not_pulled(guarded: &Guarded, client: &LoginClient, image: (&str, &str), words: &str) {
    let reference = guarded.reference(image.0, image.1);
    let said = guarded.without_nix(|| client.pull(&reference)).failure();
    assert!(said.contains(words), "{reference}: no {words:?} in\n{said}");
}

/// What a client prints when it pulls without a login.
fn without_login(client: &str, logins: Logins) -> &'static str {
    match (client, logins) {
        // It sends no request without credentials, if the registry asks for a password.
        ("docker", Logins::Basic) => "no basic auth credentials",
        _ => NOT_LOGGED_IN,
    }
}

/// What a client prints about a login with a wrong password.
fn wrong_login(client: &str, logins: Logins) -> &'static str {
    match (client, logins) {
        ("docker", Logins::Basic) => "failed with status: 401 Unauthorized",
        ("docker", Logins::Tokens) => WRONG,
        _ => "invalid username/password",
    }
}

#[rstest]
#[ignore = "needs Nix, git and clients: run make test"]
fn who_may_not_pull_is_refused_in_words(
    #[values("skopeo", "podman", "docker", "ctr")] name: &str,
    #[values(Logins::Basic, Logins::Tokens)] logins: Logins,
) {
    let guarded = Guarded::start(logins);
    let host = guarded.registry.host();
    let mut client = LoginClient::start(name, Transport::Plain);
    let hello = ("hello", "latest");
    assert_not_pulled(&guarded, &client, hello, without_login(name, logins));

    for (user, password) in [
        (ALICE.0, "wrong"),
        ("nobody", ALICE.1),
        ("ursula", URSULA.1),
    ] {
        match client.log_in(&host, user, password) {
            Some(ran) => {
                let said = ran.failure();
                assert!(said.contains(wrong_login(name, logins)), "{said}");
            }
            None => assert_not_pulled(&guarded, &client, hello, WRONG),
        }
    }

    log_in(&mut client, &host, ALICE);
    client.pull(&guarded.reference("hello", "latest")).success();
    client.pull(&guarded.reference("hello", "trunk")).success();
    assert_not_pulled(&guarded, &client, ("htop", "latest"), DENIED_PACKAGE);
    assert_not_pulled(&guarded, &client, ("hello", "other"), DENIED_TAG);

    client.log_out(&host);
    assert_not_pulled(&guarded, &client, hello, without_login(name, logins));
    for user in [URSULA, CI] {
        log_in(&mut client, &host, user);
        client.pull(&guarded.reference("hello", "latest")).success();
    }
}

#[track_caller]
fn log_in(client: &mut LoginClient, host: &str, (user, password): (&str, &str)) {
    if let Some(ran) = client.log_in(host, user, password) {
        ran.success();
    }
}

#[rstest]
#[ignore = "needs Nix, git and clients: run make test"]
fn a_pull_secret_is_read(
    #[values("skopeo", "podman", "docker")] name: &str,
    #[values(Logins::Basic, Logins::Tokens)] logins: Logins,
) {
    let guarded = Guarded::start(logins);
    let host = guarded.registry.host();
    let client = LoginClient::start(name, Transport::Plain);
    let (user, password) = ALICE;
    let secret = |password: &str| {
        let auth = STANDARD.encode(format!("{user}:{password}"));
        json!({ "username": user, "password": password, "auth": auth })
    };
    client.use_pull_secret(&host, &secret("wrong"));
    assert_not_pulled(&guarded, &client, ("hello", "latest"), WRONG);
    client.use_pull_secret(&host, &secret(password));
    client.pull(&guarded.reference("hello", "latest")).success();
    assert_not_pulled(&guarded, &client, ("htop", "latest"), DENIED_PACKAGE);
}

#[rstest]
#[ignore = "needs Nix, git and clients: run make test"]
fn nobody_logs_in_for_a_public_image(#[values("skopeo", "podman", "docker", "ctr")] name: &str) {
    let guarded = Guarded::with(Logins::Tokens, PUBLIC, &[]);
    let client = LoginClient::start(name, Transport::Plain);
    client.pull(&guarded.reference("hello", "latest")).success();
    assert_not_pulled(&guarded, &client, ("htop", "latest"), NOT_LOGGED_IN);
}

#[rstest]
#[ignore = "needs Nix, git and clients: run make test"]
fn a_user_starts_no_more_builds_than_allowed(
    // skopeo asks again for half a minute before it prints the message, podman for two minutes.
    #[values("skopeo", "docker", "ctr")] name: &str,
    #[values(Logins::Basic, Logins::Tokens)] logins: Logins,
) {
    let guarded = Guarded::start(logins);
    let mut client = LoginClient::start(name, Transport::Plain);
    log_in(&mut client, &guarded.registry.host(), LIMITED);
    client.pull(&guarded.reference("git", "latest")).success();
    assert_not_pulled(&guarded, &client, ("htop", "latest"), NO_MORE_BUILDS);
    // An image that is built needs no build.
    client.pull(&guarded.reference("git", "latest")).success();
}

#[rstest]
#[ignore = "needs Nix and git: run make test"]
fn refusals_have_a_status_and_a_code(#[values(Logins::Basic, Logins::Tokens)] logins: Logins) {
    let guarded = Guarded::start(logins);
    let wrong = (ALICE.0, "wrong");
    let nobody = ("nobody", ALICE.1);
    guarded.without_nix(|| {
        for (user, image, tag, status, code, words) in [
            (None, "hello", "latest", 401, "UNAUTHORIZED", NOT_LOGGED_IN),
            (Some(wrong), "hello", "latest", 401, "UNAUTHORIZED", WRONG),
            (Some(nobody), "hello", "latest", 401, "UNAUTHORIZED", WRONG),
            (Some(ALICE), "htop", "latest", 403, "DENIED", DENIED_PACKAGE),
            (Some(ALICE), "hello", "other", 403, "DENIED", DENIED_TAG),
        ] {
            let answer = guarded.manifest(user, image, tag);
            assert_refused(&answer, status, code, words);
            let challenge = answer.header("www-authenticate");
            let scheme = match logins {
                Logins::Basic => "Basic realm=\"Nixery\"",
                Logins::Tokens => "Bearer realm=\"http://127.0.0.1:",
            };
            let is_challenged = challenge.is_some_and(|text| text.starts_with(scheme));
            assert_eq!(is_challenged, status == 401, "{challenge:?}");
        }
    });
    assert_eq!(guarded.manifest(Some(CI), "git", "latest").status, 200);
    let answer = guarded.without_nix(|| guarded.manifest(Some(CI), "htop", "latest"));
    assert_refused(&answer, 429, "TOOMANYREQUESTS", NO_MORE_BUILDS);
    // Clients would wait for the hour.
    assert_eq!(answer.header("retry-after"), None);
}
