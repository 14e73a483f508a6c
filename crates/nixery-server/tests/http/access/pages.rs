//! Pages, and what stays open to everybody.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::ConnectInfo;
use http::Method;
use nixery_server::config::table::POLICY;
use nixery_server::config::{HttpSettings, TrustedProxies};
use nixery_storage::MemoryStorage;
use rstest::rstest;

use super::{ALICE, BOB, Files, HTOP_FOR_BOB, basic, get, pull};
use crate::registry::{Registry, request};

#[rstest]
#[case("/healthz")]
#[case("/readyz")]
#[case("/metrics")]
#[case("/style.css")]
#[tokio::test]
async fn probes_metrics_and_assets_need_no_login(#[case] path: &str) {
    let registry = Files::with_policy(HTOP_FOR_BOB).registry().await;
    for login in ["", &basic(("alice", "wrong"))] {
        let answer = get(&registry, path, login).await;
        assert_eq!(answer.status, 200);
        let cache = answer.headers.get("cache-control");
        let is_private = cache.is_some_and(|value| value.to_str().unwrap().contains("private"));
        assert!(!is_private || path != "/style.css", "{cache:?}");
    }
}

#[tokio::test]
async fn the_start_page_shows_the_builds_of_images_that_the_caller_may_pull() {
    let registry = Files::with_policy(HTOP_FOR_BOB).registry().await;
    pull(&registry, "hello", &basic(ALICE)).await;
    pull(&registry, "htop", &basic(ALICE)).await;
    let page = |login: String| {
        let headers = [("accept", "text/html"), ("authorization", login.as_str())];
        let request = request(Method::GET, "/", &headers);
        registry.ask(request)
    };
    let of_alice = page(basic(ALICE)).await;
    let of_bob = page(basic(BOB)).await;
    assert!(of_alice.text().contains("hello:latest") && of_alice.text().contains("htop:latest"));
    assert!(!of_bob.text().contains("hello:latest") && of_bob.text().contains("htop:latest"));
    assert_eq!(of_bob.header("cache-control"), "private, no-cache");
    let of_nobody = registry.get_with("/", &[("accept", "text/html")]).await;
    assert_eq!(of_nobody.status, 401);
    assert_eq!(of_nobody.header("content-type"), "text/html; charset=utf-8");
    assert!(of_nobody.header("www-authenticate").starts_with("Basic "));
    assert!(!of_nobody.text().contains("htop:latest"));
}

#[tokio::test]
async fn browsers_log_in_by_password_where_registry_clients_use_tokens() {
    let registry = Files::with_own_tokens()
        .with(POLICY, HTOP_FOR_BOB)
        .registry()
        .await;
    let page = registry.get_with("/", &[("accept", "text/html")]).await;
    assert!(page.header("www-authenticate").starts_with("Basic "));
    let api = registry.get("/v2/").await;
    assert!(api.header("www-authenticate").starts_with("Bearer "));
}

#[rstest]
#[case::trusted_proxy("10.0.0.1:1", "https://nixery.dev/token")]
#[case::forged("192.0.2.1:1", "http://registry.test:5000/token")]
#[tokio::test]
async fn the_realm_is_where_the_client_reaches_the_server(#[case] peer: &str, #[case] realm: &str) {
    let settings = HttpSettings {
        trusted_proxies: TrustedProxies::parse("10.0.0.0/8").unwrap(),
        ..HttpSettings::default()
    };
    let access = Files::with_own_tokens().access().await;
    let store = Arc::new(MemoryStorage::new());
    let registry = Registry::limited(store, settings, access, |_| {}).await;
    let headers = [
        ("x-forwarded-host", "nixery.dev"),
        ("x-forwarded-proto", "https"),
    ];
    let mut request = request(Method::GET, "/v2/", &headers);
    let peer: SocketAddr = peer.parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
    let challenge = registry
        .ask(request)
        .await
        .header("www-authenticate")
        .to_owned();
    assert!(
        challenge.starts_with(&format!("Bearer realm=\"{realm}\",")),
        "{challenge}"
    );
}
