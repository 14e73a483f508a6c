//! Which client sent a request, as far as the server can know.

use std::net::{IpAddr, SocketAddr};
use std::sync::Once;

use axum::extract::ConnectInfo;
use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};
use http::request::Parts;
use nixery_builder::ClientId;

use crate::config::TrustedProxies;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of the client that sent a request, in the extensions of the request.
#[derive(Debug, Clone, Copy)]
struct ClientAddress(IpAddr);

/// Marks a request that comes from a trusted proxy, in the extensions of the request.
#[derive(Debug, Clone, Copy)]
struct FromTrustedProxy;

/// Finds the address of the client that sent a request, for the functions below. It is unknown if
/// the connection is, as in a router within a larger server.
pub(crate) fn find_client(trusted: &TrustedProxies, request: &mut Parts) {
    if let Some(peer) = request.extensions.get::<ConnectInfo<SocketAddr>>() {
        let peer = peer.0.ip();
        let address = client_of(trusted, peer, &request.headers);
        request.extensions.insert(ClientAddress(address));
        if trusted.contains(peer) {
            request.extensions.insert(FromTrustedProxy);
        }
    }
}

/// Whether a trusted proxy sent a request, so that its headers about the client count.
#[must_use]
pub(crate) fn is_from_trusted_proxy(request: &Parts) -> bool {
    request.extensions.get::<FromTrustedProxy>().is_some()
}

/// Returns the address of the client that sent a request, if it is known.
#[must_use]
pub(crate) fn client_address(request: &Parts) -> Option<IpAddr> {
    let address = request.extensions.get::<ClientAddress>();
    address.map(|address| address.0)
}

/// Returns the client that sent a request, or the default one if it is unknown.
#[must_use]
pub(crate) fn client_id(request: &Parts) -> ClientId {
    let address = client_address(request);
    address.map_or_else(ClientId::default, ClientId::from_address)
}

/// Returns the address of a client: the other end of the connection, or, if that is a trusted
/// proxy, the address that it reports.
///
/// Proxies append to `X-Forwarded-For` and `Forwarded`, and clients may send anything in them. So
/// the right-most address that is not a trusted proxy counts. If the headers are malformed, or
/// disagree because a proxy writes one of them and passes the other on, the proxy itself counts.
#[must_use]
pub(crate) fn client_of(trusted: &TrustedProxies, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let peer = peer.to_canonical();
    if !trusted.contains(peer) {
        warn_of_unknown_proxy(peer, headers);
        return peer;
    }
    let listed = |name: HeaderName, parse: fn(&str) -> Option<Vec<Option<IpAddr>>>| {
        let chain = headers
            .contains_key(&name)
            .then(|| chain(headers, name, parse));
        chain.map(|chain| first_untrusted(trusted, peer, &chain))
    };
    let x_forwarded_for = listed(X_FORWARDED_FOR, |value| {
        Some(value.split(',').map(node).collect())
    });
    match (x_forwarded_for, listed(FORWARDED, forwarded_for)) {
        (Some(one), Some(other)) if one != other => peer,
        (Some(client), _) | (None, Some(client)) => client,
        (None, None) => peer,
    }
}

/// Follows a chain of proxies from its end as long as they are trusted.
fn first_untrusted(trusted: &TrustedProxies, peer: IpAddr, chain: &[Option<IpAddr>]) -> IpAddr {
    let mut last = peer;
    for address in chain.iter().rev() {
        // A name or nonsense: the proxy that reported it counts.
        let Some(address) = *address else {
            break;
        };
        last = address;
        if !trusted.contains(address) {
            break;
        }
    }
    last
}

/// Returns the addresses in all lines of a header. A line that cannot be parsed is one unknown
/// address.
fn chain(
    headers: &HeaderMap,
    name: HeaderName,
    parse: fn(&str) -> Option<Vec<Option<IpAddr>>>,
) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(name).iter();
    let lines = lines.map(|line| {
        line.to_str()
            .ok()
            .and_then(parse)
            .unwrap_or_else(|| vec![None])
    });
    lines.flatten().collect()
}

/// Returns the `for` of each element of a `Forwarded` header (RFC 7239); `None` if a quote is not
/// closed.
fn forwarded_for(value: &str) -> Option<Vec<Option<IpAddr>>> {
    let elements = split_outside_quotes(value, ',')?;
    let mut addresses = Vec::with_capacity(elements.len());
    for element in elements {
        let mut address = None;
        for pair in split_outside_quotes(element, ';')? {
            if let Some((name, value)) = pair.split_once('=')
                && name.trim().eq_ignore_ascii_case("for")
            {
                address = node(value.trim().trim_matches('"'));
            }
        }
        addresses.push(address);
    }
    Some(addresses)
}

/// Splits a text, but not within its quoted strings; `None` if the last one is not closed.
fn split_outside_quotes(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            c if c == separator && !is_quoted => {
                parts.push(&text[start..at]);
                start = at + separator.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!is_quoted).then_some(parts)
}

/// Parses an address with or without brackets and port.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let alone = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address: Option<IpAddr> = alone.unwrap_or(text).parse().ok();
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    address
        .or_else(with_port)
        .map(|address| address.to_canonical())
}

/// Logs once that requests seem to come through a proxy that is not trusted.
fn warn_of_unknown_proxy(peer: IpAddr, headers: &HeaderMap) {
    static WARNED: Once = Once::new();
    if WARNED.is_completed() {
        return;
    }
    if headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED) {
        WARNED.call_once(|| {
            tracing::warn!(
                %peer,
                "a request names the client that it was forwarded for, but this address is no trusted proxy, so all requests from it count as one client. Fix: if it is your proxy, add it to NIXERY_TRUSTED_PROXIES (--trusted-proxies)"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn client(peer: &str, lines: &[(&'static str, &str)]) -> String {
        let trusted = TrustedProxies::parse("10.0.0.0/8 fd00::/8").unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        client_of(&trusted, peer.parse().unwrap(), &headers).to_string()
    }

    const XFF: &str = "x-forwarded-for";

    #[rstest]
    #[case::direct("192.0.2.1", &[], "192.0.2.1")]
    #[case::untrusted_peer("192.0.2.1", &[(XFF, "192.0.2.9")], "192.0.2.1")]
    #[case::mapped_peer("::ffff:192.0.2.1", &[], "192.0.2.1")]
    #[case::silent_proxy("10.0.0.1", &[], "10.0.0.1")]
    #[case::one_proxy("10.0.0.1", &[(XFF, "192.0.2.9")], "192.0.2.9")]
    #[case::mapped_proxy("::ffff:10.0.0.1", &[(XFF, "192.0.2.9")], "192.0.2.9")]
    #[case::invented("10.0.0.1", &[(XFF, "198.51.100.7, 192.0.2.9")], "192.0.2.9")]
    #[case::two_proxies("10.0.0.1", &[(XFF, "192.0.2.9, 10.0.0.2")], "192.0.2.9")]
    #[case::two_lines("10.0.0.1", &[(XFF, "198.51.100.7"), (XFF, "192.0.2.9")], "192.0.2.9")]
    #[case::internal_client("10.0.0.1", &[(XFF, "10.0.0.3, 10.0.0.2")], "10.0.0.3")]
    #[case::with_port("10.0.0.1", &[(XFF, "192.0.2.9:4711")], "192.0.2.9")]
    #[case::ipv6("fd00::1", &[(XFF, "[2001:db8::1]:4711")], "2001:db8::1")]
    #[case::unknown("10.0.0.1", &[(XFF, "192.0.2.9, unknown")], "10.0.0.1")]
    #[case::unknown_before_proxy("10.0.0.1", &[(XFF, "unknown, 10.0.0.2")], "10.0.0.2")]
    #[case::empty("10.0.0.1", &[(XFF, "")], "10.0.0.1")]
    #[case::forwarded("10.0.0.1", &[("forwarded", "for=192.0.2.9;proto=https")], "192.0.2.9")]
    #[case::forwarded_ipv6("10.0.0.1", &[("forwarded", "For=\"[2001:db8::1]:1\"")], "2001:db8::1")]
    #[case::forwarded_list(
        "10.0.0.1",
        &[("forwarded", "for=198.51.100.7, proto=http;for=192.0.2.9, for=10.0.0.2")],
        "192.0.2.9"
    )]
    #[case::hidden("10.0.0.1", &[("forwarded", "for=_secret")], "10.0.0.1")]
    #[case::no_for("10.0.0.1", &[("forwarded", "for=192.0.2.9, proto=http")], "10.0.0.1")]
    #[case::quoted_host(
        "10.0.0.1",
        &[("forwarded", "for=192.0.2.9;host=\"a,for=198.51.100.7;x=\"")],
        "192.0.2.9"
    )]
    #[case::open_quote("10.0.0.1", &[("forwarded", "\", for=192.0.2.9")], "10.0.0.1")]
    #[case::both("10.0.0.1", &[(XFF, "192.0.2.9"), ("forwarded", "for=192.0.2.9")], "192.0.2.9")]
    #[case::passed_on(
        "10.0.0.1",
        &[(XFF, "192.0.2.9"), ("forwarded", "for=198.51.100.7")],
        "10.0.0.1"
    )]
    fn the_address_that_counts(
        #[case] peer: &str,
        #[case] lines: &[(&'static str, &str)],
        #[case] expected: &str,
    ) {
        assert_eq!(client(peer, lines), expected);
    }

    proptest! {
        /// What a client sends itself is left of what the proxy appends, and changes nothing.
        #[test]
        fn no_client_can_invent_its_address(sent in "[ -~]{0,60}") {
            let line = format!("{sent}, 192.0.2.9");
            prop_assert_eq!(client("10.0.0.1", &[(XFF, &line)]), "192.0.2.9");
            let line = format!("{sent}, for=192.0.2.9");
            let address = client("10.0.0.1", &[("forwarded", &line)]);
            prop_assert!(address == "192.0.2.9" || address == "10.0.0.1", "{}", address);
        }
    }
}
