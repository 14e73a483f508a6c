//! A pull by plain HTTP, every byte checked.

use crate::{Registry, http};
use nixery_manifest::Digest;

/// The digest of these bytes, as `sha256:…`.
pub fn digest_of(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// Fetches an image's manifest and all it names, redirects followed; the digest of the manifest.
///
/// # Panics
/// An answer is not 200 or its bytes are not what the digest says.
#[track_caller]
pub fn pull_checked(registry: &Registry, image: &str) -> String {
    let answer = registry.manifest(image);
    assert_eq!(answer.status, 200, "{image}: {}", answer.text());
    let digest = digest_of(&answer.body);
    assert_eq!(
        answer.header("docker-content-digest"),
        Some(digest.as_str()),
        "{image}"
    );
    for blob in blobs_of(&answer.json()) {
        let got = http::get_following(&registry.url(&format!("/v2/{image}/blobs/{blob}")));
        assert_eq!(got.status, 200, "{image}: {blob}: {}", got.text());
        assert_eq!(digest_of(&got.body), blob, "{image}");
    }
    digest
}

/// The digests of all that a manifest names: its layers, lowest first, and its config.
///
/// # Panics
/// It is not an image manifest.
#[track_caller]
pub fn blobs_of(manifest: &serde_json::Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().expect("layers");
    layers
        .iter()
        .chain([&manifest["config"]])
        .map(|blob| blob["digest"].as_str().expect("a digest").to_owned())
        .collect()
}
