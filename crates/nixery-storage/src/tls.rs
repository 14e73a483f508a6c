//! Cryptography for HTTPS clients.

/// Makes ring the cryptography of this process's TLS connections, unless the program chose
/// another one before. HTTPS clients cannot be created without one.
///
/// An embedder that prefers another provider installs it at start, with rustls'
/// `CryptoProvider::install_default`.
pub fn install_tls_provider() {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
