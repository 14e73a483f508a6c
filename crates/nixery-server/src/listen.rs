//! Accepts connections, with limits, time-outs and an orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use http::header::CONNECTION;
use http::{HeaderValue, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::{Service, ServiceExt};

use crate::connections::{Admission, Connections, Refusal, is_monitoring};
use crate::limits::Limits;
use crate::stalls::{ResponseBody, ResponseHandle, StallTimeout, Streams, count_unsent};

/// Limit of a request's head: an image name of 255 bytes, and room for the long tokens of proxies.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Bytes of one response that wait to be sent over HTTP/2.
const MAX_SEND_BYTES: usize = 64 * 1024;
/// Bytes that a client may send over HTTP/2 unasked: requests have no bodies that are read.
const RECEIVE_WINDOW: u32 = 64 * 1024 - 1;
/// Bytes that the system holds unsent for one connection. A larger buffer would hide for long
/// whether a slow client moves.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 64 * 1024;
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
    limits: Limits,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> bool
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>,
    S: Clone + Send + 'static,
{
    let connections = Connections::new(limits);
    // Each connection has a receiver. It holds whether the server is stopping, and is closed when
    // the time for an orderly end is over.
    let (stopping, receiver) = watch::channel(false);
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => if let Some(admission) = connections.admit(peer.ip()) {
                    let registry = registry.clone();
                    serve_connection(stream, peer, registry, &limits, admission, receiver.clone());
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    connections.close_idle();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = &mut stop => break,
        }
    }
    // A closed port makes load balancers and clients use other servers.
    drop((listener, receiver));
    stopping.send_replace(true);
    tokio::time::timeout(grace, stopping.closed()).await.is_ok()
}

fn serve_connection<S>(
    stream: TcpStream,
    peer: SocketAddr,
    registry: S,
    limits: &Limits,
    admission: Admission,
    stopping: watch::Receiver<bool>,
) where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>,
    S: Clone + Send + 'static,
{
    prepare(&stream);
    let connection = Arc::clone(admission.connection());
    let io = StallTimeout::new(stream, Arc::clone(&connection), limits.stall);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let running = connection.begin();
        let (connection, registry) = (Arc::clone(&connection), registry.clone());
        async move {
            let version = request.version();
            let monitoring = is_monitoring(request.uri().path());
            let response = match connection.refusal_of(request.uri().path()) {
                Some(refusal) => refuse(refusal, version),
                None => {
                    let mut request = request.map(Body::new);
                    request.extensions_mut().insert(ConnectInfo(peer));
                    let handle = ResponseHandle::new(&connection);
                    request.extensions_mut().insert(handle);
                    registry.oneshot(request).await?
                }
            };
            let unsent = if monitoring {
                Ok(None)
            } else {
                count_unsent(response.body(), &connection)
            };
            let (response, unsent) = match unsent {
                Ok(unsent) => (response, unsent),
                Err(refusal) => (refuse(refusal, version), None),
            };
            Ok::<_, Infallible>(response.map(|body| ResponseBody::new(body, running, unsent)))
        }
    });
    let mut builder = auto::Builder::new(Streams {
        limit: limits.stall,
    });
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.streams)
        .max_send_buf_size(MAX_SEND_BYTES)
        .initial_stream_window_size(RECEIVE_WINDOW)
        .initial_connection_window_size(RECEIVE_WINDOW)
        .keep_alive_interval(limits.idle);
    let connection = builder
        .serve_connection(TokioIo::new(io), service)
        .into_owned();
    tokio::spawn(run_connection(connection, *limits, admission, stopping));
}

/// Runs a connection until it ends, is closed to make room, or the time for an orderly end is over.
///
/// Without a request for some time, and when the server stops, the server asks the client to end
/// it.
async fn run_connection(
    connection: impl GracefulConnection<Error = Box<dyn std::error::Error + Send + Sync>>,
    limits: Limits,
    admission: Admission,
    mut stopping: watch::Receiver<bool>,
) {
    let state = admission.connection();
    let mut connection = std::pin::pin!(connection);
    let ended = |result: Result<(), _>| {
        if let Err(error) = result {
            tracing::debug!(%error, "a connection failed");
        }
    };
    tokio::select! {
        result = connection.as_mut() => return ended(result),
        () = state.closed() => {
            return tracing::debug!("closed a connection to make room for others");
        }
        () = state.idle_for(limits.idle) => {}
        _ = stopping.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    state.touch();
    let over = async { while stopping.changed().await.is_ok() {} };
    tokio::select! {
        result = connection => ended(result),
        () = state.closed() => {}
        () = state.idle_for(limits.stall) => {}
        () = over => {}
    }
}

/// Sets options of a socket. Without one of them, all works, only less well.
fn prepare(stream: &TcpStream) {
    // Small answers, such as redirects, are sent at once.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES);
}

/// Answers a request beyond the limits.
fn refuse(refusal: Refusal, version: Version) -> Response {
    let mut response = refusal.error().into_response();
    if version < Version::HTTP_2 {
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
