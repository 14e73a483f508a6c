//! How a client reaches this registry: the request's host, checked before it is shown anywhere.

use crate::config::{HttpSettings, is_authority};
use http::HeaderMap;
use http::header::HOST;
use std::net::SocketAddr;

/// Host and port to put before an image name in a pull command.
///
/// The configured public URL wins, then what a proxy says the client asked for, then the request's host.
#[must_use]
pub fn pull_host(settings: &HttpSettings, headers: &HeaderMap, authority: Option<&str>) -> String {
    if let Some(url) = &settings.public_url {
        return without_scheme(url).to_owned();
    }
    let forwarded = headers
        .get("x-forwarded-host")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(',').next())
        .map(str::trim);
    forwarded
        .filter(|host| is_authority(host))
        .or_else(|| request_host(headers, authority))
        .unwrap_or("localhost")
        .to_owned()
}

/// Host and port for an example that is shown before anybody asked: the configured one, or how this machine
/// itself reaches the address.
#[must_use]
pub fn host_of_examples(settings: &HttpSettings, address: SocketAddr) -> String {
    match &settings.public_url {
        Some(url) => without_scheme(url).to_owned(),
        None if address.ip().is_unspecified() => format!("localhost:{}", address.port()),
        None => address.to_string(),
    }
}

fn without_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, host)| host)
}

/// An absolute URL for a path of this registry where its address is known, else the path itself.
///
/// Only the configured URL and the host the client itself asked for count: a link in an error message must
/// not lead where a third party's header says.
#[must_use]
pub fn absolute(
    settings: &HttpSettings,
    headers: &HeaderMap,
    authority: Option<&str>,
    path: &str,
) -> String {
    match (&settings.public_url, request_host(headers, authority)) {
        (Some(url), _) => format!("{url}{path}"),
        (None, Some(host)) => format!("http://{host}{path}"),
        (None, None) => path.to_owned(),
    }
}

/// The host of the request line (HTTP/2) or of the `Host` header.
fn request_host<'a>(headers: &'a HeaderMap, authority: Option<&'a str>) -> Option<&'a str> {
    let header = headers.get(HOST).and_then(|value| value.to_str().ok());
    authority.or(header).filter(|host| is_authority(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use rstest::rstest;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_pull_command_follows_proxies_but_links_do_not() {
        let settings = HttpSettings::default();
        let headers = headers(&[
            ("host", "inside:80"),
            ("x-forwarded-host", "nixery.dev, proxy"),
        ]);
        assert_eq!(pull_host(&settings, &headers, None), "nixery.dev");
        assert_eq!(
            absolute(&settings, &headers, None, "/builds/1"),
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
        let headers = headers(&[("host", "inside:80"), ("x-forwarded-host", "evil")]);
        assert_eq!(pull_host(&settings, &headers, None), "nixery.dev");
        assert_eq!(
            absolute(&settings, &headers, None, "/b"),
            "https://nixery.dev/b"
        );
    }

    #[test]
    fn a_host_that_is_none_is_never_echoed() {
        let headers = headers(&[("host", "\"><script>"), ("x-forwarded-host", "a b")]);
        assert_eq!(
            pull_host(&HttpSettings::default(), &headers, None),
            "localhost"
        );
        assert_eq!(
            absolute(&HttpSettings::default(), &headers, None, "/b"),
            "/b"
        );
    }
}
