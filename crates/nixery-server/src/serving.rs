//! Serves one connection: the TLS handshake, then requests, with limits and time-outs.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use http::header::CONNECTION;
use http::{HeaderValue, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use nixery_storage::error_chain;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tower::{Service, ServiceExt};

use crate::arrival::Arrival;
use crate::connections::{Admission, Connection, is_monitoring};
use crate::error::{ApiError, Code};
use crate::host::{host_problem, request_host};
use crate::limits::Limits;
use crate::page;
use crate::stalls::{ResponseBody, ResponseHandle, StallTimeout, Streams, count_unsent};
use crate::tls::{Tls, begins_tls};

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

/// What all connections of a listener have in common.
#[derive(Debug, Clone)]
pub(crate) struct Serving<S> {
    pub(crate) registry: S,
    pub(crate) limits: Limits,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) arrival: Arrival,
    /// See [`serve`](crate::listen::serve).
    pub(crate) stopping: watch::Receiver<bool>,
}

/// A connection of a TLS port after its first bytes.
enum Opened {
    Tls(Box<TlsStream<StallTimeout<TcpStream>>>),
    /// The client does not speak TLS.
    Plain(StallTimeout<TcpStream>),
}

impl<S> Serving<S>
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>,
    S: Clone + Send + 'static,
{
    /// Runs a connection until it ends.
    pub(crate) async fn run(mut self, stream: TcpStream, peer: SocketAddr, admission: Admission) {
        prepare(&stream);
        let state = Arc::clone(admission.connection());
        let Some(tls) = self.tls.clone() else {
            let io = StallTimeout::new(stream, state, self.limits.stall);
            return Box::pin(self.run_http(io, peer, admission, false)).await;
        };
        let opening = open(&tls, stream, &state, &self.limits);
        let opened = tokio::select! {
            opened = timeout(self.limits.handshake, opening) => opened,
            () = state.closed() => {
                return tracing::debug!("closed a connection to make room for others");
            }
            _ = self.stopping.changed() => return,
        };
        match opened {
            Ok(Ok(Opened::Tls(io))) => {
                Box::pin(self.run_http(*io, peer, admission, false)).await;
            }
            Ok(Ok(Opened::Plain(io))) => {
                Box::pin(self.run_http(io, peer, admission, true)).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, %peer, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
        }
    }

    /// Answers the requests of a connection. `needs_tls` refuses them all, because they came to a
    /// TLS port without TLS.
    async fn run_http(
        self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: SocketAddr,
        admission: Admission,
        needs_tls: bool,
    ) {
        let connection = Arc::clone(admission.connection());
        let (registry, arrival) = (self.registry, self.arrival);
        let service = service_fn(move |request: http::Request<Incoming>| {
            let running = connection.begin();
            let (connection, registry) = (Arc::clone(&connection), registry.clone());
            async move {
                let version = request.version();
                let monitoring = is_monitoring(request.uri().path());
                let refused = match connection.refusal_of(request.uri().path()) {
                    Some(refusal) => Some(refusal.error().into_response()),
                    None => bad_request(&request, needs_tls),
                };
                let response = match refused {
                    Some(refused) => closing(refused, version),
                    None => {
                        let mut request = request.map(Body::new);
                        let extensions = request.extensions_mut();
                        extensions.insert(ConnectInfo(peer));
                        extensions.insert(arrival);
                        extensions.insert(ResponseHandle::new(&connection));
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
                    Err(refusal) => (closing(refusal.error().into_response(), version), None),
                };
                Ok::<_, Infallible>(response.map(|body| ResponseBody::new(body, running, unsent)))
            }
        });
        let builder = http_builder(&self.limits);
        let connection = builder.serve_connection(TokioIo::new(io), service);
        run_connection(connection, &self.limits, admission, self.stopping).await;
    }
}

/// Makes the TLS handshake, unless the client sends something else.
///
/// [`StallTimeout`] is below TLS: there it sees each byte that the system takes. TLS accepts bytes
/// into a buffer of its own, and sends the last of them when it is flushed, which has no time
/// limit.
async fn open(
    tls: &Tls,
    stream: TcpStream,
    state: &Arc<Connection>,
    limits: &Limits,
) -> io::Result<Opened> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let io = StallTimeout::new(stream, Arc::clone(state), limits.stall);
    if begins_tls(first[0]) {
        Ok(Opened::Tls(Box::new(tls.accept(io).await?)))
    } else {
        Ok(Opened::Plain(io))
    }
}

/// Returns how HTTP is spoken on connections.
fn http_builder(limits: &Limits) -> auto::Builder<Streams> {
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
    builder
}

/// Runs a connection until it ends, is closed to make room, or the time for an orderly end is over.
///
/// Without a request for some time, and when the server stops, the server asks the client to end
/// it.
async fn run_connection(
    connection: impl GracefulConnection<Error = Box<dyn Error + Send + Sync>>,
    limits: &Limits,
    admission: Admission,
    mut stopping: watch::Receiver<bool>,
) {
    let state = admission.connection();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return log_end(result),
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
        result = connection => log_end(result),
        () = state.closed() => {}
        () = state.idle_for(limits.stall) => {}
        () = over => {}
    }
}

/// Logs why a connection failed, if it did. A client that begins TLS at a plain port got status 400
/// from hyper, as for everything that is no request.
fn log_end(result: Result<(), Box<dyn Error + Send + Sync>>) {
    let Err(error) = result else {
        return;
    };
    let http = error.downcast_ref::<hyper::Error>();
    let is_no_request = http.is_some_and(hyper::Error::is_parse);
    let error = error_chain(&*error);
    if is_no_request {
        tracing::debug!(
            error,
            "a client sent something that is no HTTP request, TLS for example"
        );
    } else {
        tracing::debug!(error, "a connection failed");
    }
}

/// Sets options of a socket. A connection works without them, but less well.
fn prepare(stream: &TcpStream) {
    // Small answers, such as redirects, are sent at once.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES);
}

/// Returns the answer to a request that must not reach the registry: one without TLS to a TLS port,
/// or one that does not name its host as HTTP demands.
fn bad_request(request: &http::Request<Incoming>, needs_tls: bool) -> Option<Response> {
    let problem = host_problem(request);
    let message = if needs_tls {
        let host = request_host(request.uri(), request.headers()).unwrap_or("…");
        format!("this port speaks TLS. Fix: use https://{host}")
    } else {
        format!(
            "{}. Fix: send one Host header with the name of this registry",
            problem?
        )
    };
    tracing::debug!(reason = message, "refused a request");
    let error = ApiError::new(StatusCode::BAD_REQUEST, Code::Unsupported, message);
    Some(page::refusal(
        request.uri().path(),
        request.headers(),
        error,
    ))
}

/// Returns an answer after which an HTTP/1 connection ends.
fn closing(mut response: Response, version: Version) -> Response {
    if version < Version::HTTP_2 {
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
