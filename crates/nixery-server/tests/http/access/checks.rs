//! The checks of files before a start, and what a connection does with a login that is too long.

use std::time::Duration;

use nixery_server::config::table::{
    HTPASSWD, PKGS_PATH, POLICY, STORAGE_PATH, Setting, TLS_CERT, TLS_KEY, TOKEN_KEY, TOKEN_KEYS,
    TOKEN_REALM, TOKENS,
};
use nixery_server::config::{Arguments, Settings};
use nixery_server::limits::Limits;
use nixery_server::listen::bind;
use nixery_storage::error_chain;
use rstest::rstest;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Files, PASSWORDS};
use crate::listen::{LOCAL, MINUTE, receive, start_listener};

/// Checks settings whose files have these texts. A setting with a path or word has no file.
async fn check(values: &[(&'static Setting, &str)]) -> Result<Vec<String>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = |setting: &Setting| folder.path().join(setting.variable);
    let root = folder.path().to_str().unwrap();
    let arguments = Arguments::<Settings>::default()
        .with(PKGS_PATH, root)
        .with(STORAGE_PATH, root);
    let arguments = values.iter().fold(arguments, |all, (setting, text)| {
        if let Some(value) = text.strip_prefix('=') {
            return all.with(setting, value);
        }
        std::fs::write(path(setting), text).unwrap();
        all.with(setting, path(setting).to_str().unwrap())
    });
    let checked = nixery_server::check(&arguments).await;
    let checked = checked.map_err(|error| error_chain(&error).replace(root, "/folder"));
    checked.map(|(warnings, _)| warnings)
}

#[rstest]
#[case::password(
    &[(HTPASSWD, "alice:secret\n")],
    "the file /folder/NIXERY_HTPASSWD of NIXERY_HTPASSWD (--htpasswd) cannot be used. Fix: correct these lines:\nline 1: the password of the user `alice` is not hashed by bcrypt"
)]
#[case::token(&[(TOKENS, "ci:short\n")], "line 1: the token of `ci` has under 16 characters")]
#[case::policy(
    &[(POLICY, "[[allow]]\nwho = [\"*\"]\npackage = [\"*\"]\n\n[[deny]]\nwho = 5\n")],
    "line 3: "
)]
#[case::all_of_the_policy(&[(POLICY, "[[allow]]\nwho = []\nx = 1\ny = 1\n")], "line 4: ")]
#[case::missing(&[(HTPASSWD, "=/no/such/file")], "the file /no/such/file of NIXERY_HTPASSWD")]
#[case::key(
    &[(HTPASSWD, PASSWORDS), (TOKEN_REALM, "=self"), (TOKEN_KEY, "no key")],
    "tokens cannot be signed with the key of NIXERY_TOKEN_KEY"
)]
#[case::keys(
    &[(TOKEN_REALM, "=https://a.example/token"), (TOKEN_KEYS, "{\"keys\": []}")],
    "tokens cannot be verified with the keys of NIXERY_TOKEN_KEYS"
)]
#[case::certificate(&[(TLS_CERT, "none"), (TLS_KEY, "none")], "NIXERY_TLS_CERT")]
#[tokio::test]
async fn a_check_reports_files_that_cannot_be_used(
    #[case] values: &[(&'static Setting, &str)],
    #[case] expected: &str,
) {
    let message = check(values).await.unwrap_err();
    assert!(message.contains(expected), "{message}");
}

#[tokio::test]
async fn a_file_that_is_too_large_is_reported_as_such() {
    // The limit is inside of a character.
    let text = format!("#{}", "é".repeat(3 << 20));
    let message = check(&[(HTPASSWD, &text)]).await.unwrap_err();
    let expected = "the file /folder/NIXERY_HTPASSWD of NIXERY_HTPASSWD (--htpasswd) has over 4 MiB. Fix: correct the setting, or make the file smaller";
    assert!(message.contains(expected), "{message}");
}

#[tokio::test]
async fn a_check_of_valid_files_returns_warnings() {
    let policy = super::HTOP_FOR_BOB;
    let warnings = check(&[(HTPASSWD, PASSWORDS), (POLICY, policy)])
        .await
        .unwrap();
    assert!(
        warnings.iter().any(|one| one.contains("unencrypted")),
        "{warnings:?}"
    );
    // Keys at a URL are not loaded.
    let keys = [
        (TOKEN_REALM, "=https://a.example/token"),
        (TOKEN_KEYS, "=http://127.0.0.1:9/"),
    ];
    assert!(check(&keys).await.is_ok());
}

#[rstest]
#[case("Bearer ")]
#[case("Basic ")]
#[tokio::test]
async fn a_login_of_a_megabyte_is_refused(#[case] scheme: &str) {
    let registry = Files::with_own_tokens().registry().await;
    let listener = bind(LOCAL, 0).await.unwrap();
    let limits = Limits::for_descriptors(1024);
    let server = start_listener(&registry, listener.into(), limits, MINUTE);
    let request = format!(
        "GET /v2/git/manifests/latest HTTP/1.1\r\nHost: x\r\nAuthorization: {scheme}{}\r\n\r\n",
        "YTpi".repeat(250_000)
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // The server may close the connection first.
    let _ = stream.write_all(request.as_bytes()).await;
    let answer = tokio::time::timeout(Duration::from_secs(20), receive(stream))
        .await
        .unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    assert_eq!(registry.nix.evaluations(), 0);
    assert!(registry.state.builder().recent().is_empty());
}
