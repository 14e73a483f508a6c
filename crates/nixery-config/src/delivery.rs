//! Which way blobs take to clients.

/// What the operator wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BlobDelivery {
    /// [`Self::Redirect`] where the store can sign URLs, else [`Self::Proxy`].
    #[default]
    Auto,
    /// Clients are sent to signed URLs of the store.
    Redirect,
    /// Clients are sent to unsigned URLs of the store, which anybody must be allowed to read.
    Public,
    /// Blobs pass through this server.
    Proxy,
}

impl BlobDelivery {
    /// The words of the configuration.
    pub const WORDS: [(&str, Self); 4] = [
        ("auto", Self::Auto),
        ("redirect", Self::Redirect),
        ("public", Self::Public),
        ("proxy", Self::Proxy),
    ];

    /// Which way blobs take, in a few words for the log.
    #[must_use]
    pub const fn way(self) -> &'static str {
        match self {
            Self::Auto => "redirected to signed URLs where the store can sign",
            Self::Redirect => "redirected to signed URLs",
            Self::Public => "redirected to public URLs",
            Self::Proxy => "sent through this server",
        }
    }
}
