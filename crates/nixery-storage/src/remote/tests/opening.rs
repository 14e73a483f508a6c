//! Tests of opening, checking and signing.

use std::time::{Duration, Instant};

use rstest::rstest;

use super::blob;
use super::server::{Fault, SECRET, Server};
use crate::{
    GcsConfig, RemoteStorage, S3Addressing, S3Config, S3Credentials, Storage, StorageError,
};

#[rstest]
#[case(
    Fault::Answer(403, "<Error><Code>AccessDenied</Code></Error>"),
    "grant them"
)]
#[case(
    Fault::Answer(403, "<Error><Code>RequestTimeTooSkewed</Code></Error>"),
    "set the clock"
)]
#[case(
    Fault::Answer(403, "<Error><Code>InvalidAccessKeyId</Code></Error>"),
    "replace them"
)]
#[case(
    Fault::Answer(404, "<Error><Code>NoSuchBucket</Code></Error>"),
    "create it"
)]
#[case(
    Fault::Answer(301, "<Error><Code>PermanentRedirect</Code></Error>"),
    "set the region"
)]
#[case(Fault::Answer(500, ""), "answered 500")]
#[case(Fault::Reset, "could not be reached")]
#[case(Fault::Silent, "did not answer")]
#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_what_to_do(#[case] fault: Fault, #[case] hint: &str) {
    let server = Server::start().await;
    server.state().always = Some(("GET", fault));
    let config = S3Config {
        limits: crate::RemoteLimits::default(),
        ..server.config()
    };
    let start = Instant::now();
    let error = RemoteStorage::open_s3(config)
        .unwrap()
        .check()
        .await
        .unwrap_err();
    assert!(
        start.elapsed() < Duration::from_secs(6),
        "{:?}",
        start.elapsed()
    );
    let message = error.to_string();
    assert!(message.contains(hint), "{message}");
    assert!(
        message.contains("bucket `bucket` at http://127.0.0.1"),
        "{message}"
    );
    assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_without_usable_credentials_says_so() {
    let server = Server::start().await;
    let key =
        r#"{"type":"service_account","client_email":"a@example.org","private_key":"a-secret"}"#;
    let file = super::spool(key.as_bytes());
    let storage = RemoteStorage::open_gcs(GcsConfig {
        bucket: "bucket".to_owned(),
        endpoint: Some(server.endpoint.clone()),
        credential_file: Some(file.path().to_owned()),
        ..GcsConfig::default()
    });
    let error = storage.unwrap().check().await.unwrap_err();
    assert!(
        error.to_string().contains("no credentials were found"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("a-secret"), "{error:?}");
    assert_eq!(server.state().log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_leaves_nothing() {
    let server = Server::start().await;
    server.storage().check().await.unwrap();
    assert!(server.state().objects.is_empty());
    assert_eq!((server.count("PUT"), server.count("DELETE")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_said_quickly() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let storage = RemoteStorage::open_gcs(GcsConfig {
        bucket: "b".to_owned(),
        endpoint: Some(endpoint),
        anonymous: true,
        ..GcsConfig::default()
    });
    let start = Instant::now();
    let error = storage.unwrap().check().await.unwrap_err();
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert!(
        error.to_string().contains("could not be reached"),
        "{error}"
    );
}

fn credentials() -> Option<S3Credentials> {
    Some(S3Credentials {
        access_key_id: "access".to_owned(),
        secret_access_key: SECRET.to_owned(),
        session_token: Some("a-secret-token".to_owned()),
    })
}

#[test]
fn debug_output_hides_secrets() {
    let config = S3Config {
        credentials: credentials(),
        bucket: "b".to_owned(),
        region: Some("r".to_owned()),
        ..S3Config::default()
    };
    let shown = format!(
        "{config:?} {:?}",
        RemoteStorage::open_s3(config.clone()).unwrap()
    );
    assert!(shown.contains("access"), "{shown}");
    assert!(
        !shown.contains(SECRET) && !shown.contains("a-secret-token"),
        "{shown}"
    );
}

#[tokio::test]
async fn urls_are_signed_for_the_public_host() {
    let config = S3Config {
        bucket: "bucket".to_owned(),
        prefix: "a/b".to_owned(),
        endpoint: Some("http://127.0.0.1:1".to_owned()),
        public_endpoint: Some("https://store.example.org".to_owned()),
        credentials: credentials(),
        ..S3Config::default()
    };
    let storage = RemoteStorage::open_s3(config.clone()).unwrap();
    let key = blob(b"x");
    let url = storage
        .presign_get(&key, Duration::from_secs(60))
        .await
        .unwrap()
        .unwrap();
    assert!(
        url.starts_with(&format!("https://store.example.org/bucket/a/b/{key}?")),
        "{url}"
    );
    assert!(
        url.contains("X-Amz-Signature=") && url.contains("X-Amz-Expires=60"),
        "{url}"
    );
    assert!(!url.contains(SECRET), "{url}");
    let anonymous = RemoteStorage::open_s3(S3Config {
        anonymous: true,
        ..config
    })
    .unwrap();
    assert_eq!(
        anonymous
            .presign_get(&key, Duration::from_secs(60))
            .await
            .unwrap(),
        None
    );
}

#[rstest]
#[case(
    S3Addressing::Path,
    None,
    None,
    "https://s3.eu-west-1.amazonaws.com/bucket/a/b/"
)]
#[case(
    S3Addressing::Virtual,
    None,
    None,
    "https://bucket.s3.eu-west-1.amazonaws.com/a/b/"
)]
#[case(S3Addressing::Path, Some("http://h:1"), None, "http://h:1/bucket/a/b/")]
#[case(
    S3Addressing::Virtual,
    Some("http://h:1"),
    None,
    "http://bucket.h:1/a/b/"
)]
#[case(
    S3Addressing::Path,
    Some("http://h:1"),
    Some("https://p"),
    "https://p/bucket/a/b/"
)]
fn public_urls_of_s3(
    #[case] addressing: S3Addressing,
    #[case] endpoint: Option<&str>,
    #[case] public: Option<&str>,
    #[case] base: &str,
) {
    let storage = RemoteStorage::open_s3(S3Config {
        bucket: "bucket".to_owned(),
        prefix: "a/b".to_owned(),
        endpoint: endpoint.map(str::to_owned),
        public_endpoint: public.map(str::to_owned),
        region: Some("eu-west-1".to_owned()),
        addressing,
        anonymous: true,
        ..S3Config::default()
    });
    let key = blob(b"x");
    assert_eq!(
        storage.unwrap().public_url(&key),
        Some(format!("{base}{key}"))
    );
}

#[rstest]
#[case(None, "", "https://storage.googleapis.com/bucket/")]
#[case(Some("http://h:1/"), "a", "http://h:1/bucket/a/")]
fn public_urls_of_gcs(#[case] endpoint: Option<&str>, #[case] prefix: &str, #[case] base: &str) {
    let storage = RemoteStorage::open_gcs(GcsConfig {
        bucket: "bucket".to_owned(),
        prefix: prefix.to_owned(),
        endpoint: endpoint.map(str::to_owned),
        anonymous: true,
        ..GcsConfig::default()
    });
    let key = blob(b"x");
    assert_eq!(
        storage.unwrap().public_url(&key),
        Some(format!("{base}{key}"))
    );
}

#[rstest]
#[case("not JSON: a-secret", "cannot be read")]
#[case("", "cannot be read")]
fn a_bad_key_file_is_named_and_not_quoted(#[case] content: &str, #[case] hint: &str) {
    let file = super::spool(content.as_bytes());
    let error = RemoteStorage::open_gcs(GcsConfig {
        bucket: "bucket".to_owned(),
        credential_file: Some(file.path().to_owned()),
        ..GcsConfig::default()
    })
    .unwrap_err();
    assert!(matches!(error, StorageError::Open { .. }), "{error:?}");
    assert!(error.to_string().contains(hint), "{error}");
    assert!(!format!("{error:?}").contains("a-secret"), "{error:?}");
}

/// The registry serves what a bucket has, if it may not write to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_refuses_writes_is_read_only() {
    let server = Server::start().await;
    let storage = RemoteStorage::open_s3(server.config()).unwrap();
    storage.check().await.unwrap();
    assert!(!storage.is_read_only());
    let refused = Fault::Answer(403, "<Error><Code>AccessDenied</Code></Error>");
    server.state().always = Some(("PUT", refused));
    storage.check().await.unwrap();
    assert!(storage.is_read_only());
    server.state().always = None;
    storage.check().await.unwrap();
    assert!(!storage.is_read_only());
}
