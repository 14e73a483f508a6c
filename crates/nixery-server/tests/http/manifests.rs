//! Manifests: by tag, by digest, by family.

use std::time::Duration;

use http::StatusCode;
use nixery_core::PackageSource;
use nixery_manifest::{Digest, Manifest};
use rstest::rstest;

use crate::registry::{Answer, DOCKER, OCI, Registry};

const TAG: &str = "/v2/shell/git/manifests/latest";

fn assert_is(answer: &Answer, media_type: &str) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.header("content-type"), media_type);
    let digest = Digest::of(&answer.body).to_string();
    assert_eq!(answer.header("docker-content-digest"), digest);
    assert_eq!(answer.header("etag"), format!("\"{digest}\""));
    assert_eq!(
        answer.header("content-length"),
        answer.body.len().to_string()
    );
    assert_eq!(
        answer.header("docker-distribution-api-version"),
        "registry/2.0"
    );
    assert!(!answer.headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn the_version_endpoint_answers_at_once() {
    let registry = Registry::new().await;
    for path in ["/v2/", "/v2"] {
        let answer = registry.get(path).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(
            answer.header("docker-distribution-api-version"),
            "registry/2.0"
        );
        assert_eq!(answer.json(), serde_json::json!({}));
    }
}

#[rstest]
#[case::nothing(&[], DOCKER)]
#[case::anything(&[("accept", "*/*")], DOCKER)]
#[case::docker(&[("accept", DOCKER)], DOCKER)]
#[case::oci(&[("accept", OCI)], OCI)]
#[case::both(&[("accept", DOCKER), ("accept", OCI)], OCI)]
#[tokio::test]
async fn the_family_follows_accept(#[case] headers: &[(&str, &str)], #[case] expected: &str) {
    let registry = Registry::new().await;
    let answer = registry.get_with(TAG, headers).await;
    assert_is(&answer, expected);
    assert_eq!(answer.header("vary"), "accept");
    assert_eq!(answer.header("cache-control"), "no-cache");

    let manifest = Manifest::from_slice(&answer.body).unwrap();
    assert_eq!(manifest.media_type.as_str(), expected);
    let family = manifest.media_type.family();
    assert_eq!(manifest.config.media_type.family(), family);
    for layer in &manifest.layers {
        assert_eq!(
            layer.media_type.family(),
            family,
            "families are never mixed"
        );
    }
}

#[tokio::test]
async fn a_manifest_is_served_by_its_digest_under_manifests_and_blobs_byte_for_byte() {
    let registry = Registry::new().await;
    for accept in [DOCKER, OCI] {
        let by_tag = registry.get_with(TAG, &[("accept", accept)]).await;
        let digest = by_tag.header("docker-content-digest").to_owned();
        // Whatever the client accepts: a digest names one sequence of bytes.
        let by_digest = registry
            .get_with(
                &format!("/v2/shell/git/manifests/{digest}"),
                &[("accept", "text/html")],
            )
            .await;
        assert_is(&by_digest, accept);
        assert_eq!(by_digest.body, by_tag.body);
        assert!(by_digest.header("cache-control").contains("immutable"));

        let as_blob = registry.get(&format!("/v2/shell/git/blobs/{digest}")).await;
        assert_eq!(as_blob.body, by_tag.body);
        assert_eq!(as_blob.header("docker-content-digest"), digest);
    }
}

#[tokio::test]
async fn head_answers_like_get_without_the_body() {
    let registry = Registry::new().await;
    let get = registry.get(TAG).await;
    let by_digest = format!(
        "/v2/shell/git/manifests/{}",
        get.header("docker-content-digest")
    );
    for path in [TAG, &by_digest] {
        let (get, head) = (registry.get(path).await, registry.head(path).await);
        assert_eq!(head.status, get.status);
        assert_eq!(head.headers, get.headers);
        assert!(head.body.is_empty());
    }
}

#[rstest]
#[case::same("{}", 304)]
#[case::weak("W/{}", 304)]
#[case::list("\"sha256:00\", {}", 304)]
#[case::any("*", 304)]
#[case::other("\"sha256:00\"", 200)]
#[tokio::test]
async fn a_client_that_has_the_manifest_gets_no_body(#[case] template: &str, #[case] status: u16) {
    let registry = Registry::new().await;
    let first = registry.get(TAG).await;
    let tag = template.replace("{}", first.header("etag"));
    let by_digest = format!(
        "/v2/shell/git/manifests/{}",
        first.header("docker-content-digest")
    );
    for path in [TAG, &by_digest] {
        let answer = registry.get_with(path, &[("if-none-match", &tag)]).await;
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.header("etag"), first.header("etag"));
        assert_eq!(answer.body.is_empty(), status == 304);
        assert_eq!(
            answer.header("content-length"),
            first.header("content-length")
        );
    }
}

#[tokio::test]
async fn zstd_images_are_oci_images() {
    let registry = Registry::zstd().await;
    for headers in [&[("accept", OCI)][..], &[("accept", "*/*")], &[]] {
        let answer = registry.get_with(TAG, headers).await;
        assert_is(&answer, OCI);
        assert!(
            answer
                .text()
                .contains("application/vnd.oci.image.layer.v1.tar+zstd")
        );
    }
    let (status, code, message) = registry.get_with(TAG, &[("accept", DOCKER)]).await.error();
    assert_eq!((status, code.as_str()), (406, "UNSUPPORTED"));
    assert!(message.contains("zstd"), "{message}");
}

#[tokio::test]
async fn a_manifest_nobody_built_is_unknown() {
    let registry = Registry::new().await;
    let digest = Digest::of(b"nothing");
    let answer = registry.get(&format!("/v2/git/manifests/{digest}")).await;
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (404, "MANIFEST_UNKNOWN"));
    assert!(message.contains(&digest.to_string()));
    assert_eq!(registry.nix.evaluations(), 0, "a digest cannot be built");
}

#[tokio::test]
async fn a_layer_is_not_a_manifest() {
    let registry = Registry::new().await;
    let (digest, _) = registry.layer("git").await;
    let answer = registry.get(&format!("/v2/git/manifests/{digest}")).await;
    assert_eq!(answer.error().1, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn everything_a_manifest_names_can_be_fetched_with_its_size() {
    let registry = Registry::new().await;
    for accept in [DOCKER, OCI] {
        let answer = registry.get_with(TAG, &[("accept", accept)]).await;
        let manifest = Manifest::from_slice(&answer.body).unwrap();
        for descriptor in manifest.layers.iter().chain([&manifest.config]) {
            let path = format!("/v2/shell/git/blobs/{}", descriptor.digest);
            let blob = registry.get(&path).await;
            assert_eq!(blob.status, StatusCode::OK);
            assert_eq!(blob.body.len() as u64, descriptor.size);
            assert_eq!(Digest::of(&blob.body), descriptor.digest);
        }
    }
}

#[tokio::test]
async fn arm64_and_plain_images_of_one_package_differ() {
    let registry = Registry::new().await;
    let plain = registry.manifest("git").await;
    let arm = registry.manifest("arm64/git").await;
    assert_ne!(plain["config"], arm["config"]);
}

#[rstest]
#[case::other_version(
    "2.0",
    "the package `git` has the version 1.0 here, not 2.0. Fix: pull `shell/git:1.0`, or without a tag"
)]
#[case::no_tag(
    "nonsense",
    "the package source has no tag `nonsense`. Fix: use `latest`, `1.0`, or the version of the first package"
)]
#[tokio::test]
async fn a_tag_that_is_wrong_answers_404_and_builds_nothing(
    #[case] tag: &str,
    #[case] message: &str,
) {
    let registry = Registry::with(|config| {
        config.source = PackageSource::path("/srv/pkgs").unwrap();
        config.eval_interval = Duration::from_secs(60);
    })
    .await;
    let path = format!("/v2/shell/git/manifests/{tag}");
    // Before and after the image is in memory.
    for is_built in [false, true] {
        if is_built {
            registry.manifest("shell/git").await;
        }
        let answer = registry.get(&path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        let error = answer.json()["errors"][0].clone();
        assert_eq!(error["code"], "MANIFEST_UNKNOWN");
        if is_built || tag != "nonsense" {
            assert_eq!(error["message"], message);
        }
        let head = registry.head(&path).await;
        assert_eq!(head.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_version_is_the_image_of_latest() {
    let registry = Registry::with(|config| {
        config.source = PackageSource::path("/srv/pkgs").unwrap();
        config.eval_interval = Duration::from_secs(60);
    })
    .await;
    let latest = registry.get(TAG).await;
    let evaluations = registry.nix.evaluations();
    for tag in ["1", "1.0", "v1.0"] {
        let answer = registry
            .get(&format!("/v2/shell/git/manifests/{tag}"))
            .await;
        assert_is(&answer, DOCKER);
        assert_eq!(answer.body, latest.body);
    }
    assert_eq!(registry.nix.evaluations(), evaluations);
}
