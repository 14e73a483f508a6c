//! Quotas of builds. The clock is paused: a request that is held ends at once.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use nixery_builder::BuilderConfig;
use nixery_server::config::HttpSettings;

use super::{ALICE, BOB, Files, basic, get, pull};
use crate::fake_store::FakeStore;
use crate::registry::Registry;

/// Everybody may start two builds an hour, of any image.
const TWO_BUILDS: &str = "[[allow]]\nwho = [\"*\"]\npackages = [\"*\"]\nbuilds-per-hour = 2";

async fn registry(change: impl FnOnce(&mut BuilderConfig)) -> Registry {
    let access = Files::with_policy(TWO_BUILDS).access().await;
    let store = Arc::new(FakeStore::default());
    Registry::limited(store, HttpSettings::default(), access, change).await
}

#[tokio::test(start_paused = true)]
async fn builds_beyond_the_quota_are_429_and_not_started() {
    let registry = registry(|_| {}).await;
    let bob = basic(BOB);
    for image in ["git", "htop"] {
        assert_eq!(pull(&registry, image, &bob).await.status, 200);
    }
    let answer = pull(&registry, "jq", &bob).await;
    // Clients would wait for that time without a word.
    assert!(!answer.headers.contains_key("retry-after"));
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (429, "TOOMANYREQUESTS"));
    let expected =
        "you have started as many builds as you may in an hour (2). Fix: pull the image again in ";
    assert!(message.starts_with(expected), "{message}");
    assert_eq!(registry.nix.evaluations(), 2);
    // Images that are built and other users are not affected.
    assert_eq!(pull(&registry, "git", &bob).await.status, 200);
    assert_eq!(pull(&registry, "jq", &basic(ALICE)).await.status, 200);
    assert_eq!(pull(&registry, "jq", &bob).await.status, 200);
    tokio::time::advance(Duration::from_secs(3601)).await;
    assert_eq!(pull(&registry, "hello", &bob).await.status, 200);
}

/// A request that waits is redirected to itself, and others join the build.
#[tokio::test(start_paused = true)]
async fn joining_a_build_does_not_count() {
    let registry = registry(|_| {}).await;
    let (alice, bob) = (basic(ALICE), basic(BOB));
    let held = pull(&registry, "slow", &alice).await;
    assert_eq!(held.status, 307);
    let location = held.header("location").to_owned();
    assert!(location.contains("hold=1"), "{location}");
    for login in [&alice, &bob, &bob, &bob] {
        assert_eq!(get(&registry, &location, login).await.status, 307);
    }
    assert_eq!(get(&registry, &location, "").await.status, 401);
    registry.nix.open_gate();
    registry.state.builder().drain().await;
    assert_eq!(get(&registry, &location, &alice).await.status, 200);
    for image in ["git", "htop"] {
        assert_eq!(pull(&registry, image, &bob).await.status, 200);
    }
    assert_eq!(pull(&registry, "jq", &bob).await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn what_the_builder_refuses_does_not_count() {
    let change = |config: &mut BuilderConfig| {
        config.max_packages = NonZeroUsize::new(2);
        config.max_waiting_per_client = 1;
        config.max_builds = 4;
    };
    let registry = registry(change).await;
    let bob = basic(BOB);
    for _ in 0..3 {
        assert_eq!(pull(&registry, "git/htop/jq", &bob).await.status, 400);
    }
    assert_eq!(pull(&registry, "slow", &bob).await.status, 307);
    for _ in 0..3 {
        let (status, _, message) = pull(&registry, "slow-2", &bob).await.error();
        assert_eq!(status, 429);
        assert!(message.contains("other image"), "{message}");
    }
    registry.nix.open_gate();
    registry.state.builder().drain().await;
    assert_eq!(pull(&registry, "git", &bob).await.status, 200);
    assert_eq!(pull(&registry, "htop", &bob).await.status, 429);
}

/// The source may have moved, but it is not evaluated.
#[tokio::test(start_paused = true)]
async fn beyond_the_quota_the_last_image_is_served() {
    let registry = registry(|config| config.eval_interval = Duration::ZERO).await;
    let bob = basic(BOB);
    for image in ["git", "htop"] {
        assert_eq!(pull(&registry, image, &bob).await.status, 200);
    }
    let evaluations = registry.nix.evaluations();
    assert_eq!(pull(&registry, "git", &bob).await.status, 200);
    assert_eq!(pull(&registry, "jq", &bob).await.status, 429);
    assert_eq!(registry.nix.evaluations(), evaluations);
}
