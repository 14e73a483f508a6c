//! The part of a URL that names a host.

/// Whether the text is a host name or address with an optional port, and nothing else.
#[must_use]
pub fn is_authority(text: &str) -> bool {
    // The longest DNS name has 253 bytes, a port six with its colon.
    const LONGEST: usize = 260;
    if text.len() > LONGEST {
        return false;
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host_ok = if text.starts_with('[') {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        host.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
    };
    host_ok
        && !host.is_empty()
        && port.is_none_or(|port| {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("nixery.dev", true)]
    #[case("127.0.0.1:8080", true)]
    #[case("[::1]:8080", true)]
    #[case("[::1]", true)]
    #[case("my_host", true)]
    #[case("", false)]
    #[case(":80", false)]
    #[case("host:99999", false)]
    #[case("host:+80", false)]
    #[case("host/path", false)]
    #[case("user@host", false)]
    #[case("<script>", false)]
    #[case("[::1", false)]
    #[case("[hello]:1", false)]
    #[case("::1", false)]
    fn only_hosts_and_ports_are_shown(#[case] text: &str, #[case] valid: bool) {
        assert_eq!(is_authority(text), valid);
    }
}
