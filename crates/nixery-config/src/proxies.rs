//! The proxies whose headers say where a request comes from.

use std::net::IpAddr;

use ipnet::IpNet;

/// Addresses and networks of proxies that are trusted to name their clients. Empty by default: then
/// every request counts as one of the address that it comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Whether no proxy is trusted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the proxies of a list with commas or spaces, such as `127.0.0.1, 10.0.0.0/8`; `None`
    /// if a word is neither an address nor a network.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let words = text.split([',', ' ']).filter(|word| !word.is_empty());
        let network = |word: &str| {
            let address = || word.parse::<IpAddr>().map(IpNet::from);
            word.parse::<IpNet>().or_else(|_| address()).ok()
        };
        words.map(network).collect::<Option<_>>().map(Self)
    }

    /// Whether an address is that of a trusted proxy. An IPv4 address may be written as IPv6.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("", &[], &["127.0.0.1", "::1"])]
    #[case("127.0.0.1", &["127.0.0.1", "::ffff:127.0.0.1"], &["127.0.0.2"])]
    #[case("10.0.0.0/8, ::1", &["10.1.2.3", "::1"], &["11.0.0.0", "::2"])]
    #[case("10.1.2.3/8", &["10.0.0.1"], &["11.0.0.1"])]
    #[case("fd00::/8 192.0.2.0/24", &["fd00::1", "192.0.2.9"], &["fe80::1"])]
    fn addresses_and_networks(
        #[case] text: &str,
        #[case] trusted: &[&str],
        #[case] others: &[&str],
    ) {
        let proxies = TrustedProxies::parse(text).unwrap();
        for (addresses, expected) in [(trusted, true), (others, false)] {
            for address in addresses {
                let contains = proxies.contains(address.parse().unwrap());
                assert_eq!(contains, expected, "{address}");
            }
        }
    }

    #[rstest]
    #[case("proxy.example.org")]
    #[case("10.0.0.0/33")]
    #[case("10.0.0.0/8;::1")]
    #[case("*")]
    fn other_words_are_refused(#[case] text: &str) {
        assert_eq!(TrustedProxies::parse(text), None);
    }
}
