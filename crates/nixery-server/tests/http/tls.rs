//! TLS: protocols, certificates that are replaced, clients that speak something else, limits.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nixery_manifest::Digest;
use nixery_server::config::TlsSettings;
use nixery_server::limits::Limits;
use nixery_server::listen::{Listener, bind};
use nixery_server::tls::Tls;
use nixery_storage::{Key, PutMode};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rstest::rstest;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::listen::{LOCAL, MINUTE, Server, receive, send, start_listener};
use crate::registry::Registry;

/// Time between two readings of the files.
const RELOAD: Duration = Duration::from_millis(20);
/// Limit of everything that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The files of a certificate, as Kubernetes mounts a secret: links by way of a folder `..data`,
/// itself a link that is replaced.
struct Secret {
    folder: TempDir,
    version: u32,
}

impl Secret {
    fn new(issued: &Issued) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["tls.crt", "tls.key"] {
            let target = Path::new("..data").join(file);
            std::os::unix::fs::symlink(target, folder.path().join(file)).unwrap();
        }
        let mut secret = Self { folder, version: 0 };
        secret.replace(&issued.certificate, &issued.key);
        secret
    }

    fn replace(&mut self, certificate: &str, key: &str) {
        self.version += 1;
        let version = format!("..version-{}", self.version);
        let folder = self.folder.path();
        fs::create_dir(folder.join(&version)).unwrap();
        fs::write(folder.join(&version).join("tls.crt"), certificate).unwrap();
        fs::write(folder.join(&version).join("tls.key"), key).unwrap();
        std::os::unix::fs::symlink(version, folder.join("..new")).unwrap();
        fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
    }

    fn settings(&self) -> TlsSettings {
        TlsSettings {
            certificate: self.folder.path().join("tls.crt"),
            key: self.folder.path().join("tls.key"),
        }
    }
}

#[derive(Clone)]
struct Issued {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
}

fn issue() -> Issued {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    Issued {
        certificate: cert.pem(),
        key: signing_key.serialize_pem(),
        der: cert.der().clone(),
    }
}

async fn start_tls(registry: &Registry, secret: &Secret, limits: Limits) -> Server {
    let tls = Arc::new(Tls::load(&secret.settings()).await.unwrap());
    let reloaded = Arc::clone(&tls);
    tokio::spawn(async move { reloaded.reload_forever(RELOAD).await });
    let listener = Listener::from(bind(LOCAL, 0).await.unwrap()).with_tls(tls);
    start_listener(registry, listener, limits, MINUTE)
}

fn limits() -> Limits {
    Limits::for_descriptors(1024)
}

/// A client that trusts these certificates. It remembers its sessions.
fn client(trusted: &[&Issued], protocol: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for issued in trusted {
        roots.add(issued.der.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config).into()
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// Connects as a new client that trusts these certificates.
async fn connect(
    address: SocketAddr,
    trusted: &[&Issued],
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    client(trusted, protocol).connect(name(), stream).await
}

fn certificate(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// Sends a request over HTTP/1.1 and returns the whole answer.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) -> String {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// Waits until new connections get a certificate.
async fn wait_for(address: SocketAddr, old: &Issued, new: &Issued) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stream = connect(address, &[old, new], b"http/1.1").await.unwrap();
        if certificate(&stream) == new.der {
            return;
        }
        assert!(Instant::now() < deadline, "the new certificate is not used");
        sleep(RELOAD).await;
    }
}

#[tokio::test]
async fn http_1_is_spoken_over_tls_and_links_say_https() {
    let registry = Registry::new().await;
    let issued = issue();
    let server = start_tls(&registry, &Secret::new(&issued), limits()).await;
    let mut stream = connect(server.address, &[&issued], b"http/1.1")
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let page = ask(&mut stream, "/").await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(!page.contains("without TLS"), "{page}");

    let (_, path) = registry.follow("/v2/failing/manifests/latest").await;
    let mut stream = connect(server.address, &[&issued], b"http/1.1")
        .await
        .unwrap();
    let answer = ask(&mut stream, &path).await;
    assert!(answer.contains("https://localhost/builds/"), "{answer}");
}

#[tokio::test]
async fn http_2_is_spoken_over_tls() {
    let registry = Registry::new().await;
    let issued = issue();
    let server = start_tls(&registry, &Secret::new(&issued), limits()).await;
    let stream = connect(server.address, &[&issued], b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("https://localhost/v2/git/manifests/latest");
    let mut client = client.ready().await.unwrap();
    let (response, _) = client
        .send_request(request.body(()).unwrap(), true)
        .unwrap();
    let mut response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut read = 0;
    while let Some(piece) = response.body_mut().data().await {
        read += piece.unwrap().len();
    }
    assert_eq!(read.to_string(), response.headers()["content-length"]);
}

#[rstest]
#[case(&rustls::version::TLS12)]
#[case(&rustls::version::TLS13)]
#[tokio::test]
async fn both_versions_of_tls_are_spoken(
    #[case] version: &'static rustls::SupportedProtocolVersion,
) {
    let registry = Registry::new().await;
    let issued = issue();
    let server = start_tls(&registry, &Secret::new(&issued), limits()).await;
    let mut roots = RootCertStore::empty();
    roots.add(issued.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let client = TlsConnector::from(Arc::new(config));
    let mut stream = client.connect(name(), stream).await.unwrap();
    assert!(ask(&mut stream, "/v2/").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_certificates_are_replaced() {
    let registry = Registry::new().await;
    let mut old = issue();
    let mut secret = Secret::new(&old);
    let server = start_tls(&registry, &secret, limits()).await;
    let address = server.address;
    let mut open = connect(address, &[&old], b"http/1.1").await.unwrap();
    for _ in 0..4 {
        let new = issue();
        let mut requests = JoinSet::new();
        for number in 0..50 {
            let (old, new) = (old.clone(), new.clone());
            requests.spawn(async move {
                sleep(RELOAD * (number % 5)).await;
                let mut stream = connect(address, &[&old, &new], b"http/1.1").await.unwrap();
                let answer = ask(&mut stream, "/v2/").await;
                assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            });
        }
        secret.replace(&new.certificate, &new.key);
        wait_for(address, &old, &new).await;
        while let Some(request) = requests.join_next().await {
            request.expect("every request succeeds");
        }
        old = new;
    }
    // The connection from before all that is still served.
    let answer = ask(&mut open, "/v2/").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

/// The client does not trust the new certificate, and need not see it.
#[tokio::test]
async fn sessions_are_resumed_after_the_certificate_was_replaced() {
    let registry = Registry::new().await;
    let (old, new) = (issue(), issue());
    let mut secret = Secret::new(&old);
    let server = start_tls(&registry, &secret, limits()).await;
    let client = client(&[&old], b"http/1.1");
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let mut stream = client.connect(name(), stream).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected));
        assert!(ask(&mut stream, "/v2/").await.starts_with("HTTP/1.1 200"));
        secret.replace(&new.certificate, &new.key);
        wait_for(server.address, &old, &new).await;
    }
}

#[tokio::test]
async fn files_that_do_not_fit_change_nothing_until_they_do() {
    let registry = Registry::new().await;
    let (old, new) = (issue(), issue());
    let mut secret = Secret::new(&old);
    let server = start_tls(&registry, &secret, limits()).await;
    // No certificate of one version fits to a key of another, however the readings fall.
    for (broken, key) in [
        (&new.certificate, &old.key),
        (&String::new(), &old.key),
        (&new.certificate, &"no key".to_owned()),
    ] {
        secret.replace(broken, key);
        let deadline = Instant::now() + RELOAD * 5;
        while Instant::now() < deadline {
            let stream = connect(server.address, &[&old, &new], b"http/1.1").await;
            assert_eq!(certificate(&stream.unwrap()), old.der);
        }
    }
    secret.replace(&new.certificate, &new.key);
    wait_for(server.address, &old, &new).await;
}

#[rstest]
#[case::http_1("GET /v2/ HTTP/1.1\r\nHost: localhost:8443\r\n\r\n")]
#[case::monitoring("GET /healthz HTTP/1.1\r\nHost: localhost:8443\r\n\r\n")]
#[tokio::test]
async fn plain_http_to_a_tls_port_is_answered_with_what_to_do(#[case] request: &str) {
    let registry = Registry::new().await;
    let server = start_tls(&registry, &Secret::new(&issue()), limits()).await;
    let answer = receive(send(server.address, request).await).await;
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("this port speaks TLS. Fix: use https://localhost:8443"),
        "{answer}"
    );
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
}

/// Go's client prints "server gave HTTP response to HTTPS client" for this answer.
#[tokio::test]
async fn tls_to_a_plain_port_is_answered_in_http() {
    let registry = Registry::new().await;
    let listener = Listener::from(bind(LOCAL, 0).await.unwrap());
    let server = start_listener(&registry, listener, limits(), MINUTE);
    let hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(&[hello, &[0xa5; 506]].concat())
        .await
        .unwrap();
    let answer = timeout(PATIENCE, receive(stream)).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );

    let error = connect(server.address, &[&issue()], b"http/1.1")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("corrupt message"), "{error}");
}

#[tokio::test]
async fn a_silent_handshake_is_closed_and_blocks_nobody() {
    let registry = Registry::new().await;
    let issued = issue();
    let limits = Limits {
        handshake: Duration::from_millis(500),
        ..limits()
    };
    let server = start_tls(&registry, &Secret::new(&issued), limits).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let half: &[u8] = b"\x16\x03\x01";
    let half = send_bytes(server.address, half).await;
    let mut stream = connect(server.address, &[&issued], b"http/1.1")
        .await
        .unwrap();
    assert!(ask(&mut stream, "/v2/").await.starts_with("HTTP/1.1 200"));
    let read = timeout(PATIENCE, silent.read(&mut [0])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    timeout(PATIENCE, receive(half)).await.unwrap();
}

async fn send_bytes(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

#[tokio::test]
async fn a_handshake_counts_as_a_connection_and_makes_room_for_others() {
    let registry = Registry::new().await;
    let issued = issue();
    let limits = Limits {
        connections: 4,
        connections_per_client: 2,
        ..limits()
    };
    let server = start_tls(&registry, &Secret::new(&issued), limits).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    let second = TcpStream::connect(server.address).await.unwrap();
    let mut stream = connect(server.address, &[&issued], b"http/1.1")
        .await
        .unwrap();
    let read = timeout(PATIENCE, first.read(&mut [0])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(ask(&mut stream, "/v2/").await.starts_with("HTTP/1.1 200"));
    drop(second);
}

#[tokio::test]
async fn stopping_lets_a_running_request_over_tls_end() {
    let registry = Registry::new().await;
    let issued = issue();
    let server = start_tls(&registry, &Secret::new(&issued), limits()).await;
    let mut stream = connect(server.address, &[&issued], b"http/1.1")
        .await
        .unwrap();
    let silent = TcpStream::connect(server.address).await.unwrap();
    let running = tokio::spawn(async move { ask(&mut stream, "/v2/slow/manifests/latest").await });
    let deadline = Instant::now() + PATIENCE;
    while registry.nix.evaluations() == 0 {
        assert!(Instant::now() < deadline, "the build does not start");
        tokio::task::yield_now().await;
    }
    server.stop.send(()).unwrap();
    // A handshake that has not ended is closed.
    timeout(PATIENCE, receive(silent)).await.unwrap();
    registry.nix.open_gate();
    let answer = running.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(server.ended.await.unwrap(), "all requests ended");
}

#[tokio::test]
async fn a_client_that_takes_nothing_over_tls_is_disconnected() {
    let registry = Registry::new().await;
    let blob = bytes::Bytes::from(vec![7; 16 << 20]);
    let digest = Digest::of(&blob);
    let put = registry
        .storage
        .put(&Key::blob(digest), blob, PutMode::Replace)
        .await;
    let _ = put.unwrap();
    let issued = issue();
    let limits = Limits {
        stall: Duration::from_millis(500),
        ..limits()
    };
    let server = start_tls(&registry, &Secret::new(&issued), limits).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    let client = client(&[&issued], b"http/1.1");
    let mut stream = client.connect(name(), stream).await.unwrap();
    let request = format!("GET /v2/git/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // It is counted when it ends.
    let counted = "nixery_http_requests_total{route=\"blob\"";
    let deadline = Instant::now() + PATIENCE;
    while !registry.get("/metrics").await.text().contains(counted) {
        assert!(Instant::now() < deadline, "the response does not end");
        sleep(RELOAD).await;
    }
    drop(stream);
}
