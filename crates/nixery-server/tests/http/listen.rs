//! Real connections: limits, time-outs, and an orderly end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nixery_server::limits::Limits;
use nixery_server::listen::{Listener, bind, bind_admin, serve};
use nixery_server::router;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::registry::Registry;

pub(crate) const LOCAL: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) ended: JoinHandle<bool>,
}

async fn start(registry: &Registry, grace: Duration) -> Server {
    start_with(registry, Limits::for_descriptors(1024), grace).await
}

async fn start_with(registry: &Registry, limits: Limits, grace: Duration) -> Server {
    let listener = bind(LOCAL, 0).await.unwrap();
    start_listener(registry, listener.into(), limits, grace)
}

pub(crate) fn start_listener(
    registry: &Registry,
    listener: Listener,
    limits: Limits,
    grace: Duration,
) -> Server {
    let address = listener.address().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let router = router(registry.state.clone());
    let ended = tokio::spawn(async move {
        let stop = async {
            let _ = stopped.await;
        };
        serve(listener, router, limits, stop, grace).await
    });
    Server {
        address,
        stop,
        ended,
    }
}

pub(crate) async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

pub(crate) async fn receive(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset connection ends the answer as well.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_answer_goes_over_the_wire() {
    let registry = Registry::new().await;
    let server = start(&registry, MINUTE).await;
    let request = "HEAD /v2/git/manifests/latest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = receive(send(server.address, request).await)
        .await
        .to_lowercase();
    assert!(answer.starts_with("http/1.1 200 ok\r\n"), "{answer}");
    let lengths: Vec<_> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("content-length: "))
        .collect();
    assert_eq!(lengths.len(), 1, "{answer}");
    assert!(lengths[0].parse::<u64>().unwrap() > 100);
    assert!(answer.ends_with("\r\n\r\n"), "no body: {answer}");
}

/// containerd prints the status line and no body.
#[tokio::test]
async fn the_status_line_says_why_a_build_failed() {
    let registry = Registry::new().await;
    let server = start(&registry, MINUTE).await;
    let (_, path) = registry.follow("/v2/failing/manifests/latest").await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = receive(send(server.address, &request).await).await;
    let line = answer.lines().next().unwrap();
    let expected = "HTTP/1.1 422 package `failing` failed to build: ";
    assert!(line.starts_with(expected), "{line}");
    assert!(line.contains(", log "), "{line}");
}

#[tokio::test]
async fn a_304_ends_with_its_headers() {
    let registry = Registry::new().await;
    let server = start(&registry, MINUTE).await;
    let tag = registry.get("/v2/git/manifests/latest").await;
    let conditional = format!(
        "GET /v2/git/manifests/latest HTTP/1.1\r\nHost: x\r\nIf-None-Match: {}\r\n\r\n",
        tag.header("etag")
    );
    let last = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let both = receive(send(server.address, &format!("{conditional}{last}")).await).await;
    assert!(both.starts_with("HTTP/1.1 304"), "{both}");
    assert!(both.contains("\r\n\r\nHTTP/1.1 200 OK\r\n"), "{both}");
}

#[tokio::test]
async fn a_head_that_never_ends_is_refused() {
    let registry = Registry::new().await;
    let server = start(&registry, MINUTE).await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n",
        "a".repeat(200_000)
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let _ = stream.write_all(request.as_bytes()).await;
    let answer = receive(stream).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_or_stops_half_way_is_hung_up_on() {
    let registry = Registry::new().await;
    let server = start(&registry, MINUTE).await;
    for beginning in ["", "PRI * HT", "GET / HTTP/1.1\r\nHo"] {
        let stream = send(server.address, beginning).await;
        let answer = tokio::time::timeout(Duration::from_secs(200), receive(stream)).await;
        let answer = answer.expect("the connection is closed in time");
        assert!(!answer.contains("200 OK"), "{answer}");
    }
}

#[tokio::test]
async fn stopping_lets_a_running_request_end_and_takes_no_new_one() {
    let registry = Registry::new().await;
    let server = start(&registry, MINUTE).await;
    let request = "GET /v2/slow/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n";
    let waiting = send(server.address, request).await;
    while registry.nix.evaluations() == 0 {
        tokio::task::yield_now().await;
    }
    server.stop.send(()).unwrap();
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    registry.nix.open_gate();
    let answer = receive(waiting).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(server.ended.await.unwrap(), "all requests ended");
}

#[tokio::test(start_paused = true)]
async fn stopping_does_not_wait_for_ever() {
    let registry = Registry::new().await;
    let server = start(&registry, Duration::from_secs(5)).await;
    let request = "GET /v2/slow/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n";
    let waiting = send(server.address, request).await;
    while registry.nix.evaluations() == 0 {
        tokio::task::yield_now().await;
    }
    server.stop.send(()).unwrap();
    assert!(!server.ended.await.unwrap(), "one request did not end");
    assert_eq!(receive(waiting).await, "", "its connection is closed");
}

#[tokio::test]
async fn monitoring_is_answered_when_too_many_bytes_wait() {
    let registry = Registry::new().await;
    let limits = Limits {
        unsent_bytes: 0,
        ..Limits::for_descriptors(1024)
    };
    let server = start_with(&registry, limits, MINUTE).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let paths = [
        ("/v2/", 429),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
    ];
    for (path, status) in paths {
        let request = http::Request::get(format!("http://x{path}"));
        let mut client = client.clone().ready().await.unwrap();
        let (response, _) = client
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        assert_eq!(response.await.unwrap().status(), status, "{path}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_refused_with_what_to_do() {
    let listener = bind(LOCAL, 0).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let message = bind(LOCAL, port).await.unwrap_err().to_string();
    assert!(message.contains(&format!("127.0.0.1:{port}")), "{message}");
    assert!(message.contains("PORT (--port)"), "{message}");
}

#[tokio::test]
async fn the_port_of_the_admin_listener_is_reported_with_its_setting() {
    let listener = bind(LOCAL, 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let message = bind_admin(address).await.unwrap_err().to_string();
    assert!(message.contains(&address.to_string()), "{message}");
    assert!(
        message.contains("NIXERY_ADMIN_LISTEN (--admin-listen)"),
        "{message}"
    );
}

#[rstest]
#[case::none("GET /v2/ HTTP/1.1\r\n\r\n", "400", "no Host header")]
#[case::two(
    "GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "400",
    "more than one Host header"
)]
#[case::invalid(
    "GET /v2/ HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "400",
    "the Host header of the request is invalid"
)]
#[case::monitoring("GET /healthz HTTP/1.1\r\n\r\n", "400", "no Host header")]
#[case::http_1_0("GET /v2/ HTTP/1.0\r\n\r\n", "200", "{}")]
#[tokio::test]
async fn a_request_names_its_host(
    #[case] request: &str,
    #[case] status: &str,
    #[case] expected: &str,
) {
    let registry = Registry::new().await;
    let server = start(&registry, MINUTE).await;
    let answer = receive(send(server.address, request).await).await;
    assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
    assert!(
        answer.contains("content-type: application/json"),
        "{answer}"
    );
    assert!(answer.contains(expected), "{answer}");
}

#[rstest]
#[case::none("/v2/", None, 400)]
#[case::header("/v2/", Some("x"), 200)]
#[case::authority("http://x/v2/", None, 200)]
#[case::both("http://x/v2/", Some("x"), 200)]
#[case::different("http://x/v2/", Some("y"), 400)]
#[tokio::test]
async fn a_request_of_http_2_names_its_host(
    #[case] uri: &str,
    #[case] host: Option<&str>,
    #[case] status: u16,
) {
    let registry = Registry::new().await;
    let server = start(&registry, MINUTE).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::get(uri);
    if let Some(host) = host {
        request = request.header("host", host);
    }
    let mut client = client.ready().await.unwrap();
    let sent = client.send_request(request.body(()).unwrap(), true);
    let (response, _) = sent.unwrap();
    assert_eq!(response.await.unwrap().status(), status);
}
