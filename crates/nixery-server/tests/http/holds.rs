//! Long builds. The clock is paused: it jumps whenever everybody waits.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use nixery_builder::{BuildState, DEFAULT_EVAL_INTERVAL, DEFAULT_RECHECK_AFTER};
use nixery_server::MAX_HOLDS;
use nixery_server::config::HttpSettings;
use tokio::time::{Instant, advance};

use crate::fake_store::{FakeStore, Mood};
use crate::registry::{Answer, Registry, request};

const PATH: &str = "/v2/slow/manifests/latest";

#[track_caller]
fn assert_redirect(answer: &Answer, to: &str) {
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(answer.header("location"), to);
    assert_eq!(answer.header("cache-control"), "no-store");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_held_for_25_seconds_and_then_redirected_to_itself() {
    let registry = Registry::new().await;
    let asked = Instant::now();
    let answer = registry.get(PATH).await;
    assert_redirect(&answer, "/v2/slow/manifests/latest?hold=1");
    let held = asked.elapsed();
    assert!(
        held >= Duration::from_secs(25) && held < Duration::from_secs(26),
        "{held:?}"
    );
}

/// Looking up an image that was served before is part of the time.
#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_makes_no_hold_longer() {
    let store = Arc::new(FakeStore::default());
    let registry = Registry::over(store.clone(), HttpSettings::default(), |_| {}).await;
    registry.manifest("git").await;
    store.set(Mood::Silent);
    advance(DEFAULT_RECHECK_AFTER).await;
    let asked = Instant::now();
    let answer = registry.get("/v2/git/manifests/latest").await;
    assert_redirect(&answer, "/v2/git/manifests/latest?hold=1");
    assert_eq!(asked.elapsed().as_secs(), 25);
}

#[tokio::test(start_paused = true)]
async fn head_is_held_and_redirected_too() {
    let registry = Registry::new().await;
    let answer = registry.head("/v2/slow/manifests/latest?hold=3").await;
    assert_redirect(&answer, "/v2/slow/manifests/latest?hold=4");
}

#[tokio::test(start_paused = true)]
async fn what_mirrors_put_into_the_query_stays_there() {
    let registry = Registry::new().await;
    let path = "/v2/slow/manifests/latest?ns=registry.test&hold=1&x=%2f";
    let answer = registry.get(path).await;
    assert_redirect(
        &answer,
        "/v2/slow/manifests/latest?hold=2&ns=registry.test&x=%2f",
    );
}

#[tokio::test(start_paused = true)]
async fn after_eight_redirects_the_client_should_ask_again_later() {
    let registry = Registry::new().await;
    let asked = Instant::now();
    let (answer, path) = registry.follow(PATH).await;
    assert!(path.ends_with(&format!("?hold={MAX_HOLDS}")), "{path}");
    assert_eq!(MAX_HOLDS, 8);
    assert_eq!(answer.header("retry-after"), "10");
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (429, "TOOMANYREQUESTS"));
    assert!(
        message.contains("http://registry.test:5000/builds/"),
        "{message}"
    );
    assert_eq!(asked.elapsed().as_secs(), 9 * 25);
    assert_eq!(registry.nix.evaluations(), 1, "one build all the while");

    // Coming back to the same URL works, and finds the image once it is there.
    registry.nix.open_gate();
    let answer = registry.get(&path).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn the_client_learns_how_many_layers_are_stored() {
    let store = Arc::new(FakeStore::default());
    store.set(Mood::NoFiles);
    let registry = Registry::over(store, HttpSettings::default(), |_| {}).await;
    let answer = registry.get("/v2/git/manifests/latest?hold=8").await;
    let (status, _, message) = answer.error();
    assert_eq!(status, 429);
    // Three packages, each in a layer, and the root layer: all packed.
    assert!(message.contains("(0 of 4 layers are stored)"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_count_out_of_all_bounds_is_the_end_and_a_broken_one_the_beginning() {
    let registry = Registry::new().await;
    let answer = registry.get("/v2/slow/manifests/latest?hold=99999").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let answer = registry.get("/v2/slow/manifests/latest?hold=x").await;
    assert_redirect(&answer, "/v2/slow/manifests/latest?hold=1");
}

#[tokio::test(start_paused = true)]
async fn a_build_of_70_seconds_is_pulled_by_following_redirects() {
    let registry = Registry::new().await;
    let gate = async {
        tokio::time::sleep(Duration::from_secs(70)).await;
        registry.nix.open_gate();
    };
    let ((answer, path), ()) = tokio::join!(registry.follow(PATH), gate);
    assert_eq!(answer.status, StatusCode::OK);
    assert!(path.ends_with("?hold=2"), "{path}");
}

#[tokio::test(start_paused = true)]
async fn only_what_somebody_asked_for_is_counted() {
    let registry = Registry::new().await;
    registry.manifest("git").await;
    advance(DEFAULT_EVAL_INTERVAL).await;
    registry.manifest("git").await;
    registry.state.builder().drain().await;
    assert_eq!(registry.nix.evaluations(), 2, "one in the background");
    // Builds are counted by tasks of their own.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let metrics = registry.get("/metrics").await;
    for (result, count) in [("built", 1), ("cached", 1), ("failed", 0)] {
        let line = format!("nixery_builds_total{{result=\"{result}\"}} {count}\n");
        assert!(metrics.text().contains(&line), "{}", metrics.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_leaves_the_build_running() {
    let registry = Registry::new().await;
    let impatient = tokio::time::timeout(Duration::from_secs(1), registry.get(PATH)).await;
    assert!(impatient.is_err(), "it went away");
    let state = registry.state.builder().recent()[0].state.clone();
    assert!(matches!(state, BuildState::Running(_)));

    registry.nix.open_gate();
    let (answer, _) = registry.follow(PATH).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        registry.nix.evaluations(),
        1,
        "the second client joined the build"
    );
}

#[tokio::test(start_paused = true)]
async fn fifty_clients_cause_one_build() {
    let registry = Registry::new().await;
    let clients: Vec<_> = (0..50).map(|_| registry.follow(PATH)).collect();
    let gate = async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        registry.nix.open_gate();
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(clients), gate);
    assert!(
        answers
            .iter()
            .all(|(answer, _)| answer.status == StatusCode::OK)
    );
    assert_eq!(registry.nix.evaluations(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_package_called_shell_does_not_join_the_build_of_the_meta_package() {
    let registry = Registry::new().await;
    registry.nix.open_gate();
    let (meta, package, spelled) = tokio::join!(
        registry.follow("/v2/shell/slow/manifests/latest"),
        registry.follow("/v2/slow/shell/manifests/latest"),
        registry.follow("/v2/shell/slow/slow/manifests/latest"),
    );
    assert_ne!(meta.0.body, package.0.body);
    assert_eq!(
        meta.0.body, spelled.0.body,
        "the same image, however it is spelled"
    );
    assert_eq!(registry.nix.evaluations(), 2);
}

#[tokio::test(start_paused = true)]
async fn other_methods_never_build() {
    let registry = Registry::new().await;
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let answer = registry.ask(request(method, PATH, &[])).await;
        assert_eq!(answer.header("allow"), "GET, HEAD");
        let (status, code, _) = answer.error();
        assert_eq!((status, code.as_str()), (405, "UNSUPPORTED"));
    }
    assert_eq!(registry.nix.evaluations(), 0);
}
