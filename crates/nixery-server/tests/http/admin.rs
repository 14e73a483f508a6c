//! The admin listener, and a registry whose own port serves no pages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nixery_server::config::HttpSettings;
use nixery_server::limits::Limits;
use nixery_server::listen::{Listener, bind, bind_admin};
use nixery_storage::MemoryStorage;
use rstest::rstest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::listen::{LOCAL, MINUTE, Server, receive, send, start_listener};
use crate::registry::Registry;

/// Limit of everything that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A registry with both listeners.
struct Servers {
    registry: Server,
    admin: Server,
    state: Registry,
}

async fn start(public_pages: bool, limits: Limits) -> Servers {
    let settings = HttpSettings {
        public_pages,
        ..HttpSettings::default()
    };
    let state = Registry::over(Arc::new(MemoryStorage::new()), settings, |_| {}).await;
    let registry = Listener::from(bind(LOCAL, 0).await.unwrap());
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let admin = Listener::admin(bind_admin(local).await.unwrap(), &registry);
    let admin_limits = Limits::for_descriptors(128);
    Servers {
        registry: start_listener(&state, registry, limits, MINUTE),
        admin: start_listener(&state, admin, admin_limits, MINUTE),
        state,
    }
}

fn limits() -> Limits {
    Limits::for_descriptors(1024)
}

/// Returns the status and the whole answer to a browser.
async fn ask(server: &Server, path: &str) -> (u16, String) {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:1\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
    );
    let answer = receive(send(server.address, &request).await);
    let answer = timeout(PATIENCE, answer).await.unwrap();
    let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok());
    (status.unwrap_or(0), answer)
}

#[rstest]
#[case(true)]
#[case(false)]
#[tokio::test]
async fn the_admin_listener_has_everything_but_the_registry(#[case] public_pages: bool) {
    let servers = start(public_pages, limits()).await;
    servers.state.manifest("git").await;
    let build = servers.state.state.builder().recent()[0].id;
    let log = format!("/builds/{build}");
    for path in ["/", "/healthz", "/readyz", "/metrics", "/style.css", &log] {
        assert_eq!(ask(&servers.admin, path).await.0, 200, "{path}");
    }
    let port = servers.registry.address.port();
    for path in ["/v2/", "/v2/git/manifests/latest"] {
        let (status, answer) = ask(&servers.admin, path).await;
        assert_eq!(status, 404, "{path}");
        let fix = format!("no registry. Fix: use http://localhost:{port}");
        assert!(answer.contains(&fix), "{answer}");
    }
    // Its page shows commands and a link for the other port.
    let (_, page) = ask(&servers.admin, "/").await;
    for expected in [
        "docker pull localhost:PORT/",
        "href=\"http://localhost:PORT/v2/\"",
    ] {
        let expected = expected.replace("PORT", &port.to_string());
        assert!(page.contains(&expected), "{page}");
    }
}

#[tokio::test]
async fn without_public_pages_the_port_of_the_registry_has_only_the_registry() {
    let servers = start(false, limits()).await;
    for path in ["/v2", "/v2/", "/v2/git/manifests/latest"] {
        assert_eq!(ask(&servers.registry, path).await.0, 200, "{path}");
    }
    for path in [
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/style.css",
        "/builds/1",
        "/x",
    ] {
        let (status, answer) = ask(&servers.registry, path).await;
        assert_eq!(status, 404, "{path}");
        assert!(answer.contains("here is nothing at this path"), "{answer}");
    }
}

#[tokio::test]
async fn without_public_pages_errors_have_no_link_to_a_log() {
    let servers = start(false, limits()).await;
    let (answer, path) = servers.state.follow("/v2/failing/manifests/latest").await;
    let (status, _, message) = answer.error();
    assert_eq!(status, 422);
    assert!(
        message.contains("package `failing` failed to build"),
        "{message}"
    );
    let build = servers.state.state.builder().recent()[0].id;
    assert!(
        message.contains(&format!("the complete log of build {build}")),
        "{message}"
    );
    assert!(
        !answer.text().contains("/builds/") && !path.contains("/builds/"),
        "{path}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_public_pages_long_builds_have_no_link_to_a_log() {
    let servers = start(false, limits()).await;
    let answer = servers.state.get("/v2/slow/manifests/latest?hold=8").await;
    let (status, _, message) = answer.error();
    assert_eq!(status, 429);
    assert!(message.ends_with("the build continues"), "{message}");
}

#[tokio::test]
async fn a_flood_on_the_port_of_the_registry_leaves_the_admin_listener_alone() {
    let few = Limits {
        connections: 1,
        connections_per_client: 1,
        reserve: 1,
        ..limits()
    };
    let servers = start(true, few).await;
    let request = "GET /v2/slow/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut flood = vec![send(servers.registry.address, request).await];
    let evaluated = async {
        while servers.state.nix.evaluations() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, evaluated).await.unwrap();
    for _ in 0..20 {
        flood.push(TcpStream::connect(servers.registry.address).await.unwrap());
    }
    assert_ne!(ask(&servers.registry, "/v2/").await.0, 200);
    for path in ["/", "/readyz", "/metrics"] {
        assert_eq!(ask(&servers.admin, path).await.0, 200, "{path}");
    }
    drop(flood);
}

#[tokio::test]
async fn both_listeners_end_in_order() {
    let servers = start(true, limits()).await;
    for server in [servers.registry, servers.admin] {
        server.stop.send(()).unwrap();
        assert!(server.ended.await.unwrap(), "all requests ended");
    }
}
