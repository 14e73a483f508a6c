//! The address by which a client reaches this registry: the request's host, validated before it is
//! shown.

use std::net::SocketAddr;

use http::header::HOST;
use http::request::Parts;

use crate::config::{HttpSettings, is_authority};

/// Returns the host and port to put before an image name in a pull command.
///
/// The configured public URL wins, then the `X-Forwarded-Host` of a proxy, then the request's host.
#[must_use]
pub(crate) fn pull_host(settings: &HttpSettings, request: &Parts) -> String {
    if let Some(url) = &settings.public_url {
        return without_scheme(url).to_owned();
    }
    forwarded(request, "x-forwarded-host")
        .filter(|host| is_authority(host))
        .or_else(|| request_host(request))
        .unwrap_or("localhost")
        .to_owned()
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

/// Returns an absolute URL for a path of this registry where its address is known, else the path
/// itself.
///
/// Only the configured URL and the host of the request itself count: a third party's header must
/// not decide where a link in an error message leads.
#[must_use]
pub(crate) fn absolute(settings: &HttpSettings, request: &Parts, path: &str) -> String {
    match (&settings.public_url, request_host(request)) {
        (Some(url), _) => format!("{url}{path}"),
        (None, Some(host)) => format!("http://{host}{path}"),
        (None, None) => path.to_owned(),
    }
}

/// The host of the request line (HTTP/2) or of the `Host` header.
fn request_host(request: &Parts) -> Option<&str> {
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    let header = || request.headers.get(HOST)?.to_str().ok();
    authority.or_else(header).filter(|host| is_authority(host))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn request(headers: &[(&str, &str)]) -> Parts {
        let builder = http::Request::builder();
        let builder = headers.iter().fold(builder, |builder, (name, value)| {
            builder.header(*name, *value)
        });
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_pull_command_follows_proxies_but_links_do_not() {
        let settings = HttpSettings::default();
        let request = request(&[
            ("host", "inside:80"),
            ("x-forwarded-host", "nixery.dev, proxy"),
        ]);
        assert_eq!(pull_host(&settings, &request), "nixery.dev");
        assert_eq!(
            absolute(&settings, &request, "/builds/1"),
            "http://inside:80/builds/1"
        );
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
