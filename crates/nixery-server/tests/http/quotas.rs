//! Quotas of clients. The clock is paused: a request that is held ends at once.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::ConnectInfo;
use http::Method;
use nixery_builder::BuilderConfig;
use nixery_server::config::{HttpSettings, TrustedProxies};
use nixery_storage::MemoryStorage;

use crate::registry::{Answer, Registry, request};

/// Asks for an image from an address, perhaps on behalf of another one.
async fn pull(registry: &Registry, peer: &str, forwarded_for: &str, image: &str) -> Answer {
    let headers: &[_] = match forwarded_for {
        "" => &[],
        address => &[("x-forwarded-for", address)],
    };
    let path = format!("/v2/{image}/manifests/latest");
    let mut request = request(Method::GET, &path, headers);
    let peer: SocketAddr = peer.parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
    registry.ask(request).await
}

async fn registry(trusted: &str) -> Registry {
    let settings = HttpSettings {
        trusted_proxies: TrustedProxies::parse(trusted).unwrap(),
        ..HttpSettings::default()
    };
    let storage = Arc::new(MemoryStorage::new());
    let change = |config: &mut BuilderConfig| {
        config.max_waiting_per_client = 2;
        // More than the slow ones need.
        config.max_builds = 4;
    };
    Registry::over(storage, settings, change).await
}

#[track_caller]
fn assert_refused(answer: &Answer) {
    assert_eq!(answer.header("retry-after"), "10");
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (429, "TOOMANYREQUESTS"));
    let reason = "already has 2 other images to build for you";
    assert!(message.contains(reason), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_client_beyond_its_quota_gets_429_and_others_their_images() {
    let registry = registry("").await;
    registry.manifest("git").await;
    let (hostile, other) = ("192.0.2.1:1000", "192.0.2.2:1000");
    for image in ["slow-1", "slow-2"] {
        let answer = pull(&registry, hostile, "", image).await;
        assert_eq!(answer.status, 307, "{}", answer.text());
    }
    // Another port and an invented header make no other client.
    for (peer, header) in [(hostile, ""), ("192.0.2.1:2000", "198.51.100.7")] {
        assert_refused(&pull(&registry, peer, header, "slow-3").await);
    }
    assert_eq!(pull(&registry, hostile, "", "git").await.status, 200);
    assert_eq!(pull(&registry, hostile, "", "slow-1").await.status, 307);
    assert_eq!(pull(&registry, other, "", "htop").await.status, 200);
    registry.nix.open_gate();
    registry.state.builder().drain().await;
    assert_eq!(pull(&registry, hostile, "", "slow-3").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn behind_a_trusted_proxy_each_client_has_its_own_quota() {
    let registry = registry("10.0.0.0/8").await;
    let proxy = "10.0.0.1:1000";
    for image in ["slow-1", "slow-2"] {
        let answer = pull(&registry, proxy, "192.0.2.1", image).await;
        assert_eq!(answer.status, 307);
    }
    // What the client itself sent is left of the proxy's entry.
    for header in ["192.0.2.1", "198.51.100.7, 192.0.2.1"] {
        assert_refused(&pull(&registry, proxy, header, "slow-3").await);
    }
    let other = pull(&registry, proxy, "192.0.2.2", "htop").await;
    assert_eq!(other.status, 200);
}

/// Addresses of one IPv6 network are one client.
#[tokio::test(start_paused = true)]
async fn a_network_is_a_client() {
    let registry = registry("").await;
    for (address, image) in [("[2001:db8::1]:1", "slow-1"), ("[2001:db8::2]:1", "slow-2")] {
        assert_eq!(pull(&registry, address, "", image).await.status, 307);
    }
    assert_refused(&pull(&registry, "[2001:db8::3]:1", "", "slow-3").await);
    let other = pull(&registry, "[2001:db8:0:1::1]:1", "", "htop").await;
    assert_eq!(other.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_requests_wait_gets_429_for_more_and_others_their_images() {
    let registry = registry("").await;
    registry.manifest("git").await;
    let (hostile, other) = ("192.0.2.1:1000", "192.0.2.2:1000");
    let mut held: Vec<_> = (0..1024)
        .map(|_| Box::pin(pull(&registry, hostile, "", "slow-1")))
        .collect();
    for request in &mut held {
        assert!(futures::poll!(request).is_pending());
    }
    let answer = pull(&registry, hostile, "", "slow-1").await;
    assert_eq!(answer.header("retry-after"), "10");
    let (status, _, message) = answer.error();
    assert_eq!(status, 429);
    assert!(
        message.contains("requests of your address wait"),
        "{message}"
    );
    assert_eq!(pull(&registry, hostile, "", "git").await.status, 200);
    assert_eq!(pull(&registry, other, "", "htop").await.status, 200);
    drop(held);
    assert_eq!(pull(&registry, hostile, "", "slow-1").await.status, 307);
}
