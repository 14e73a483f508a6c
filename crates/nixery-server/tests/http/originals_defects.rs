//! What the original gets wrong over HTTP; each test fails on its behaviour.

use http::StatusCode;
use nixery_manifest::Digest;
use nixery_storage::Key;

use crate::registry::Registry;

#[tokio::test]
async fn a_missing_blob_is_not_an_empty_200() {
    let registry = Registry::new().await;
    let (digest, _) = registry.layer("git").await;
    registry.storage.delete(&Key::blob(digest)).await.unwrap();
    for digest in [digest, Digest::of(b"never there")] {
        let path = format!("/v2/git/blobs/{digest}");
        assert_eq!(registry.get(&path).await.error().1, "BLOB_UNKNOWN");
        assert_eq!(registry.head(&path).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn headers_are_set_before_the_status_is_sent() {
    let registry = Registry::new().await;
    let (digest, _) = registry.layer("git").await;
    for path in [
        "/v2/".to_owned(),
        "/v2/git/manifests/latest".to_owned(),
        format!("/v2/git/blobs/{digest}"),
        "/v2/missing/manifests/latest".to_owned(),
    ] {
        let answer = registry.get(&path).await;
        assert!(answer.headers.contains_key("content-type"), "{path}");
        assert_eq!(
            answer.header("docker-distribution-api-version"),
            "registry/2.0",
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_ns_parameter_of_mirrors_is_not_a_404() {
    let registry = Registry::new().await;
    let (digest, _) = registry.layer("git").await;
    for path in [
        "/v2/?ns=docker.io".to_owned(),
        "/v2/git/manifests/latest?ns=docker.io".to_owned(),
        format!("/v2/git/blobs/{digest}?ns=docker.io"),
        "/v2/git/tags/list?ns=docker.io&unknown".to_owned(),
    ] {
        assert_eq!(registry.get(&path).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn the_cached_image_of_another_architecture_is_not_served() {
    let registry = Registry::new().await;
    let plain = registry.manifest("git").await;
    let arm = registry.manifest("arm64/git").await;
    let config = |manifest: &serde_json::Value| manifest["config"]["digest"].clone();
    assert_ne!(config(&plain), config(&arm));
    assert_eq!(config(&plain), config(&registry.manifest("git").await));
}

#[tokio::test]
async fn a_function_as_a_package_gives_a_sentence_and_not_a_trace() {
    let registry = Registry::new().await;
    let (answer, _) = registry.follow("/v2/function/manifests/latest").await;
    let (status, _, message) = answer.error();
    assert_eq!(status, 422);
    assert!(
        message.contains("`function` is a function, not a package"),
        "{message}"
    );
}

#[tokio::test]
async fn a_package_named_twice_is_one_package() {
    let registry = Registry::new().await;
    assert_eq!(
        registry.manifest("hello/hello").await,
        registry.manifest("hello").await
    );
}

#[tokio::test]
async fn names_that_look_alike_when_joined_are_different_images() {
    let registry = Registry::new().await;
    let one = registry.manifest("ab/c").await;
    let other = registry.manifest("a/bc").await;
    assert_ne!(one["layers"], other["layers"]);
}

#[tokio::test]
async fn a_package_called_shell_is_not_the_meta_package() {
    let registry = Registry::new().await;
    let meta = registry.manifest("shell/git").await;
    let package = registry.manifest("git/shell").await;
    assert_ne!(meta, package);
}
