//! How a request reached this server: which listener accepted it, and what that listener serves.

use http::request::Parts;

use crate::route::{Route, RouteError};

/// The purpose of a listener. Requests to the admin listener come from the operator's own programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ListenerRole {
    /// Clients of the registry.
    #[default]
    Public,
    /// Health checks, metrics, and the people who run the server.
    Admin,
}

/// How a request reached this server, in the extensions of the request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The listener that accepted its connection.
    pub(crate) role: ListenerRole,
    /// Whether the listener of the registry speaks TLS.
    pub(crate) registry_tls: bool,
    /// The port of the registry, where the request came to another one.
    pub(crate) registry_port: Option<u16>,
}

impl Arrival {
    /// Returns how a request arrived. One of a router within a larger server counts as a public
    /// one over plain HTTP.
    pub(crate) fn of(request: &Parts) -> Self {
        request.extensions.get().copied().unwrap_or_default()
    }
}

impl ListenerRole {
    /// Whether this listener serves what a request asks for. A path without a route counts by its
    /// beginning.
    pub(crate) fn serves(
        self,
        public_pages: bool,
        path: &str,
        route: &Result<Route, RouteError>,
    ) -> bool {
        let registry = match route {
            Ok(route) => route.belongs_to_registry(),
            Err(_) => Route::is_registry(path),
        };
        match self {
            Self::Public => registry || public_pages,
            Self::Admin => !registry,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use rstest::rstest;

    use super::*;

    const PUBLIC: ListenerRole = ListenerRole::Public;
    const ADMIN: ListenerRole = ListenerRole::Admin;

    #[rstest]
    #[case(PUBLIC, true, &["/", "/metrics", "/builds/1", "/v2/", "/v2/git/manifests/latest", "/x"], &[])]
    #[case(PUBLIC, false, &["/v2", "/v2/", "/v2/git/manifests/latest", "/v2/Git/tags/list"],
        &["/", "/metrics", "/healthz", "/readyz", "/builds/1", "/style.css", "/x"])]
    #[case(ADMIN, true, &["/", "/metrics", "/healthz", "/readyz", "/builds/1", "/style.css", "/x"],
        &["/v2", "/v2/", "/v2/git/manifests/latest", "/v2/Git/tags/list", "/%76%32/git/tags/list"])]
    #[case(ADMIN, false, &["/", "/metrics", "/healthz", "/builds/1"], &["/v2/"])]
    fn a_listener_serves_what_it_is_for(
        #[case] role: ListenerRole,
        #[case] public_pages: bool,
        #[case] served: &[&str],
        #[case] others: &[&str],
    ) {
        for (paths, expected) in [(served, true), (others, false)] {
            for path in paths {
                let route = Route::parse(&Method::GET, path);
                assert_eq!(role.serves(public_pages, path, &route), expected, "{path}");
            }
        }
    }
}
