//! A client that wants to be answered at once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far more than an answer takes on a busy machine, far less than a hostile client can wait.
const LIMIT: Duration = Duration::from_secs(5);

/// Asks for a path on a connection of its own and returns the whole answer.
pub(crate) async fn get(address: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Asks for health and for a cached manifest, again and again.
pub(crate) struct Probe(JoinHandle<()>);

impl Probe {
    /// Starts when the manifest is cached.
    pub(crate) async fn start(address: SocketAddr) -> Self {
        ask(address, "/v2/git/manifests/latest").await;
        Self(tokio::spawn(async move {
            loop {
                ask(address, "/healthz").await;
                ask(address, "/v2/git/manifests/latest").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }))
    }

    /// Every question was answered in time.
    #[track_caller]
    pub(crate) fn assert_answered(self) {
        assert!(!self.0.is_finished(), "the probe failed");
        self.0.abort();
    }
}

async fn ask(address: SocketAddr, path: &str) {
    let begun = Instant::now();
    let answer = timeout(LIMIT, get(address, path)).await;
    let answer = answer.unwrap_or_else(|_| panic!("{path}: no answer in {LIMIT:?}"));
    let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
    let text = String::from_utf8_lossy(&answer);
    let took = begun.elapsed();
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\n"),
        "{path} after {took:?}: {text}"
    );
}
