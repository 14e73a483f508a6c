//! What the policy allows, and that nothing is done for who may not.

use std::sync::Arc;

use http::Method;
use nixery_builder::BuilderConfig;
use nixery_core::PackageSource;
use nixery_server::config::HttpSettings;
use rstest::rstest;
use serde_json::json;

use super::{
    ALICE, BOB, CI_TOKEN, Files, HTOP_FOR_BOB, ask, basic, bearer, get, layer, pull, settle,
};
use crate::fake_store::FakeStore;
use crate::registry::Registry;

const CONDITIONS: &str = r#"
    [[allow]]
    who = ["bob"]
    packages = ["git", "htop", "shell"]
    tags = ["latest", "v*"]
    platforms = ["linux/amd64"]

    [[deny]]
    who = ["*"]
    packages = ["htop"]
    tags = ["v1"]
"#;

#[rstest]
#[case::package("git/jq", "you may not pull the package `jq`. Fix:", json!({"package": "jq"}))]
#[case::tag("git:main", "you may not pull the tag `main`. Fix:", json!({"tag": "main"}))]
#[case::platform("arm64/git", "for the platform `linux/arm64`. Fix:", json!({"platform": "linux/arm64"}))]
#[case::deny_rule("git/htop:v1", "the package `htop`. Fix:", json!({"package": "htop"}))]
#[tokio::test]
async fn a_denied_image_is_403_and_causes_nothing(
    #[case] image: &str,
    #[case] expected: &str,
    #[case] detail: serde_json::Value,
) {
    let store = Arc::new(FakeStore::default());
    let registry = Files::with_policy(CONDITIONS)
        .registry_over(store.clone())
        .await;
    settle(&registry, &store).await;
    let calls = store.calls();
    let answer = pull(&registry, image, &basic(BOB)).await;
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (403, "DENIED"), "{message}");
    assert!(message.contains(expected), "{message}");
    assert_eq!(answer.json()["errors"][0]["detail"], detail);
    assert!(!answer.headers.contains_key("www-authenticate"));
    let (name, tag) = image.split_once(':').unwrap_or((image, "latest"));
    let path = format!("/v2/{name}/manifests/{tag}");
    let head = ask(&registry, Method::HEAD, &path, &basic(BOB)).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (403, 0));
    // Before a login it is 401, so that clients log in.
    let (status, code, message) = pull(&registry, image, "").await.error();
    assert_eq!((status, code.as_str()), (401, "UNAUTHORIZED"));
    assert!(message.contains("you have not logged in"), "{message}");
    assert_eq!(registry.nix.evaluations(), 0);
    assert_eq!(store.calls(), calls);
}

/// The name is allowed at other tags than `latest` and the one that a rule denies.
#[tokio::test]
async fn blobs_of_an_image_at_an_allowed_tag_can_be_read() {
    let policy = r#"
        [[allow]]
        who = ["bob"]
        packages = ["git"]

        [[deny]]
        who = ["bob"]
        packages = ["git"]
        tags = ["latest"]
    "#;
    let registry = Files::with_policy(policy).registry().await;
    let bob = basic(BOB);
    assert_eq!(pull(&registry, "git", &bob).await.status, 403);
    let manifest = pull(&registry, "git:v1", &bob).await;
    let path = format!("/v2/git/blobs/{}", layer(&manifest));
    assert_eq!(get(&registry, &path, &bob).await.status, 200);
    registry.nix.know_refs(&["v1"]);
    let tags = get(&registry, "/v2/git/tags/list", &bob).await;
    assert_eq!(tags.json()["tags"], json!(["v1"]));
    let referrers = format!("/v2/git/referrers/{}", layer(&manifest));
    assert_eq!(get(&registry, &referrers, &bob).await.status, 200);
}

#[tokio::test]
async fn tags_and_referrers_of_a_denied_name_are_403() {
    let registry = Files::with_policy(HTOP_FOR_BOB).registry().await;
    let manifest = pull(&registry, "git", &basic(ALICE)).await;
    let referrers = format!("/v2/git/referrers/{}", layer(&manifest));
    for path in ["/v2/git/tags/list", &referrers] {
        assert_eq!(
            get(&registry, path, &basic(BOB)).await.status,
            403,
            "{path}"
        );
        assert_eq!(get(&registry, path, "").await.status, 401, "{path}");
    }
}

/// Ci builds, and everybody else may pull what is built.
const CI_BUILDS: &str = r#"
    [[allow]]
    who = ["ci"]
    packages = ["*"]

    [[allow]]
    who = ["bob", "anonymous"]
    packages = ["*"]
    build = false
"#;

#[tokio::test]
async fn who_may_not_build_gets_only_what_is_built() {
    let store = Arc::new(FakeStore::default());
    let files = Files::with_policy(CI_BUILDS);
    let registry = files.registry_over(store.clone()).await;
    for credentials in [&basic(BOB), ""] {
        let answer = pull(&registry, "git", credentials).await;
        let expected = if credentials.is_empty() { 401 } else { 403 };
        let (status, _, message) = answer.error();
        assert_eq!(status, expected);
        assert!(message.contains("`git:latest` is not built"), "{message}");
    }
    assert_eq!(registry.nix.evaluations(), 0);
    let built = pull(&registry, "git", &bearer(CI_TOKEN)).await;
    assert_eq!(
        (built.status.as_u16(), registry.nix.evaluations()),
        (200, 1)
    );
    for credentials in [&basic(BOB), ""] {
        let answer = pull(&registry, "git", credentials).await;
        assert_eq!(answer.body, built.body);
        let other_tag = pull(&registry, "git:v1", credentials).await;
        assert!(other_tag.status.is_client_error());
    }
    // Another server on the store has nothing in memory.
    let other = files.registry_over(store).await;
    let answer = pull(&other, "git", &basic(BOB)).await;
    assert_eq!(answer.body, built.body);
    let path = format!("/v2/git/blobs/{}", layer(&built));
    assert_eq!(get(&other, &path, "").await.status, 200);
    assert_eq!(other.nix.evaluations(), 0);
}

/// A version stands for the default, which has a tag of its own.
#[tokio::test]
async fn a_version_needs_the_right_to_the_default() {
    let rule =
        |tags: &str| format!("[[allow]]\nwho = [\"bob\"]\npackages = [\"*\"]\ntags = [{tags}]\n");
    for (tags, expected) in [("\"1*\"", 403), ("\"1*\", \"latest\"", 404)] {
        let access = Files::with_policy(&rule(tags)).access().await;
        let channel = |config: &mut BuilderConfig| {
            config.source = PackageSource::channel("nixos-26.05").unwrap();
        };
        let store = Arc::new(FakeStore::default());
        let registry = Registry::limited(store, HttpSettings::default(), access, channel).await;
        // No package has this version.
        let answer = pull(&registry, "git:1.999", &basic(BOB)).await;
        assert_eq!(answer.status, expected, "{}", answer.text());
        let evaluations = usize::from(expected != 403);
        assert_eq!(registry.nix.evaluations(), evaluations);
    }
}

/// The source that a tag selects counts, and each name of its channel.
#[rstest]
#[case(
    "[[deny]]\nwho = [\"*\"]\nsources = [\"nixpkgs nixos-unstable\"]",
    "unstable"
)]
#[case("[[deny]]\nwho = [\"*\"]\ntags = [\"nixos-unstable\"]", "unstable")]
#[case("[[deny]]\nwho = [\"*\"]\ntags = [\"unstable\"]", "unstable")]
#[case(
    "[[deny]]\nwho = [\"*\"]\nsources = [\"nixpkgs nixos-unstable\"]",
    "nixos-unstable"
)]
#[tokio::test]
async fn a_denied_channel_has_no_other_name(#[case] deny: &str, #[case] tag: &str) {
    let policy = format!("[[allow]]\nwho = [\"bob\"]\npackages = [\"*\"]\n{deny}\n");
    let access = Files::with_policy(&policy).access().await;
    let channels = |config: &mut BuilderConfig| {
        config.source = PackageSource::channel("nixos-26.05").unwrap();
        config.channels = "nixos-unstable".parse().unwrap();
    };
    let store = Arc::new(FakeStore::default());
    let registry = Registry::limited(store, HttpSettings::default(), access, channels).await;
    let denied = pull(&registry, &format!("git:{tag}"), &basic(BOB)).await;
    assert_eq!(denied.status, 403, "{}", denied.text());
    assert_eq!(registry.nix.evaluations(), 0);
    assert_eq!(pull(&registry, "git", &basic(BOB)).await.status, 200);
}

/// The configured channel is denied, and another one that a tag selects is allowed.
#[tokio::test]
async fn blobs_of_an_allowed_channel_can_be_read() {
    let policy =
        "[[allow]]\nwho = [\"bob\"]\npackages = [\"*\"]\nsources = [\"nixpkgs nixos-unstable\"]\n";
    let access = Files::with_policy(policy).access().await;
    let channels = |config: &mut BuilderConfig| {
        config.source = PackageSource::channel("nixos-26.05").unwrap();
        config.channels = "nixos-unstable".parse().unwrap();
    };
    let store = Arc::new(FakeStore::default());
    let registry = Registry::limited(store, HttpSettings::default(), access, channels).await;
    let bob = basic(BOB);
    assert_eq!(pull(&registry, "git", &bob).await.status, 403);
    let manifest = pull(&registry, "git:nixos-unstable", &bob).await;
    let path = format!("/v2/git/blobs/{}", layer(&manifest));
    assert_eq!(get(&registry, &path, &bob).await.status, 200);
}
