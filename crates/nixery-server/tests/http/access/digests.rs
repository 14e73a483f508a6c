//! Reads by digest: nothing shows whether the registry has what a caller may not pull.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use http::{HeaderMap, Method};
use nixery_builder::BuildId;
use nixery_core::PackageSource;
use nixery_manifest::Digest;
use nixery_server::config::HttpSettings;
use rstest::rstest;

use super::{ALICE, BOB, CI_TOKEN, Files, HTOP_FOR_BOB, basic, bearer, get, layer, pull, settle};
use crate::fake_store::{FakeStore, Mood};
use crate::registry::{Answer, Registry, request};

/// Returns everything that an answer shows, with a text of it replaced.
fn shown(answer: &Answer, secret: &str) -> (u16, HeaderMap, String) {
    let text = answer.text().replace(secret, "SECRET");
    let mut headers = answer.headers.clone();
    headers.remove("date");
    (answer.status.as_u16(), headers, text)
}

/// A registry whose store has git of alice and htop of bob.
async fn with_images() -> (Arc<FakeStore>, Registry, String) {
    let store = Arc::new(FakeStore::default());
    let registry = Files::with_policy(HTOP_FOR_BOB)
        .registry_over(store.clone())
        .await;
    let git = pull(&registry, "git", &basic(ALICE)).await;
    let htop = pull(&registry, "htop", &basic(BOB)).await;
    // Images share layers.
    let layers = git.json()["layers"].clone();
    let digests = layers.as_array().unwrap().iter();
    let digests = digests.map(|layer| layer["digest"].as_str().unwrap());
    let own = digests.filter(|digest| !htop.text().contains(digest));
    let manifest = git.header("docker-content-digest");
    let digests: Vec<_> = own.chain([manifest]).collect();
    assert!(digests.len() > 1, "{digests:?}");
    let digests = digests.join(" ");
    settle(&registry, &store).await;
    (store, registry, digests)
}

/// Asks for a digest, and returns the answer and how many calls of the store it needed.
async fn look(
    (store, registry): (&FakeStore, &Registry),
    method: &Method,
    path: &str,
    headers: &[(&str, &str)],
) -> ((u16, HeaderMap, String), usize) {
    let calls = store.calls();
    let answer = registry.ask(request(method.clone(), path, headers)).await;
    let digest = path.rsplit_once('/').unwrap().1;
    (shown(&answer, digest), store.calls() - calls)
}

#[rstest]
#[case::logged_in(&basic(BOB), 403)]
#[case::nobody("", 401)]
#[tokio::test]
async fn what_exists_and_what_does_not_get_the_same_answer(
    #[case] login: &str,
    #[case] expected: u16,
) {
    let (store, registry, digests) = with_images().await;
    let registry = (&*store, &registry);
    let nowhere = Digest::of(b"nowhere").to_string();
    for name in ["htop", "git", "jq"] {
        // The first look for a name reads the store.
        let path = format!("/v2/{name}/blobs/{nowhere}");
        look(registry, &Method::GET, &path, &[("authorization", login)]).await;
        for header in [
            ("accept", "*/*"),
            ("range", "bytes=0-3"),
            ("if-none-match", "*"),
        ] {
            let headers = [header, ("authorization", login)];
            let headers = if login.is_empty() {
                &headers[..1]
            } else {
                &headers
            };
            for (exists, kind) in digests
                .split(' ')
                .flat_map(|one| [(one, "blobs"), (one, "manifests")])
            {
                for method in [Method::GET, Method::HEAD] {
                    let path = |digest: &str| format!("/v2/{name}/{kind}/{digest}");
                    let one = look(registry, &method, &path(exists), headers).await;
                    let other = look(registry, &method, &path(&nowhere), headers).await;
                    assert_eq!(one, other, "{name} {kind} {method} {header:?}");
                    assert_eq!((one.0.0, one.1), (expected, 0), "{one:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_name_that_is_not_in_memory_costs_the_same_for_every_digest() {
    let (store, _, digests) = with_images().await;
    let nowhere = Digest::of(b"nowhere").to_string();
    let mut calls = Vec::new();
    for digest in [digests.split(' ').next().unwrap(), &nowhere] {
        let registry = Files::with_policy(HTOP_FOR_BOB)
            .registry_over(store.clone())
            .await;
        settle(&registry, &store).await;
        let before = store.calls();
        let answer = get(&registry, &format!("/v2/htop/blobs/{digest}"), &basic(BOB)).await;
        assert_eq!(answer.status, 403);
        calls.push(store.calls() - before);
    }
    assert_eq!(calls[0], calls[1]);
}

/// Requests for digests that no image has cannot make the server read a name all the time.
#[tokio::test]
async fn requests_for_one_name_at_once_read_it_once() {
    let (store, _, _) = with_images().await;
    let registry = Files::with_policy(HTOP_FOR_BOB)
        .registry_over(store.clone())
        .await;
    settle(&registry, &store).await;
    store.set(Mood::Slow);
    let ask = async |number: u32| {
        let digest = Digest::of(&number.to_le_bytes());
        let path = format!("/v2/htop/blobs/{digest}");
        get(&registry, &path, &basic(BOB)).await.status.as_u16()
    };
    let mut calls = Vec::new();
    for round in 0..3 {
        let before = store.calls();
        let answers = join_all((0..50).map(|number| ask(50 * round + number))).await;
        assert_eq!(answers, [403; 50]);
        calls.push(store.calls() - before);
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    // One list and one record, and then the list only.
    assert_eq!(calls, [2, 1, 1]);
}

/// What the store refused is written at the next pull.
#[tokio::test]
async fn an_image_that_could_not_be_written_down_is_written_later() {
    let store = Arc::new(FakeStore::default());
    let server = async || {
        let files = Files::with_policy(HTOP_FOR_BOB);
        files.registry_over(store.clone()).await
    };
    let (registry, other) = (server().await, server().await);
    store.set(Mood::NoNames);
    let manifest = pull(&registry, "htop", &basic(BOB)).await;
    let path = format!("/v2/htop/blobs/{}", layer(&manifest));
    let status = async |registry: &Registry| get(registry, &path, &basic(BOB)).await.status;
    assert_eq!(status(&registry).await, 200);
    assert_eq!(status(&other).await, 403);
    store.set(Mood::Well);
    pull(&registry, "htop", &basic(BOB)).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(status(&other).await, 200);
}

/// Both get their own images, and everything of them, from another server on the store, too.
#[tokio::test]
async fn the_blobs_of_an_image_can_be_read_under_its_name() {
    let (store, registry, _) = with_images().await;
    let other = Files::with_policy(HTOP_FOR_BOB).registry_over(store).await;
    for (user, name) in [(BOB, "htop"), (ALICE, "git")] {
        let manifest = pull(&registry, name, &basic(user)).await;
        let config = manifest.json()["config"]["digest"]
            .as_str()
            .unwrap()
            .to_owned();
        let digest = manifest.header("docker-content-digest");
        let paths = [
            format!("/v2/{name}/blobs/{}", layer(&manifest)),
            format!("/v2/{name}/blobs/{config}"),
            format!("/v2/{name}/manifests/{digest}"),
        ];
        for path in &paths {
            for registry in [&registry, &other] {
                let answer = get(registry, path, &basic(user)).await;
                assert_eq!(answer.status, 200, "{path}");
                let cache = answer.header("cache-control");
                assert_eq!(cache, "private, max-age=31536000, immutable");
            }
        }
    }
    let manifest = pull(&registry, "htop", &basic(BOB)).await;
    assert_eq!(manifest.header("cache-control"), "private, no-cache");
    // Names that mean the same image are one name.
    let path = format!("/v2/htop/htop/blobs/{}", layer(&manifest));
    assert_eq!(get(&registry, &path, &basic(BOB)).await.status, 200);
}

/// Many clients that pull new images of one name at once never miss their blobs, though each may
/// read them only as blobs of its own tag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_can_be_read_as_soon_as_the_manifest_is_there() {
    let rule = |who: &str, tag: &str| {
        format!("[[allow]]\nwho = [\"{who}\"]\npackages = [\"*\"]\ntags = [\"{tag}\"]\n")
    };
    let policy = rule("alice", "v0") + &rule("bob", "v1");
    let registry = Arc::new(Files::with_policy(&policy).registry().await);
    let mut pulls = tokio::task::JoinSet::new();
    for number in 0..40 {
        let registry = Arc::clone(&registry);
        let name = format!("package-{}", number / 4);
        let (user, tag) = [(ALICE, "v0"), (BOB, "v1")][number % 2];
        pulls.spawn(async move {
            let manifest = pull(&registry, &format!("{name}:{tag}"), &basic(user)).await;
            (format!("/v2/{name}/blobs/{}", layer(&manifest)), user)
        });
    }
    for (path, user) in pulls.join_all().await {
        let blob = get(&registry, &path, &basic(user)).await;
        assert_eq!(blob.status, 200, "{path}");
    }
}

#[tokio::test]
async fn logs_are_shown_to_who_may_pull_the_image() {
    let (_, registry, _) = with_images().await;
    let all = registry.state.builder().recent();
    let of = |name: &str| all.iter().find(|build| build.image == name).unwrap().id;
    let (git, htop): (BuildId, BuildId) = (of("git"), of("htop"));
    let unknown = "0".repeat(git.to_string().len());
    let (bob, alice) = (basic(BOB), basic(ALICE));
    let path = |id: &str| format!("/builds/{id}");
    for login in [bob.as_str(), ""] {
        let secret = get(&registry, &path(&git.to_string()), login).await;
        let nowhere = get(&registry, &path(&unknown), login).await;
        let malformed = get(&registry, &path("none"), login).await;
        assert_eq!(shown(&secret, "ID"), shown(&nowhere, "ID"));
        assert_eq!(shown(&secret, "ID"), shown(&malformed, "ID"));
        let expected = if login.is_empty() { 401 } else { 403 };
        assert_eq!(secret.status, expected);
    }
    assert_eq!(
        get(&registry, &path(&htop.to_string()), &bob).await.status,
        200
    );
    assert_eq!(
        get(&registry, &path(&git.to_string()), &alice).await.status,
        200
    );
    assert_eq!(get(&registry, &path(&unknown), &alice).await.status, 404);
}

/// An image has the source that its tag selects, also when its blobs are read, and when a caller
/// who may not build it asks for it.
#[tokio::test]
async fn an_image_of_another_channel_has_the_source_of_that_channel() {
    let policy = r#"
        [[allow]]
        who = ["alice"]
        packages = ["*"]

        [[allow]]
        who = ["bob"]
        packages = ["git"]
        sources = ["nixpkgs nixos-26.05"]

        [[allow]]
        who = ["ci"]
        packages = ["git"]
        sources = ["nixpkgs nixos-*"]
        build = false
    "#;
    let access = Files::with_policy(policy).access().await;
    let store = Arc::new(FakeStore::default());
    let registry = Registry::limited(store, HttpSettings::default(), access, |config| {
        config.source = PackageSource::channel("nixos-26.05").unwrap();
        config.channels = "nixos-unstable".parse().unwrap();
    });
    let registry = registry.await;
    let manifest = pull(&registry, "git:nixos-unstable", &basic(ALICE)).await;
    let path = format!("/v2/git/blobs/{}", layer(&manifest));
    assert_eq!(get(&registry, &path, &basic(BOB)).await.status, 403);
    let ci = bearer(CI_TOKEN);
    assert_eq!(get(&registry, &path, &ci).await.status, 200);
    let again = pull(&registry, "git:nixos-unstable", &ci).await;
    assert_eq!(again.body, manifest.body);
}

/// Clients that pull different tags of one image join one build.
#[rstest]
#[case::channel_then_default("nixos-26.05", "latest")]
#[case::version_then_default("1.0", "latest")]
#[case::default_then_version("latest", "1.0")]
#[tokio::test]
async fn who_joins_a_build_by_another_tag_is_shown_its_failure(
    #[case] started: &str,
    #[case] joined: &str,
) {
    let policy = format!(
        r#"
        [[allow]]
        who = ["alice"]
        packages = ["*"]

        [[allow]]
        who = ["bob"]
        packages = ["failing"]
        tags = ["latest", "{joined}"]
        "#
    );
    let files = Files::with_policy(&policy);
    let (store, access) = (Arc::new(FakeStore::default()), files.access().await);
    let registry = Registry::limited(store, HttpSettings::default(), access, |config| {
        config.source = PackageSource::channel("nixos-26.05").unwrap();
        config.failure_ttl = Duration::from_secs(60);
    });
    let registry = registry.await;
    let first = pull(&registry, &format!("failing:{started}"), &basic(ALICE)).await;
    assert_eq!(first.status, 307, "{}", first.text());
    let second = pull(&registry, &format!("failing:{joined}"), &basic(BOB)).await;
    let failure = get(&registry, second.header("location"), &basic(BOB)).await;
    assert!(failure.text().contains("line 20"), "{}", failure.text());
    let log = failure.json()["errors"][0]["detail"]["log"].clone();
    let (_, id) = log.as_str().unwrap().rsplit_once('/').unwrap();
    let log = get(&registry, &format!("/builds/{id}"), &basic(BOB)).await;
    assert_eq!(log.status, 200);
    assert_eq!(registry.nix.evaluations(), 1);
}

/// The reason of a failed build is shown only for images that the caller may pull.
#[tokio::test]
async fn a_failure_is_shown_to_who_may_pull_the_image() {
    let policy = r#"
        [[allow]]
        who = ["alice"]
        packages = ["*"]

        [[allow]]
        who = ["bob"]
        packages = ["failing"]
        tags = ["v1"]
    "#;
    let registry = Files::with_policy(policy).registry().await;
    let failed = pull(&registry, "failing:secret", &basic(ALICE)).await;
    let location = failed.header("location").to_owned();
    let complete = get(&registry, &location, &basic(ALICE)).await;
    assert!(complete.text().contains("line 20"), "{}", complete.text());
    assert_eq!(get(&registry, &location, &basic(BOB)).await.status, 403);
    assert_eq!(get(&registry, &location, "").await.status, 401);
    let query = location.split_once('?').unwrap().1;
    let other_tag = format!("/v2/failing/manifests/v1?{query}");
    let answer = get(&registry, &other_tag, &basic(BOB)).await;
    assert_eq!(answer.status, 422);
    assert!(!answer.text().contains("line 20"), "{}", answer.text());
    assert_eq!(registry.nix.evaluations(), 1);
}
