//! The clients that request images.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use nixery_manifest::Digest;

/// The bits of an IPv6 address that name the network of a client, who can use all others at will.
const IPV6_NETWORK: u128 = !0 << 64;

/// A client of the builder. Clients share the builder's work equally, and each has a quota.
///
/// The default names no client: its requests share one place in the queue and have no quota. It is
/// for callers that have one user, such as a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Option<ClientName>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum ClientName {
    Address(IpAddr),
    /// The digest of the user's name: small, whatever the name is.
    User(Digest),
}

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
        Self(Some(ClientName::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK).into(),
            address => address,
        })))
    }

    /// Returns the client that a user is, from whatever address.
    #[must_use]
    pub fn from_user(name: &str) -> Self {
        Self(Some(ClientName::User(Digest::of(name.as_bytes()))))
    }

    /// Whether a client is named, so that a quota applies.
    pub(crate) const fn is_named(&self) -> bool {
        self.0.is_some()
    }
}

/// Shows the address or the network of the client. Of a user it shows the beginning of a digest.
impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("unnamed"),
            Some(ClientName::Address(IpAddr::V6(network))) => write!(f, "{network}/64"),
            Some(ClientName::Address(address)) => address.fmt(f),
            Some(ClientName::User(digest)) => write!(f, "user {}", &digest.hex()[..8]),
        }
    }
}
