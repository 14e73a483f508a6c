//! The address by which a client reaches this registry: the request's host, validated before it is
//! shown.

use std::net::SocketAddr;

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Uri, Version};
use nixery_builder::BuildId;

use crate::arrival::Arrival;
use crate::client::is_from_trusted_proxy;
use crate::config::{HttpSettings, is_authority};

/// Returns the host and port to put before an image name in a pull command.
#[must_use]
pub(crate) fn pull_host(settings: &HttpSettings, request: &Parts) -> String {
    match &settings.public_url {
        Some(url) => without_scheme(url).to_owned(),
        None => client_host(request).unwrap_or_else(|| "localhost".to_owned()),
    }
}

/// Returns the host and port for an example in the log: the configured one, or that by which this
/// machine itself reaches the address.
#[must_use]
pub(crate) fn host_of_examples(settings: &HttpSettings, address: SocketAddr) -> String {
    match &settings.public_url {
        Some(url) => without_scheme(url).to_owned(),
        None if address.ip().is_unspecified() => format!("localhost:{}", address.port()),
        None => address.to_string(),
    }
}

/// Returns what the first proxy wrote into a header to which each proxy appends.
pub(crate) fn forwarded<'a>(request: &'a Parts, header: &str) -> Option<&'a str> {
    let values = request.headers.get(header)?.to_str().ok()?;
    values.split(',').next().map(str::trim)
}

pub(crate) fn without_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, host)| host)
}

/// Whether clients reach this registry with TLS, as far as the server can know.
#[must_use]
pub(crate) fn is_https(settings: &HttpSettings, request: &Parts) -> bool {
    if let Some(url) = &settings.public_url {
        return url.starts_with("https://");
    }
    let of_proxy = forwarded_by_trusted(request, "x-forwarded-proto");
    of_proxy.map_or(Arrival::of(request).registry_tls, |scheme| {
        scheme.eq_ignore_ascii_case("https")
    })
}

/// Returns scheme, host and port of this registry, such as `https://nixery.example.org`, where they
/// are known.
#[must_use]
pub(crate) fn registry_origin(settings: &HttpSettings, request: &Parts) -> Option<String> {
    if let Some(url) = &settings.public_url {
        return Some(url.clone());
    }
    let scheme = if is_https(settings, request) {
        "https"
    } else {
        "http"
    };
    Some(format!("{scheme}://{}", client_host(request)?))
}

/// Returns an absolute URL for a path of this registry where its address is known, else the path
/// itself.
#[must_use]
pub(crate) fn absolute(settings: &HttpSettings, request: &Parts, path: &str) -> String {
    let origin = registry_origin(settings, request).unwrap_or_default();
    format!("{origin}{path}")
}

/// Returns the URL of a build's log, if clients can open it.
#[must_use]
pub(crate) fn log_link(
    settings: &HttpSettings,
    request: &Parts,
    build: &BuildId,
) -> Option<String> {
    let link = || absolute(settings, request, &format!("/builds/{build}"));
    settings.public_pages.then(link)
}

/// Returns the host and port by which the client reached the registry: those that a trusted proxy
/// reports, or else those of the request. A request to another port has only the host in common.
fn client_host(request: &Parts) -> Option<String> {
    let of_proxy =
        forwarded_by_trusted(request, "x-forwarded-host").filter(|host| is_authority(host));
    let host = of_proxy.or_else(|| request_host(&request.uri, &request.headers))?;
    match Arrival::of(request).registry_port {
        None => Some(host.to_owned()),
        Some(port) => {
            let authority: Authority = host.parse().ok()?;
            Some(format!("{}:{port}", authority.host()))
        }
    }
}

/// Returns what a trusted proxy wrote into a header. It says nothing about the registry if the
/// request came to another port.
fn forwarded_by_trusted<'a>(request: &'a Parts, header: &str) -> Option<&'a str> {
    let counts = is_from_trusted_proxy(request) && Arrival::of(request).registry_port.is_none();
    counts.then(|| forwarded(request, header))?
}

/// Returns the host of the request line (HTTP/2) or of the `Host` header.
pub(crate) fn request_host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let authority = uri.authority().map(Authority::as_str);
    let header = || headers.get(HOST)?.to_str().ok();
    authority.or_else(header).filter(|host| is_authority(host))
}

/// Returns what is wrong with the host that a request names (RFC 9112, section 3.2, and RFC 9113,
/// section 8.3.1). Another server before this one may understand such a request differently.
pub(crate) fn host_problem<B>(request: &Request<B>) -> Option<&'static str> {
    let mut headers = request.headers().get_all(HOST).iter();
    let (host, another) = (headers.next(), headers.next());
    let is_http_2 = request.version() == Version::HTTP_2;
    let authority = request.uri().authority().map(Authority::as_str);
    let text = |host: &HeaderValue| host.to_str().map(str::to_owned).unwrap_or_default();
    let host = host.map(text);
    if another.is_some() {
        return Some("the request has more than one Host header");
    }
    let named = if is_http_2 { authority } else { None };
    match (named, &host) {
        (None, None) if request.version() < Version::HTTP_11 => None,
        (None, None) => Some("the request has no Host header"),
        (Some(one), Some(other)) if !one.eq_ignore_ascii_case(other) => {
            Some("the Host header of the request differs from its `:authority`")
        }
        (Some(host), _) if !is_authority(host) => {
            Some("the `:authority` of the request is invalid")
        }
        (None, Some(host)) if !is_authority(host) => {
            Some("the Host header of the request is invalid")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::ConnectInfo;
    use rstest::rstest;

    use super::*;
    use crate::arrival::ListenerRole;
    use crate::client::find_client;
    use crate::config::TrustedProxies;

    fn request(headers: &[(&str, &str)]) -> Parts {
        let builder = http::Request::builder();
        let builder = headers.iter().fold(builder, |builder, (name, value)| {
            builder.header(*name, *value)
        });
        builder.body(()).unwrap().into_parts().0
    }

    /// A request from a peer of which the proxies in 10.0.0.0/8 are trusted.
    fn request_from(peer: &str, headers: &[(&str, &str)], arrival: Arrival) -> Parts {
        let mut request = request(headers);
        let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
        request.extensions.insert(ConnectInfo(peer));
        request.extensions.insert(arrival);
        let trusted = TrustedProxies::parse("10.0.0.0/8").unwrap();
        find_client(&trusted, &mut request);
        request
    }

    const TLS: Arrival = Arrival {
        role: ListenerRole::Public,
        registry_tls: true,
        registry_port: None,
    };
    const ADMIN: Arrival = Arrival {
        role: ListenerRole::Admin,
        registry_tls: true,
        registry_port: Some(8443),
    };

    #[rstest]
    #[case::direct("192.0.2.1", Arrival::default(), "", "", "http://inside:80")]
    #[case::tls("192.0.2.1", TLS, "", "", "https://inside:80")]
    #[case::forged("192.0.2.1", Arrival::default(), "evil", "https", "http://inside:80")]
    #[case::proxy(
        "10.0.0.1",
        Arrival::default(),
        "nixery.dev",
        "https",
        "https://nixery.dev"
    )]
    #[case::proxies(
        "10.0.0.1",
        Arrival::default(),
        "nixery.dev, b",
        "HTTPS, http",
        "https://nixery.dev"
    )]
    #[case::proxy_without_tls("10.0.0.1", TLS, "nixery.dev", "http", "http://nixery.dev")]
    #[case::silent_proxy("10.0.0.1", TLS, "", "", "https://inside:80")]
    #[case::invalid("10.0.0.1", Arrival::default(), "a b", "gopher", "http://inside:80")]
    #[case::admin("192.0.2.1", ADMIN, "", "", "https://inside:8443")]
    #[case::admin_by_proxy("10.0.0.1", ADMIN, "metrics.dev", "http", "https://inside:8443")]
    fn only_trusted_proxies_decide_where_links_lead(
        #[case] peer: &str,
        #[case] arrival: Arrival,
        #[case] host: &str,
        #[case] scheme: &str,
        #[case] expected: &str,
    ) {
        let settings = HttpSettings::default();
        let all = [
            ("host", "inside:80"),
            ("x-forwarded-host", host),
            ("x-forwarded-proto", scheme),
        ];
        let given: Vec<_> = all
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let request = request_from(peer, &given, arrival);
        assert_eq!(absolute(&settings, &request, "/b"), format!("{expected}/b"));
        assert_eq!(pull_host(&settings, &request), without_scheme(expected));
        assert_eq!(is_https(&settings, &request), expected.starts_with("https"));
    }

    #[rstest]
    #[case(Version::HTTP_11, "/", &["a"], None)]
    #[case(Version::HTTP_11, "/", &["a:80"], None)]
    #[case(Version::HTTP_11, "/", &["[::1]:80"], None)]
    #[case(Version::HTTP_11, "http://b/", &["a"], None)]
    #[case(Version::HTTP_11, "/", &[], Some("no Host"))]
    #[case(Version::HTTP_11, "http://b/", &[], Some("no Host"))]
    #[case(Version::HTTP_11, "/", &["a", "a"], Some("more than one"))]
    #[case(Version::HTTP_11, "/", &[""], Some("invalid"))]
    #[case(Version::HTTP_11, "/", &["a b"], Some("invalid"))]
    #[case(Version::HTTP_11, "/", &["a/b"], Some("invalid"))]
    #[case(Version::HTTP_11, "/", &["u@a"], Some("invalid"))]
    #[case(Version::HTTP_10, "/", &[], None)]
    #[case(Version::HTTP_10, "/", &["a"], None)]
    #[case(Version::HTTP_10, "/", &["a", "b"], Some("more than one"))]
    #[case(Version::HTTP_10, "/", &["a b"], Some("invalid"))]
    #[case(Version::HTTP_2, "http://a/", &[], None)]
    #[case(Version::HTTP_2, "http://a/", &["A"], None)]
    #[case(Version::HTTP_2, "/", &["a"], None)]
    #[case(Version::HTTP_2, "/", &[], Some("no Host"))]
    #[case(Version::HTTP_2, "http://a/", &["b"], Some("differs"))]
    #[case(Version::HTTP_2, "http://a/", &["a", "a"], Some("more than one"))]
    #[case(Version::HTTP_2, "http://u@a/", &[], Some("invalid"))]
    fn a_request_names_one_valid_host(
        #[case] version: Version,
        #[case] uri: &str,
        #[case] hosts: &[&str],
        #[case] expected: Option<&str>,
    ) {
        let builder = Request::get(uri).version(version);
        let add = |builder: http::request::Builder, host: &&str| builder.header(HOST, *host);
        let request = hosts.iter().fold(builder, add).body(()).unwrap();
        match (host_problem(&request), expected) {
            (None, None) => {}
            (Some(problem), Some(expected)) => assert!(problem.contains(expected), "{problem}"),
            (problem, _) => panic!("{problem:?}"),
        }
    }

    #[rstest]
    #[case(None, "[::]:8080", "localhost:8080")]
    #[case(None, "0.0.0.0:80", "localhost:80")]
    #[case(None, "10.0.0.1:8080", "10.0.0.1:8080")]
    #[case(None, "[fd00::1]:8080", "[fd00::1]:8080")]
    #[case(Some("https://nixery.dev"), "[::]:8080", "nixery.dev")]
    fn examples_name_a_host_that_works(
        #[case] public_url: Option<&str>,
        #[case] address: &str,
        #[case] expected: &str,
    ) {
        let settings = HttpSettings {
            public_url: public_url.map(str::to_owned),
            ..HttpSettings::default()
        };
        let address = address.parse().unwrap();
        assert_eq!(host_of_examples(&settings, address), expected);
    }

    #[test]
    fn a_public_url_wins_over_every_header() {
        let settings = HttpSettings {
            public_url: Some("https://nixery.dev".into()),
            ..HttpSettings::default()
        };
        let request = request(&[("host", "inside:80"), ("x-forwarded-host", "evil")]);
        assert_eq!(pull_host(&settings, &request), "nixery.dev");
        assert_eq!(absolute(&settings, &request, "/b"), "https://nixery.dev/b");
    }

    #[test]
    fn an_invalid_host_is_never_echoed() {
        let request = request(&[("host", "\"><script>"), ("x-forwarded-host", "a b")]);
        assert_eq!(pull_host(&HttpSettings::default(), &request), "localhost");
        assert_eq!(absolute(&HttpSettings::default(), &request, "/b"), "/b");
    }
}
