//! Tags and referrers.

use http::StatusCode;
use nixery_core::PackageSource;
use nixery_manifest::Digest;
use rstest::rstest;
use serde_json::json;

use crate::registry::Registry;

#[tokio::test]
async fn an_image_has_the_tag_latest_before_anybody_built_it() {
    let registry = Registry::new().await;
    let answer = registry.get("/v2/shell/git/tags/list").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(
        answer.json(),
        json!({"name": "shell/git", "tags": ["latest"]})
    );
    assert_eq!(registry.nix.evaluations(), 0);
}

#[rstest]
#[case::all("", &["a", "b", "latest"], None)]
#[case::first("?n=1", &["a"], Some("n=1&last=a"))]
#[case::next("?n=1&last=a", &["b"], Some("n=1&last=b"))]
#[case::last("?n=1&last=b", &["latest"], None)]
#[case::after("?last=latest", &[], None)]
#[case::unknown_last("?last=aa", &["b", "latest"], None)]
#[case::more_than_there_are("?n=100", &["a", "b", "latest"], None)]
#[case::none("?n=0", &[], None)]
#[case::huge("?n=99999999999", &["a", "b", "latest"], None)]
#[tokio::test]
async fn tags_come_in_pages(
    #[case] query: &str,
    #[case] expected: &[&str],
    #[case] next: Option<&str>,
) {
    let registry = Registry::new().await;
    registry.nix.know_refs(&["b", "a"]);
    let answer = registry.get(&format!("/v2/git/tags/list{query}")).await;
    assert_eq!(answer.json()["tags"], json!(expected));
    let link = answer
        .headers
        .get("link")
        .map(|link| link.to_str().unwrap());
    let expected = next.map(|next| format!("</v2/git/tags/list?{next}>; rel=\"next\""));
    assert_eq!(link, expected.as_deref());
}

/// Tags that clients made up were listed once they had been requested.
#[tokio::test]
async fn tags_are_listed_that_can_be_requested() {
    let registry = Registry::with(|config| {
        config.source = PackageSource::channel("nixos-26.05").unwrap();
        config.channels = "nixos-25.11".parse().unwrap();
    })
    .await;
    let listed = async || {
        let answer = registry.get("/v2/shell/git/tags/list").await;
        answer.json()["tags"].clone()
    };
    let always = ["latest", "nixos-25.11", "nixos-26.05"];
    for tag in ["nonsense", "0.9"] {
        let answer = registry
            .get(&format!("/v2/shell/git/manifests/{tag}"))
            .await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{tag}");
    }
    assert_eq!(listed().await, json!(always));
    registry.manifest("shell/git").await;
    assert_eq!(
        listed().await,
        json!(["1.0", "latest", "nixos-25.11", "nixos-26.05"])
    );
    let other = registry.get("/v2/htop/tags/list").await;
    assert_eq!(other.json()["tags"], json!(always));
}

#[rstest]
#[case("", false)]
#[case("?artifactType=application/x", true)]
#[tokio::test]
async fn nothing_refers_to_an_image_and_that_is_not_an_error(
    #[case] query: &str,
    #[case] filtered: bool,
) {
    let registry = Registry::new().await;
    let digest = Digest::of(b"whatever");
    let answer = registry
        .get(&format!("/v2/git/referrers/{digest}{query}"))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        answer.header("content-type"),
        "application/vnd.oci.image.index.v1+json"
    );
    assert_eq!(answer.json()["manifests"], json!([]));
    assert_eq!(answer.headers.contains_key("oci-filters-applied"), filtered);
}
