//! Failures people can read.

use std::time::Duration;

use http::StatusCode;
use nixery_server::config::HttpSettings;
use rstest::rstest;

use crate::registry::Registry;

#[tokio::test]
async fn all_missing_packages_are_named_at_once() {
    let registry = Registry::new().await;
    let path = "/v2/git/missing-one/missing-two/manifests/latest";
    let answer = registry.get(path).await;
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (404, "MANIFEST_UNKNOWN"));
    assert!(
        message.contains("`missing-one` and `missing-two`"),
        "{message}"
    );
    let detail = &answer.json()["errors"][0]["detail"];
    assert_eq!(
        detail["missing"],
        serde_json::json!(["missing-one", "missing-two"])
    );

    let head = registry.head(path).await;
    assert_eq!(head.status, StatusCode::NOT_FOUND);
    assert!(head.body.is_empty());
    assert_eq!(head.header("content-length"), answer.body.len().to_string());
}

#[rstest]
#[case::failed_build(
    "failing",
    "failing:builder-exited-1",
    "package `failing` failed to build"
)]
#[case::not_a_package(
    "function",
    "function:not-a-package",
    "`function` is a function, not a package"
)]
#[case::evaluation(
    "broken",
    "broken:evaluation-failed",
    "the Nix code of package `broken` does not evaluate: undefined variable 'x'"
)]
#[case::time_out("endless", "realise:timed-out-after-60s", "did not finish in time")]
#[case::source("unfetchable", "source-unavailable", "cannot be fetched")]
#[case::packing("whiteout", "packing-failed", ".wh.")]
#[tokio::test]
async fn a_failure_redirects_to_a_url_that_says_why(
    #[case] package: &str,
    #[case] slug: &str,
    #[case] expected: &str,
) {
    let registry = Registry::new().await;
    let path = format!("/v2/git/{package}/manifests/latest");
    let answer = registry.get(&format!("{path}?hold=2")).await;
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    let location = answer.header("location").to_owned();
    let id = registry.state.builder().recent()[0].id;
    assert_eq!(location, format!("{path}?failed={slug}&log=/builds/{id}"));

    let built = registry.nix.evaluations();
    let answer = registry.get(&location).await;
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (422, "MANIFEST_UNKNOWN"));
    assert!(message.contains(expected), "{message}");
    let log = format!("http://registry.test:5000/builds/{id}");
    assert!(message.contains(&log), "{message}");
    let detail = &answer.json()["errors"][0]["detail"];
    assert_eq!(detail["reason"], slug);
    assert_eq!(detail["log"], log);
    let head = registry.head(&location).await;
    assert_eq!(head.status.as_u16(), 422);
    assert!(head.body.is_empty());
    assert_eq!(
        registry.nix.evaluations(),
        built,
        "reporting a failure does not build"
    );

    for secret in [
        "/srv/secret",
        "hunter2",
        "os error",
        &registry.nix.folder().display().to_string(),
    ] {
        assert!(!answer.text().contains(secret), "{}", answer.text());
    }
}

#[rstest]
#[case::trace("broken", "undefined variable")]
#[case::builder("failing", "/bin/sh: cannot open …")]
#[tokio::test]
async fn logs_reveal_no_path_of_this_server(#[case] package: &str, #[case] expected: &str) {
    let registry = Registry::new().await;
    let (failure, _) = registry
        .follow(&format!("/v2/{package}/manifests/latest"))
        .await;
    let id = registry.state.builder().recent()[0].id;
    let plain = registry.get(&format!("/builds/{id}")).await;
    let page = registry
        .get_with(&format!("/builds/{id}"), &[("accept", "text/html")])
        .await;
    for answer in [failure, plain, page] {
        let text = answer.text();
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("/srv") && !text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn a_log_ends_with_the_error_once() {
    let registry = Registry::new().await;
    registry.get("/v2/failing/manifests/latest").await;
    let id = registry.state.builder().recent()[0].id;
    let log = registry.get(&format!("/builds/{id}")).await;
    let found = log.text().matches("package `failing` failed to build");
    assert_eq!(found.count(), 1, "{}", log.text());
}

#[tokio::test]
async fn the_end_of_the_log_is_in_the_message_and_more_of_it_in_the_detail() {
    let registry = Registry::new().await;
    let (answer, _) = registry.follow("/v2/failing/manifests/latest").await;
    let (_, _, message) = answer.error();
    assert!(
        message.contains("\n  line 20\n") && message.contains("\n  line 10\n"),
        "{message}"
    );
    assert!(!message.contains("line 9\n"), "{message}");
    let detail = &answer.json()["errors"][0]["detail"];
    assert_eq!(detail["package"], "failing");
    assert_eq!(detail["logTail"][0], "line 1");
}

#[tokio::test]
async fn the_log_link_follows_the_public_url() {
    let registry = Registry::new().await;
    let state = nixery_server::AppState::new(
        registry.state.builder().clone(),
        HttpSettings {
            public_url: Some("https://nixery.example.org".into()),
            ..HttpSettings::default()
        },
    );
    let (_, path) = registry.follow("/v2/failing/manifests/latest").await;
    let router = nixery_server::router(state);
    let request = crate::registry::request(http::Method::GET, &path, &[]);
    let response = tower::ServiceExt::oneshot(router, request).await.unwrap();
    let body = axum::body::to_bytes(response.into_body(), 65536)
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&body);
    assert!(
        text.contains("https://nixery.example.org/builds/"),
        "{text}"
    );
}

#[tokio::test]
async fn a_server_that_does_not_remember_says_what_the_url_says() {
    let registry = Registry::new().await;
    let path = "/v2/git/manifests/latest?failed=git:builder-exited-1&log=/builds/0123456789abcdef";
    let (status, _, message) = registry.get(path).await.error();
    assert_eq!(status, 422);
    assert!(
        message.contains("`git` could not be built (git:builder-exited-1)"),
        "{message}"
    );
    assert_eq!(registry.nix.evaluations(), 0);
}

#[rstest]
#[case::markup("failed=%3Cscript%3Ealert(1)%3C/script%3E", "(scriptalert1script)")]
#[case::nothing("failed=", "(unknown)")]
#[case::escapes("failed=%00%1b[31m", "(31m)")]
#[case::foreign_link("failed=x&log=https://evil.example/", "(x)")]
#[tokio::test]
async fn what_the_url_says_is_not_trusted(#[case] query: &str, #[case] expected: &str) {
    let registry = Registry::new().await;
    let path = format!("/v2/git/manifests/latest?{query}");
    let answer = registry.get(&path).await;
    let (status, _, message) = answer.error();
    assert_eq!(status, 422);
    assert!(message.contains(expected), "{message}");
    assert!(!answer.text().contains("evil"), "{}", answer.text());
}

#[tokio::test]
async fn a_reason_in_a_url_is_cut_short() {
    let registry = Registry::new().await;
    let path = format!("/v2/git/manifests/latest?failed={}", "x".repeat(5000));
    let (_, _, message) = registry.get(&path).await.error();
    assert!(message.len() < 400, "{message}");
}

#[tokio::test]
async fn another_spelling_of_the_name_gets_the_complete_error_too() {
    let registry = Registry::with(|config| config.failure_ttl = Duration::from_secs(600)).await;
    for image in ["git/failing", "failing/git/git"] {
        let path = format!("/v2/{image}/manifests/latest");
        let (answer, _) = registry.follow(&path).await;
        let (status, _, message) = answer.error();
        assert_eq!(status, 422);
        assert!(message.contains("line 20"), "{image}: {message}");
    }
    assert_eq!(registry.nix.evaluations(), 1, "one build for both");
}

#[tokio::test]
async fn the_failure_of_another_image_is_not_reported() {
    let registry = Registry::new().await;
    registry.get("/v2/failing/manifests/latest").await;
    let id = registry.state.builder().recent()[0].id;
    let path = format!("/v2/git/manifests/latest?failed=x&log=/builds/{id}");
    let (_, _, message) = registry.get(&path).await.error();
    assert!(
        message.contains("`git` could not be built (x)"),
        "{message}"
    );
}

#[tokio::test]
async fn without_nix_the_server_says_that_it_is_its_own_fault() {
    let registry = Registry::new().await;
    let answer = registry.get("/v2/nonix/manifests/latest").await;
    assert_eq!(answer.header("retry-after"), "10");
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (503, "UNAVAILABLE"));
    assert!(
        !message.contains("/srv/secret") && !message.contains("os error"),
        "{message}"
    );
}

#[tokio::test]
async fn a_panic_in_a_build_is_an_error_like_any_other() {
    let registry = Registry::new().await;
    let (status, code, _) = registry.get("/v2/panics/manifests/latest").await.error();
    assert_eq!((status, code.as_str()), (500, "UNKNOWN"));
    registry.manifest("git").await;
}

#[tokio::test]
async fn a_failure_answers_again_until_its_time_is_over() {
    let registry = Registry::with(|config| config.failure_ttl = Duration::from_secs(600)).await;
    let first = registry.get("/v2/failing/manifests/latest").await;
    let second = registry.get("/v2/failing/manifests/latest").await;
    assert_eq!(first.header("location"), second.header("location"));
    assert_eq!(registry.nix.evaluations(), 1);
}
