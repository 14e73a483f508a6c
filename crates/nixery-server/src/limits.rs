//! How much clients may hold at once, derived from the descriptors that the system allows.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::ServerSettings;
use crate::config::table::{MAX_CONNECTIONS, MAX_DOWNLOADS};

/// Descriptors that the server asks the system for. It asks for no more than the limits need, as
/// some of its child processes close every descriptor that they could have.
const WANTED_DESCRIPTORS: usize = 16 * 1024;
/// Descriptors for Nix processes, spool files and connections to a remote store.
const OWN_DESCRIPTORS: usize = 256;
/// Connections of the admin listener, without its reserve.
const ADMIN_CONNECTIONS: usize = 64;
/// Limit of connections by default: each needs some kilobytes of memory even if it is idle.
const MAX_DEFAULT_CONNECTIONS: usize = 4096;
/// Limit of bytes that wait for their clients, without those of blobs.
const MAX_UNSENT_BYTES: usize = 64 * 1024 * 1024;
/// Limit of downloads by default: each may need 0.4 megabytes of memory while its client reads
/// slowly.
const MAX_DEFAULT_DOWNLOADS: usize = 256;

/// What clients may hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all clients.
    pub connections: usize,
    /// Connections of one client. The addresses of an IPv6 network (`/64`) are one client.
    pub connections_per_client: usize,
    /// Further connections, on which only health checks and requests for metrics succeed.
    pub reserve: usize,
    /// Concurrent requests on one HTTP/2 connection.
    pub streams: u32,
    /// Bytes of manifests, pages and other answers that wait for their clients. A client gets the
    /// same share of them as of connections.
    pub unsent_bytes: usize,
    /// Blobs that are being sent to all clients.
    pub downloads: usize,
    /// Blobs that are being sent to one client.
    pub downloads_per_client: usize,
    /// A client must take some kilobytes of a response within this time, or the response ends.
    pub stall: Duration,
    /// Time after which a connection without a request is closed.
    pub idle: Duration,
    /// Time limit of a TLS handshake.
    pub handshake: Duration,
}

impl Limits {
    /// Returns the limits of a process that may open this number of files.
    #[must_use]
    pub fn for_descriptors(descriptors: usize) -> Self {
        let connections = (descriptors / 2).clamp(1, MAX_DEFAULT_CONNECTIONS);
        let downloads = (descriptors / 8).clamp(1, MAX_DEFAULT_DOWNLOADS);
        Self {
            connections,
            connections_per_client: connections.div_ceil(2),
            reserve: (connections / 16).clamp(2, 32),
            streams: 32,
            unsent_bytes: MAX_UNSENT_BYTES,
            downloads,
            downloads_per_client: downloads.div_ceil(2),
            stall: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            handshake: Duration::from_secs(10),
        }
    }

    /// Returns the limits of the admin listener, which few programs and people use. They are its
    /// own, so that clients of the registry cannot fill them.
    pub(crate) fn of_admin_listener() -> Self {
        Self {
            unsent_bytes: MAX_UNSENT_BYTES / 8,
            ..Self::for_descriptors(2 * ADMIN_CONNECTIONS)
        }
    }

    /// Raises the limit of this process on open files, and returns the limits that the settings
    /// choose or the system allows.
    pub(crate) fn of(settings: &ServerSettings) -> Self {
        let chosen = |descriptors| Self::for_descriptors(descriptors).with(settings);
        let wanted = chosen(WANTED_DESCRIPTORS).descriptors();
        let allowed = raise_descriptors(wanted.max(WANTED_DESCRIPTORS));
        let limits = chosen(allowed);
        let needed = limits.descriptors();
        if needed > allowed {
            tracing::warn!(
                "the server needs up to {needed} open files, but the system allows {allowed}: under load it may refuse connections. Fix: raise the limit (LimitNOFILE in systemd, `ulimit -n` in a shell), or lower {MAX_CONNECTIONS} and {MAX_DOWNLOADS}"
            );
        }
        limits
    }

    /// Returns the limits with those that the settings choose. A client gets the same share of
    /// downloads as of connections, or half of them behind trusted proxies: these have the
    /// connections of many clients, but report each client that downloads.
    fn with(mut self, settings: &ServerSettings) -> Self {
        if let Some(connections) = settings.max_connections {
            self.connections = connections;
            self.connections_per_client = connections.div_ceil(2);
        }
        self.downloads = settings.max_downloads.unwrap_or(self.downloads);
        let per_client = settings.max_connections_per_client;
        self.connections_per_client = per_client
            .unwrap_or(self.connections_per_client)
            .min(self.connections);
        self.downloads_per_client = if settings.http.trusted_proxies.is_empty() {
            self.share(self.downloads)
        } else {
            self.downloads.div_ceil(2)
        };
        self
    }

    /// Returns the share of one client, which is the same as of connections.
    fn share(&self, of: usize) -> usize {
        let shared = of as u128 * self.connections_per_client as u128;
        shared.div_ceil(self.connections.max(1) as u128) as usize
    }

    /// Returns how many bytes may wait for one client, without those of blobs.
    pub(crate) fn unsent_bytes_per_client(&self) -> usize {
        self.share(self.unsent_bytes)
    }

    /// Returns how many files may be open at these limits.
    fn descriptors(&self) -> usize {
        self.connections
            .saturating_add(self.reserve)
            .saturating_add(self.downloads)
            .saturating_add(ADMIN_CONNECTIONS)
            .saturating_add(OWN_DESCRIPTORS)
    }
}

/// Raises the limit of open files to `wanted`, as far as the system allows, and returns the limit.
fn raise_descriptors(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    // An absent limit is no limit.
    let count = |limit: Option<u64>| limit.map_or(usize::MAX, |limit| limit as usize);
    let (current, most) = (count(limit.current), count(limit.maximum));
    let wanted = wanted.min(most);
    if wanted <= current {
        return current;
    }
    let raised = Rlimit {
        current: Some(wanted as u64),
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files from {current} to {wanted}");
            current
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::config::Arguments;
    use crate::config::table::{MAX_CONNECTIONS_PER_CLIENT, TRUSTED_PROXIES};

    #[rstest]
    #[case(1024)]
    #[case(4096)]
    #[case(65_536)]
    #[case(1 << 20)]
    fn the_defaults_fit_into_the_descriptors(#[case] descriptors: usize) {
        let limits = Limits::for_descriptors(descriptors);
        assert!(limits.descriptors() <= descriptors, "{limits:?}");
        assert!(limits.connections_per_client < limits.connections);
        assert!(limits.downloads_per_client < limits.downloads);
    }

    #[test]
    fn few_descriptors_still_leave_something_of_everything() {
        let limits = Limits::for_descriptors(0);
        let least = [
            limits.connections,
            limits.connections_per_client,
            limits.reserve,
            limits.downloads,
            limits.downloads_per_client,
        ];
        assert!(least.iter().all(|limit| *limit > 0), "{limits:?}");
    }

    #[test]
    fn a_client_gets_the_same_share_of_downloads_as_of_connections() {
        let settings = Arguments::<ServerSettings>::default()
            .with(MAX_CONNECTIONS, "1000")
            .with(MAX_CONNECTIONS_PER_CLIENT, "250")
            .with(MAX_DOWNLOADS, "100")
            .settings()
            .unwrap();
        let limits = Limits::for_descriptors(1 << 20).with(&settings);
        assert_eq!((limits.connections, limits.downloads), (1000, 100));
        assert_eq!(limits.connections_per_client, 250);
        assert_eq!(limits.downloads_per_client, 25);
    }

    #[test]
    fn one_client_may_have_everything() {
        let settings = Arguments::<ServerSettings>::default()
            .with(MAX_CONNECTIONS_PER_CLIENT, "1000000")
            .settings()
            .unwrap();
        let limits = Limits::for_descriptors(1 << 20).with(&settings);
        assert_eq!(limits.connections_per_client, limits.connections);
        assert_eq!(limits.downloads_per_client, limits.downloads);
    }

    #[test]
    fn no_client_behind_a_trusted_proxy_may_have_all_downloads() {
        let settings = Arguments::<ServerSettings>::default()
            .with(MAX_CONNECTIONS, "1000")
            .with(MAX_CONNECTIONS_PER_CLIENT, "1000")
            .with(MAX_DOWNLOADS, "100")
            .with(TRUSTED_PROXIES, "10.0.0.0/8")
            .settings()
            .unwrap();
        let limits = Limits::for_descriptors(1 << 20).with(&settings);
        assert_eq!(limits.connections_per_client, 1000, "of the proxy");
        assert_eq!(limits.downloads_per_client, 50);
    }

    #[test]
    fn the_limit_of_open_files_is_raised_as_far_as_allowed() {
        let before = getrlimit(Resource::Nofile);
        let most = before.maximum.unwrap_or(u64::MAX) as usize;
        let raised = raise_descriptors(usize::MAX);
        assert!(raised <= most);
        assert!(raised as u64 >= before.current.unwrap_or(u64::MAX).min(most as u64));
        assert_eq!(raise_descriptors(1), raised, "it is never lowered");
    }
}
