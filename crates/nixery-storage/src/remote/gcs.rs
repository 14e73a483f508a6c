//! Stores in a bucket of Google Cloud Storage.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use opendal::Operator;
use opendal::services::Gcs;

use super::location::{Opening, folder};
use super::{RemoteLimits, RemoteStorage, Shared, UploadMethod};
use crate::StorageError;

const BACKEND: &str = "gcs";
const ENDPOINT: &str = "https://storage.googleapis.com";
/// The variable that names the credential file, unless the configuration does.
const CREDENTIALS: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// Location, credentials and limits of a GCS store.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GcsConfig {
    /// The bucket, which must exist.
    pub bucket: String,
    /// The folder of the store in the bucket, such as `a/b`; empty for the whole bucket.
    pub prefix: String,
    /// `https://host:port` of the API; `None` means Google's. For emulators and private endpoints.
    pub endpoint: Option<String>,
    /// A service account's key or another credential file of Google's tools; `None` means
    /// `GOOGLE_APPLICATION_CREDENTIALS`, then the metadata server (workload identity).
    pub credential_file: Option<PathBuf>,
    /// Send no credentials, for emulators.
    pub anonymous: bool,
    /// Retries, time-outs and upload sizes.
    pub limits: RemoteLimits,
}

impl GcsConfig {
    /// The bucket `bucket` at Google, with everything else as [`Default`] says.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            ..Self::default()
        }
    }
}

impl RemoteStorage {
    /// Creates a store in a bucket of Google Cloud Storage, and reads only the credential file.
    /// [`check`](crate::Storage::check) tests whether it works.
    ///
    /// # Errors
    /// [`StorageError::Open`] when the configuration is invalid, or the credential file cannot be
    /// read.
    pub fn open_gcs(config: GcsConfig) -> Result<Self, StorageError> {
        let mut opening = Opening::new(BACKEND, &config.bucket);
        opening.bucket(&config.bucket)?;
        opening.prefix(&config.prefix)?;
        let endpoint = config.endpoint.as_deref().unwrap_or(ENDPOINT);
        let endpoint = opening.endpoint(endpoint)?;
        opening.location = format!("{} at {endpoint}", opening.location);

        let file = config.credential_file.clone().or_else(|| {
            let file = std::env::var_os(CREDENTIALS).filter(|file| !file.is_empty());
            file.map(PathBuf::from)
        });
        let file = file.filter(|_| !config.anonymous);
        let has_key = match &file {
            Some(file) => has_key(file, &opening)?,
            None => false,
        };
        let mut builder = Gcs::default()
            .bucket(&config.bucket)
            .root(&format!("/{}", config.prefix))
            .endpoint(&endpoint);
        if config.anonymous {
            builder = builder.skip_signature();
        }
        if let Some(path) = &file {
            let path = path
                .to_str()
                .ok_or_else(|| opening.error("the credential file's path must be UTF-8"))?;
            builder = builder.credential_path(path);
        }
        let operator = Operator::new(builder).map_err(|error| opening.error(error.message()))?;
        Ok(Self::new(Shared {
            backend: BACKEND,
            client: opening.client()?,
            location: opening.location,
            signer: has_key.then(|| operator.clone()),
            operator,
            public_base: format!("{endpoint}/{}/{}", config.bucket, folder(&config.prefix)),
            bucket: config.bucket,
            limits: config.limits.corrected(),
            upload: UploadMethod::OneRequest,
            bucket_seen: Mutex::default(),
            read_only: AtomicBool::default(),
        }))
    }
}

/// Whether a credential file contains a private key. Other credentials cannot sign URLs.
fn has_key(file: &Path, opening: &Opening) -> Result<bool, StorageError> {
    let unreadable = |source: io::Error| StorageError::Open {
        backend: BACKEND,
        location: opening.location.clone(),
        problem: format!(
            "the credential file {} cannot be read. Fix: correct {CREDENTIALS} or the file",
            file.display()
        ),
        source: Some(source),
    };
    let json = std::fs::read(file).map_err(unreadable)?;
    let value: serde_json::Value = serde_json::from_slice(&json)
        // Without the parser's error, which may quote the file.
        .map_err(|_| unreadable(io::Error::new(io::ErrorKind::InvalidData, "it is not JSON")))?;
    Ok(value["type"] == "service_account" && value["private_key"].is_string())
}
