//! Accepts connections, with limits, time-outs and an orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWrite;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_io_timeout::TimeoutWriter;
use tower::Service;

/// Time in which a client must send the head of a request, from the start of the connection or the
/// end of the previous request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Time after which a client that reads nothing is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Limit of a request's head: an image name of 255 bytes, and room for the long tokens of proxies.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Limit of concurrent requests on one HTTP/2 connection.
const MAX_STREAMS: u32 = 200;
/// Pause after the system refused a connection, for want of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens the port. Without an address the server listens on all addresses, or on IPv4 alone where
/// there is no IPv6.
///
/// # Errors
/// The port is taken, or this user may not use it.
pub async fn bind(address: Option<IpAddr>, port: u16) -> Result<TcpListener, ListenError> {
    let failed = |address| move |source| ListenError { address, source };
    if let Some(address) = address {
        let address = SocketAddr::new(address, port);
        return TcpListener::bind(address).await.map_err(failed(address));
    }
    let all = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    match TcpListener::bind(all).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(failed(all)(error)),
        Err(_) => {
            let all = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            TcpListener::bind(all).await.map_err(failed(all))
        }
    }
}

/// The port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}. Fix: choose another port with PORT (--port) or another address with NIXERY_LISTEN (--listen)"
)]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Serves a registry (see [`router`](crate::router)) until `stop` is ready, then waits at most
/// `grace` for running requests.
///
/// Returns whether all of them ended.
pub async fn serve<S>(
    listener: TcpListener,
    registry: S,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> bool
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>,
    S: Clone + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let (closing, closed) = watch::channel(());
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => connection(stream, peer, registry.clone(), &graceful, closed.clone()),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = &mut stop => break,
        }
    }
    // A closed port makes load balancers and clients use other servers.
    drop(listener);
    let ended = tokio::time::timeout(grace, graceful.shutdown())
        .await
        .is_ok();
    drop(closing);
    ended
}

fn connection<S>(
    stream: TcpStream,
    peer: SocketAddr,
    registry: S,
    graceful: &GracefulShutdown,
    mut closed: watch::Receiver<()>,
) where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>,
    S: Clone + Send + 'static,
{
    // Small answers, such as redirects, are sent at once.
    let _ = stream.set_nodelay(true);
    let asked = Arc::new(AtomicBool::new(false));
    let first = Arc::clone(&asked);
    let service = TowerToHyperService::new(tower::ServiceExt::map_request(
        registry,
        move |mut request: http::Request<hyper::body::Incoming>| {
            first.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(ConnectInfo(peer));
            request.map(axum::body::Body::new)
        },
    ));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(HEADER_TIMEOUT);
    let connection = builder
        .serve_connection(TokioIo::new(with_write_timeout(stream)), service)
        .into_owned();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        let mut connection = std::pin::pin!(connection);
        // The time-outs above start when the protocol is known, which a client that sends nothing
        // never reaches.
        let silent = async {
            tokio::time::sleep(HEADER_TIMEOUT).await;
            if asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            result = &mut connection => if let Err(error) = result {
                tracing::debug!(%error, "a connection failed");
            },
            () = silent => tracing::debug!("closed a connection without a request"),
            // The sender is dropped when the time for an orderly end is over.
            _ = closed.changed() => {}
        }
    });
}

/// A connection whose writing fails when the client takes nothing for [`WRITE_TIMEOUT`].
///
/// Without it, a client that stops reading holds its connection, and what is being sent, for as
/// long as the kernel lets it.
fn with_write_timeout<S: AsyncWrite>(stream: S) -> Pin<Box<TimeoutWriter<S>>> {
    let mut writer = TimeoutWriter::new(stream);
    writer.set_timeout(Some(WRITE_TIMEOUT));
    Box::pin(writer)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_disconnected() {
        let (_client, server) = tokio::io::duplex(10);
        let mut server = with_write_timeout(server);
        let before = tokio::time::Instant::now();
        let error = server.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        assert!(before.elapsed() >= WRITE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_not() {
        let (mut client, server) = tokio::io::duplex(10);
        let mut server = with_write_timeout(server);
        let writing = tokio::spawn(async move { server.write_all(&[0; 100]).await });
        let mut buffer = [0; 10];
        for _ in 0..10 {
            tokio::time::sleep(WRITE_TIMEOUT / 2).await;
            client.read_exact(&mut buffer).await.unwrap();
        }
        writing.await.unwrap().unwrap();
    }
}
