//! On whose behalf images are requested.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The bits of an IPv6 address that name the network of a client, who can use all others at will.
const IPV6_NETWORK: u128 = !0 << 64;

/// A client of the builder. Clients share the builder's work equally, and each has a quota.
///
/// The default names no client: its requests share one place in the queue and have no quota. It is
/// for callers that have one user, such as a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Option<IpAddr>);

impl ClientId {
    /// Returns the client with an address. Addresses of one IPv6 network (`/64`) are one client.
    ///
    /// ```
    /// use nixery_builder::ClientId;
    ///
    /// let client = |address: &str| ClientId::from_address(address.parse().unwrap());
    /// assert_eq!(client("2001:db8::1"), client("2001:db8::2"));
    /// assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    /// assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
    /// ```
    #[must_use]
    pub fn from_address(address: IpAddr) -> Self {
        Self(Some(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK).into(),
            address => address,
        }))
    }

    /// Whether a client is named, so that a quota applies.
    pub(crate) const fn is_named(&self) -> bool {
        self.0.is_some()
    }
}

/// Shows the address or the network of the client.
impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("unnamed"),
            Some(IpAddr::V6(network)) => write!(f, "{network}/64"),
            Some(address) => address.fmt(f),
        }
    }
}
