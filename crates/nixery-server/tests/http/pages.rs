//! The pages for people, and the probes and counters for programs.

use http::StatusCode;
use rstest::rstest;

use crate::registry::Registry;

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

#[tokio::test]
async fn the_start_page_shows_the_pull_command_of_the_host_asked_for() {
    let registry = Registry::new().await;
    let page = registry.get_with("/", &[BROWSER]).await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let text = page.text();
    assert!(
        text.contains("docker pull registry.test:5000/shell/git/htop"),
        "{text}"
    );
    assert!(
        text.contains("bashInteractive") && text.contains("arm64"),
        "meta-packages"
    );
    assert!(text.contains("No builds since this server started"));
    assert!(
        !text.contains("hunter2"),
        "the password of the package source"
    );

    let head = registry.head("/").await;
    assert_eq!(head.status, StatusCode::OK);
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn the_start_page_lists_builds_and_failures_with_links_to_their_logs() {
    let registry = Registry::new().await;
    registry.manifest("git").await;
    registry.get("/v2/failing/manifests/v2").await;
    let page = registry.get_with("/", &[BROWSER]).await;
    let text = page.text();
    for build in registry.state.builder().recent() {
        assert!(text.contains(&format!("href=\"/builds/{}\"", build.id)));
    }
    assert!(text.contains("git:latest") && text.contains("failing:v2"));
    assert!(text.contains("package `failing` failed to build"));
}

#[tokio::test]
async fn pages_show_names_that_can_be_pulled_again() {
    let registry = Registry::new().await;
    registry.manifest("shell/git").await;
    let id = registry.state.builder().recent()[0].id;
    let path = format!("/builds/{id}");
    let page = registry.get_with(&path, &[BROWSER]).await;
    let expected = "docker pull registry.test:5000/shell/git:latest";
    assert!(page.text().contains(expected), "{}", page.text());
    let start = registry.get_with("/", &[BROWSER]).await;
    assert!(start.text().contains("shell/git:latest"));
    assert!(!start.text().contains("git/shell"));
}

#[tokio::test]
async fn a_build_page_shows_the_log_escaped() {
    let registry = Registry::new().await;
    registry.manifest("git").await;
    let id = registry.state.builder().recent()[0].id;
    let page = registry
        .get_with(&format!("/builds/{id}"), &[BROWSER])
        .await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text().contains("evaluating &lt;script&gt;"));
    assert!(!page.text().contains("<script>alert"));

    let plain = registry.get(&format!("/builds/{id}")).await;
    assert_eq!(plain.header("content-type"), "text/plain; charset=utf-8");
    assert!(plain.text().contains("evaluating <script>"));
    assert_eq!(plain.header("x-content-type-options"), "nosniff");
    for text in [page.text(), plain.text()] {
        assert!(text.contains("\\u{202e}reversed\\u{2066}"), "{text}");
    }
}

#[rstest]
#[case("/builds/0123456789abcdef")]
#[case("/builds/..%2e")]
#[case("/builds/%3Cscript%3E")]
#[case("/nothing")]
#[tokio::test]
async fn pages_that_are_not_there_are_404s_in_the_clients_language(#[case] path: &str) {
    let registry = Registry::new().await;
    let page = registry.get_with(path, &[BROWSER]).await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.text().contains("Go to the start page"));
    assert!(page.text().contains("<p>Th"), "a sentence: {}", page.text());
    assert!(!page.text().contains("<script>"));
    assert_eq!(registry.get(path).await.error().0, 404);
}

#[rstest]
#[case("/style.css", "text/css")]
#[case("/refresh.js", "text/javascript")]
#[case("/favicon.svg", "image/svg+xml")]
#[case("/favicon.ico", "image/svg+xml")]
#[tokio::test]
async fn files_of_the_pages_are_there(#[case] path: &str, #[case] media_type: &str) {
    let registry = Registry::new().await;
    let answer = registry.get(path).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), media_type);
}

#[tokio::test(start_paused = true)]
async fn probes_distinguish_a_live_process_from_a_working_one() {
    let registry = Registry::new().await;
    assert_eq!(registry.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(registry.get("/readyz").await.status, StatusCode::OK);

    registry.nix.break_down();
    assert_eq!(
        registry.get("/readyz").await.status,
        StatusCode::OK,
        "remembered"
    );
    tokio::time::advance(std::time::Duration::from_secs(11)).await;
    let answer = registry.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.text(), "Nix does not work\n");
    assert_eq!(registry.get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_stopping_server_is_not_ready() {
    let registry = Registry::new().await;
    registry.state.readiness().stop();
    let answer = registry.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.text(), "the server is stopping\n");
}

#[tokio::test]
async fn metrics_count_builds_failures_hits_and_bytes() {
    let registry = Registry::new().await;
    let (digest, bytes) = registry.layer("git").await;
    registry.manifest("git").await;
    registry.get("/v2/failing/manifests/latest").await;
    registry.get("/v2/missing/manifests/latest").await;
    registry.get(&format!("/v2/git/blobs/{digest}")).await;

    // Builds are counted by tasks that end right after the answers.
    let mut text = String::new();
    for _ in 0..100 {
        tokio::task::yield_now().await;
        let answer = registry.get("/metrics").await;
        assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4");
        text = answer.text().to_owned();
        if text.contains("result=\"failed\"} 2") {
            break;
        }
    }
    for line in [
        "nixery_builds_total{result=\"built\"} 1",
        "nixery_builds_total{result=\"cached\"} 1",
        "nixery_builds_total{result=\"failed\"} 2",
        "nixery_build_failures_total{kind=\"build-failed\"} 1",
        "nixery_build_failures_total{kind=\"not-found\"} 1",
        "nixery_builds_running 0",
        "nixery_build_phase_duration_seconds_count{phase=\"pack\"} 1",
        "nixery_http_request_duration_seconds_count{route=\"blob\"} 2",
        "nixery_http_requests_total{route=\"blob\",status=\"200\"} 2",
        "nixery_http_requests_total{route=\"manifest\",status=\"307\"} 1",
        "nixery_http_requests_total{route=\"manifest\",status=\"404\"} 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
    let served: usize = text
        .lines()
        .find_map(|line| line.strip_prefix("nixery_served_bytes_total "))
        .unwrap()
        .parse()
        .unwrap();
    assert!(served >= 2 * bytes.len());
}
