//! Opens ports and accepts connections, until an orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::Service;

use crate::arrival::{Arrival, ListenerRole};
use crate::config::table::{ADMIN_LISTEN, LISTEN, PORT};
use crate::connections::Connections;
use crate::limits::Limits;
use crate::serving::Serving;
use crate::tls::Tls;

/// Pause after the system refused a connection, for want of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens the port of the registry. Without an address the server listens on all addresses, or on
/// IPv4 alone where there is no IPv6.
///
/// # Errors
/// The port is taken, or this user may not use it.
pub async fn bind(address: Option<IpAddr>, port: u16) -> Result<TcpListener, ListenError> {
    let failed = |address| move |source| ListenError::Registry { address, source };
    if let Some(address) = address {
        let address = SocketAddr::new(address, port);
        return TcpListener::bind(address).await.map_err(failed(address));
    }
    let all = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    match TcpListener::bind(all).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(failed(all)(error)),
        Err(_) => {
            let all = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            TcpListener::bind(all).await.map_err(failed(all))
        }
    }
}

/// Opens the port of the admin listener.
///
/// # Errors
/// The port is taken, or this user may not use it.
pub async fn bind_admin(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| ListenError::Admin { address, source })
}

/// A port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The port of the registry.
    #[error(
        "cannot listen on {address}. Fix: choose another port with {PORT} or another address with {LISTEN}"
    )]
    Registry {
        /// The address and the port.
        address: SocketAddr,
        /// Why it cannot be opened.
        source: io::Error,
    },
    /// The port of the admin listener.
    #[error("cannot listen on {address}. Fix: choose another address or port with {ADMIN_LISTEN}")]
    Admin {
        /// The address and the port.
        address: SocketAddr,
        /// Why it cannot be opened.
        source: io::Error,
    },
}

/// An open port, and how it is served. A port alone serves the registry over plain HTTP.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
    arrival: Arrival,
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self {
            socket,
            tls: None,
            arrival: Arrival::default(),
        }
    }
}

impl Listener {
    /// Returns a listener that speaks TLS.
    #[must_use]
    pub fn with_tls(self, tls: Arc<Tls>) -> Self {
        let arrival = Arrival {
            registry_tls: true,
            ..self.arrival
        };
        Self {
            tls: Some(tls),
            arrival,
            ..self
        }
    }

    /// Returns the admin listener of the registry that another listener serves. It answers health
    /// checks, metrics and pages, but no requests for images.
    #[must_use]
    pub fn admin(socket: TcpListener, registry: &Self) -> Self {
        let port = registry.socket.local_addr().map(|address| address.port());
        let arrival = Arrival {
            role: ListenerRole::Admin,
            registry_tls: registry.tls.is_some(),
            registry_port: port.ok(),
        };
        Self {
            socket,
            tls: None,
            arrival,
        }
    }

    /// Returns `https` or `http`, and the address, such as `https://[::]:8080`.
    pub(crate) fn url(&self) -> io::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.address()?))
    }

    /// Returns the address and the port.
    ///
    /// # Errors
    /// The system does not know it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Serves a registry (see [`router`](crate::router)) until `stop` is ready, then waits at most
/// `grace` for running requests. The limits hold for this listener alone.
///
/// Returns whether all of them ended.
pub async fn serve<S>(
    listener: impl Into<Listener>,
    registry: S,
    limits: Limits,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> bool
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>,
    S: Clone + Send + 'static,
{
    let Listener {
        socket,
        tls,
        arrival,
    } = listener.into();
    let connections = Connections::new(limits);
    // Each connection has a receiver. It holds whether the server is stopping, and is closed when
    // the time for an orderly end is over.
    let (stopping, receiver) = watch::channel(false);
    let serving = Serving {
        registry,
        limits,
        tls,
        arrival,
        stopping: receiver,
    };
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, peer)) => if let Some(admission) = connections.admit(peer.ip()) {
                    tokio::spawn(serving.clone().run(stream, peer, admission));
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
    drop((socket, serving));
    stopping.send_replace(true);
    tokio::time::timeout(grace, stopping.closed()).await.is_ok()
}
