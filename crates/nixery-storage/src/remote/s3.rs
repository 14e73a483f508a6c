//! Stores in an S3 bucket, at AWS or in a store with the same API.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use opendal::Operator;
use opendal::services::S3;

use super::location::{Opening, folder};
use super::{RemoteLimits, RemoteStorage, Shared, UploadMethod};
use crate::StorageError;

const BACKEND: &str = "s3";
/// The usual region of stores without regions.
const DEFAULT_REGION: &str = "us-east-1";

/// Location, credentials and limits of an S3 store.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct S3Config {
    /// The bucket, which must exist.
    pub bucket: String,
    /// The folder of the store in the bucket, such as `a/b`; empty for the whole bucket.
    pub prefix: String,
    /// `https://host:port` of the API; `None` means AWS.
    pub endpoint: Option<String>,
    /// The endpoint at which clients reach the store, for which URLs are signed.
    pub public_endpoint: Option<String>,
    /// The bucket's region; `None` means `AWS_REGION`, then `AWS_DEFAULT_REGION`, then with an
    /// `endpoint` `us-east-1`.
    pub region: Option<String>,
    /// How the bucket is named in URLs.
    pub addressing: S3Addressing,
    /// The access key; `None` means the credentials that AWS's own tools would find: environment,
    /// profile files, web identity, container and machine roles.
    pub credentials: Option<S3Credentials>,
    /// Send unsigned requests, to stores without keys. There are no signed URLs then.
    pub anonymous: bool,
    /// Retries, time-outs and upload sizes.
    pub limits: RemoteLimits,
}

impl S3Config {
    /// The bucket `bucket` at AWS, with everything else as [`Default`] says.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            ..Self::default()
        }
    }
}

/// How a bucket is named in URLs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum S3Addressing {
    /// `https://host/bucket/key`.
    #[default]
    Path,
    /// `https://bucket.host/key`.
    Virtual,
}

/// An access key. Its debug output contains no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Credentials {
    /// The public part of the key.
    pub access_key_id: String,
    /// The secret part of the key.
    pub secret_access_key: String,
    /// For keys that expire.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl RemoteStorage {
    /// Creates a store in an S3 bucket without I/O. [`check`](crate::Storage::check) tests whether
    /// it works.
    ///
    /// # Errors
    /// [`StorageError::Open`] when the configuration is invalid.
    pub fn open_s3(config: S3Config) -> Result<Self, StorageError> {
        let mut opening = Opening::new(BACKEND, &config.bucket);
        opening.bucket(&config.bucket)?;
        opening.prefix(&config.prefix)?;
        let checked = |url: &Option<String>| url.as_deref().map(|url| opening.endpoint(url));
        let endpoint = checked(&config.endpoint).transpose()?;
        let public = checked(&config.public_endpoint).transpose()?;
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let region = config
            .region
            .clone()
            .or_else(|| variable("AWS_REGION"))
            .or_else(|| variable("AWS_DEFAULT_REGION"))
            .or_else(|| endpoint.as_ref().map(|_| DEFAULT_REGION.to_owned()))
            .ok_or_else(|| opening.error("the region is missing. Fix: set the bucket's region"))?;
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        opening.location = format!("{} at {endpoint}", opening.location);
        let public = public.unwrap_or_else(|| endpoint.clone());

        let operator = operator_of(&config, &endpoint, &region, &opening)?;
        let signer = match config.anonymous {
            true => None,
            false => Some(operator_of(&config, &public, &region, &opening)?),
        };
        Ok(Self::new(Shared {
            backend: BACKEND,
            client: opening.client()?,
            location: opening.location,
            operator,
            signer,
            public_base: public_base(&config, &public),
            bucket: config.bucket,
            limits: config.limits.corrected(),
            upload: UploadMethod::Parts,
            bucket_seen: Mutex::default(),
            read_only: AtomicBool::default(),
        }))
    }
}

fn operator_of(
    config: &S3Config,
    endpoint: &str,
    region: &str,
    opening: &Opening,
) -> Result<Operator, StorageError> {
    let mut builder = S3::default()
        .bucket(&config.bucket)
        .root(&format!("/{}", config.prefix))
        .endpoint(endpoint)
        .region(region);
    if config.addressing == S3Addressing::Virtual {
        builder = builder.enable_virtual_host_style();
    }
    if config.anonymous {
        builder = builder.skip_signature();
    } else if let Some(credentials) = &config.credentials {
        builder = builder
            .disable_config_load()
            .disable_ec2_metadata()
            .access_key_id(&credentials.access_key_id)
            .secret_access_key(&credentials.secret_access_key);
        if let Some(token) = &credentials.session_token {
            builder = builder.session_token(token);
        }
    }
    Operator::new(builder).map_err(|error| opening.error(error.message()))
}

fn public_base(config: &S3Config, endpoint: &str) -> String {
    let folder = folder(&config.prefix);
    let bucket = &config.bucket;
    match (config.addressing, endpoint.split_once("://")) {
        (S3Addressing::Virtual, Some((scheme, host))) => {
            format!("{scheme}://{bucket}.{host}/{folder}")
        }
        _ => format!("{endpoint}/{bucket}/{folder}"),
    }
}
