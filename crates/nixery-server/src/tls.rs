//! TLS: the certificate and its key are read from files, and replaced when the files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nixery_manifest::Digest;
use nixery_storage::error_chain;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, InconsistentKeys, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::TlsSettings;
use crate::config::table::{Setting, TLS_CERT, TLS_KEY};
use crate::text::timestamp;

/// Time between two readings of the files.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// Limit of a file. Chains of certificates have a few kilobytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Bytes of a connection that wait for the system after their encryption: one record. They do not
/// count as unsent bytes, so they must be few.
const BUFFER_BYTES: usize = 16 * 1024;
/// The first byte of every TLS connection: a record of the handshake.
const HANDSHAKE_RECORD: u8 = 0x16;

/// The files cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error(
        "cannot read `{}`, the file of {setting}. Fix: set it to a file that this user can read", path.display()
    )]
    Read {
        /// The setting with the file.
        setting: &'static Setting,
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// A file is not PEM.
    #[error("`{}`, the file of {setting}, is not valid PEM. Fix: write it again", path.display())]
    Pem {
        /// The setting with the file.
        setting: &'static Setting,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The file of the certificate has none.
    #[error(
        "`{}`, the file of {TLS_CERT}, has no certificate. Fix: set it to a PEM file that begins with `-----BEGIN CERTIFICATE-----`", .0.display()
    )]
    NoCertificate(PathBuf),
    /// The file of the key has none.
    #[error(
        "`{}`, the file of {TLS_KEY}, has no private key that can be read. Fix: set it to a PEM file that has `-----BEGIN PRIVATE KEY-----`; a key with a password cannot be used", .0.display()
    )]
    NoKey(PathBuf),
    /// The first certificate cannot be parsed.
    #[error(
        "the first certificate in `{}`, the file of {TLS_CERT}, cannot be used. Fix: put a valid X.509 certificate of this server first", path.display()
    )]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The key is of a kind that TLS does not use here.
    #[error(
        "the private key in `{}`, the file of {TLS_KEY}, cannot be used. Fix: use an ECDSA (P-256, P-384), Ed25519 or RSA (2048 bits or more) key", path.display()
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The key is that of another certificate.
    #[error(
        "the private key in `{}`, the file of {TLS_KEY}, does not belong to the certificate in `{}`, the file of {TLS_CERT}. Fix: set both to files that were issued together; the certificate of this server comes first in its file", key.display(), certificate.display()
    )]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
}

/// A certificate that is in use, with the files that it is read from.
#[derive(Debug)]
pub struct Tls {
    files: TlsSettings,
    /// What the files contained when this value was made.
    loaded: Contents,
    current: Arc<CurrentCertificate>,
    config: Arc<ServerConfig>,
}

/// Identifies what the files contain, or why they cannot be read.
type Contents = Result<Digest, String>;

impl Tls {
    /// Reads the certificate and its key.
    ///
    /// # Errors
    /// A file cannot be read or used, or the key does not belong to the certificate.
    pub async fn load(files: &TlsSettings) -> Result<Self, TlsError> {
        let pair = Pair::read(files).await?;
        let current = Arc::new(CurrentCertificate::new(pair.certified_key(files)?));
        current.log(files);
        Ok(Self {
            files: files.clone(),
            loaded: Ok(pair.digest()),
            config: Arc::new(server_config(Arc::clone(&current))),
            current,
        })
    }

    /// Reads the files again and again. New connections use a new certificate; those that are open
    /// continue. Files that cannot be used, or of which only one has been replaced, change nothing.
    pub async fn reload_forever(&self, interval: Duration) {
        let mut seen = self.loaded.clone();
        loop {
            tokio::time::sleep(interval).await;
            if let Err(error) = self.reload(&mut seen).await {
                let error = error_chain(&error);
                tracing::warn!(
                    error,
                    "the files for TLS have changed and cannot be used; the server keeps its certificate"
                );
            }
        }
    }

    /// Reads the files, and uses them if they are not as `seen`. Returns whether they are used.
    ///
    /// # Errors
    /// They have changed and cannot be used.
    async fn reload(&self, seen: &mut Contents) -> Result<bool, TlsError> {
        let pair = Pair::read(&self.files).await;
        let contents = match &pair {
            Ok(pair) => Ok(pair.digest()),
            Err(error) => Err(error_chain(error)),
        };
        if *seen == contents {
            return Ok(false);
        }
        *seen = contents;
        self.current.replace(pair?.certified_key(&self.files)?);
        self.current.log(&self.files);
        Ok(true)
    }

    /// Makes a TLS connection of a stream.
    ///
    /// # Errors
    /// The client sends something else, or gives up.
    pub(crate) async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let limited = |connection: &mut rustls::ServerConnection| {
            connection.set_buffer_limit(Some(BUFFER_BYTES));
        };
        acceptor.accept_with(stream, limited).await
    }
}

/// Whether the first byte of a connection is that of TLS.
pub(crate) const fn begins_tls(first: u8) -> bool {
    first == HANDSHAKE_RECORD
}

/// Returns the settings of all connections. They are made once, so that clients can resume their
/// sessions after the certificate was replaced.
fn server_config(current: Arc<CurrentCertificate>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has ciphers for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// The certificate for new connections.
#[derive(Debug)]
struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl CurrentCertificate {
    fn new(certified: CertifiedKey) -> Self {
        Self(RwLock::new(Arc::new(certified)))
    }

    fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, certified: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified);
    }

    /// Logs that the certificate is used from now on, and until when it is valid.
    fn log(&self, files: &TlsSettings) {
        let file = files.certificate.display();
        let expiry = self.get().cert.first().and_then(expiry);
        let expires = expiry.map(timestamp);
        if expiry.is_some_and(|expiry| expiry < SystemTime::now()) {
            tracing::warn!(
                %file,
                expires,
                "the certificate for TLS has expired, and clients refuse it. Fix: renew it; the server reads the new files within seconds"
            );
        } else {
            tracing::info!(%file, expires, "using this certificate for TLS");
        }
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

/// What the two files contain.
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Pair {
    async fn read(files: &TlsSettings) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(TLS_CERT, &files.certificate).await?,
            key: read(TLS_KEY, &files.key).await?,
        })
    }

    fn digest(&self) -> Digest {
        let digests = [&self.certificate, &self.key].map(|bytes| Digest::of(bytes).to_string());
        Digest::of(digests.concat().as_bytes())
    }

    /// Returns the certificate with its key, which must belong together.
    fn certified_key(&self, files: &TlsSettings) -> Result<CertifiedKey, TlsError> {
        let chain =
            CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|source| TlsError::Pem {
            setting: TLS_CERT,
            path: files.certificate.clone(),
            source,
        })?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate(files.certificate.clone()));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| match source {
            pem::Error::NoItemsFound => TlsError::NoKey(files.key.clone()),
            source => TlsError::Pem {
                setting: TLS_KEY,
                path: files.key.clone(),
                source,
            },
        })?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key);
        let key = key.map_err(|source| TlsError::Key {
            path: files.key.clone(),
            source,
        })?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
                Ok(certified)
            }
            Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Mismatch {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
            }),
            Err(source) => Err(TlsError::Certificate {
                path: files.certificate.clone(),
                source,
            }),
        }
    }
}

async fn read(setting: &'static Setting, path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        setting,
        path: path.to_owned(),
        source,
    };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    let mut limited = file.take(MAX_FILE_BYTES + 1);
    limited.read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let problem = "it has over 1 MiB";
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, problem)));
    }
    Ok(bytes)
}

/// Returns when a certificate expires, if it can be read.
///
/// It is verified for a time when every certificate has expired: the error has the end of its
/// validity, which no function of the library returns. The validity is verified first, so nobody
/// needs to have signed the certificate.
fn expiry(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let end_of_time = UnixTime::since_unix_epoch(Duration::MAX);
    let roots = RootCertStore::empty();
    let verified =
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], end_of_time, &[]);
    match verified {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after,
            ..
        })) => UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs())),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
