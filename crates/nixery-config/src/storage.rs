//! The blob store: its kind, its place and its limits.
//!
//! The secret keys of S3 are not settings: the store reads them where AWS's own tools do.

#[cfg(any(feature = "s3", feature = "gcs"))]
mod buckets;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "gcs")]
use nixery_storage::GcsConfig;
#[cfg(feature = "s3")]
use nixery_storage::S3Config;

use crate::arguments::Section;
use crate::check::Checker;
use crate::table::{
    GCS_CREDENTIALS, Group, RECORD_KEY, SETTINGS, SPOOL_DIR, STORAGE_ATTEMPTS, STORAGE_BACKEND,
    STORAGE_PATH, STORAGE_TIMEOUT, Setting,
};
#[cfg(feature = "gcs")]
use buckets::gcs;
#[cfg(feature = "s3")]
use buckets::s3;

/// Limit of the timeout: clients give up before a store that takes longer answers.
const MAX_TIMEOUT_SECONDS: u64 = 600;
/// Limit of attempts: with the pauses between them, more than this take many minutes.
const MAX_ATTEMPTS: u32 = 100;
/// What the original signs URLs with: a private key in PEM, and its account.
const ORIGINAL_SIGNING_VARIABLES: [&str; 2] = ["GCS_SIGNING_KEY", "GCS_SIGNING_ACCOUNT"];

/// Checked settings of the blob store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StorageSettings {
    /// Which store.
    pub backend: StorageBackend,
    /// Folder for temporary files.
    pub spool: PathBuf,
    /// File with the secret that authenticates records.
    pub record_key: Option<PathBuf>,
    /// A warning for each setting that is set and has no effect.
    pub ignored: Vec<String>,
}

/// A kind of blob store with its place.
#[derive(Debug, Clone)]
#[non_exhaustive]
// There is one value in a process, and its size does not matter.
#[allow(clippy::large_enum_variant)]
pub enum StorageBackend {
    /// A local folder.
    Filesystem(PathBuf),
    /// A bucket of S3, or of a store with the same protocol.
    #[cfg(feature = "s3")]
    S3(S3Config),
    /// A bucket of Google Cloud Storage.
    #[cfg(feature = "gcs")]
    Gcs(GcsConfig),
}

/// The values of [`STORAGE_BACKEND`].
const KINDS: [&str; 3] = ["filesystem", "s3", "gcs"];

impl Section for StorageSettings {
    const GROUPS: &'static [Group] = &[Group::Storage, Group::S3, Group::Gcs];

    fn read(checker: &mut Checker<'_>) -> Option<Self> {
        let kind = checker.choice(STORAGE_BACKEND, &KINDS.map(|word| (word, word)))?;
        let folder = checker.path(STORAGE_PATH);
        let folder = folder.unwrap_or_else(|| default_folder(checker));
        let spool = checker.path(SPOOL_DIR);
        let spool = spool.unwrap_or_else(|| folder.join("spool"));
        #[cfg_attr(not(any(feature = "s3", feature = "gcs")), expect(unused_variables))]
        let remote = Remote {
            attempts: checker.number(STORAGE_ATTEMPTS, 1..=MAX_ATTEMPTS),
            timeout: checker.optional_time(STORAGE_TIMEOUT, 1..=MAX_TIMEOUT_SECONDS),
        };
        let ignored = ignored(checker, kind);
        let backend = match kind {
            "filesystem" => StorageBackend::Filesystem(folder),
            #[cfg(feature = "s3")]
            "s3" => s3(checker, &remote)?,
            #[cfg(feature = "gcs")]
            "gcs" => gcs(checker, &remote)?,
            // The features have the names of the stores.
            feature => {
                checker.needs(STORAGE_BACKEND, false, feature);
                return None;
            }
        };
        Some(Self {
            backend,
            spool,
            record_key: checker.path(RECORD_KEY),
            ignored,
        })
    }
}

/// Returns the folder for a service's data by the conventions of systemd and XDG.
fn default_folder(checker: &Checker<'_>) -> PathBuf {
    let absolute = |name| {
        let path = checker.variable_path(name);
        path.filter(|path| path.is_absolute() && path.parent().is_some())
    };
    absolute("STATE_DIRECTORY")
        .or_else(|| Some(absolute("XDG_DATA_HOME")?.join("nixery")))
        .or_else(|| Some(absolute("HOME")?.join(".local/share/nixery")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/nixery"))
}

/// Settings of every remote store.
#[cfg_attr(not(any(feature = "s3", feature = "gcs")), expect(dead_code))]
struct Remote {
    attempts: u32,
    timeout: Option<Duration>,
}

/// Returns a warning for what was set for other stores than the chosen one. A machine may have
/// Google credentials for other purposes, so these are not reported.
fn ignored(checker: &Checker<'_>, kind: &str) -> Vec<String> {
    let filesystem = kind == "filesystem";
    let spool_alone = !checker.is_given(SPOOL_DIR);
    let is_unused = |setting: &Setting| match setting.group {
        Group::S3 => kind != "s3",
        Group::Gcs => kind != "gcs" && setting != GCS_CREDENTIALS,
        _ if setting == STORAGE_PATH => !filesystem && !spool_alone,
        _ => filesystem && [STORAGE_TIMEOUT, STORAGE_ATTEMPTS].contains(&setting),
    };
    let settings = SETTINGS.iter().copied();
    let settings = settings.filter(|setting| StorageSettings::GROUPS.contains(&setting.group));
    let unused = settings.filter(|setting| is_unused(setting));
    let mut ignored = checker.unused(unused, &format!("the blob store is {kind}"));
    if !filesystem && checker.is_given(STORAGE_PATH) && spool_alone {
        ignored.push(format!(
            "{STORAGE_PATH} is set, but the blob store is {kind}: the folder holds only the spool folder"
        ));
    }
    let mut signing = ORIGINAL_SIGNING_VARIABLES.to_vec();
    signing.retain(|name| checker.variable(name).is_some());
    if kind == "gcs" && !signing.is_empty() {
        ignored.push(format!(
            "{} is set but not used: URLs are signed with the JSON key file of a service account in {GCS_CREDENTIALS}. Fix: set that, or NIXERY_BLOB_DELIVERY=public, which redirects to unsigned URLs as the original does without a key",
            signing.join(" and ")
        ));
    }
    ignored
}

impl StorageBackend {
    /// Returns the configured address of the store for clients that are redirected to it.
    #[must_use]
    pub fn client_endpoint(&self) -> Option<&str> {
        match self {
            Self::Filesystem(_) => None,
            #[cfg(feature = "s3")]
            Self::S3(s3) => s3.public_endpoint.as_deref().or(s3.endpoint.as_deref()),
            #[cfg(feature = "gcs")]
            Self::Gcs(gcs) => gcs.endpoint.as_deref(),
        }
    }

    /// Returns what to do when the store does not work.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Filesystem(_) => {
                "set STORAGE_PATH (--storage-path) to a folder that this user can write to"
            }
            #[cfg(feature = "s3")]
            Self::S3(_) => {
                "check NIXERY_S3_BUCKET (--s3-bucket), NIXERY_S3_ENDPOINT (--s3-endpoint), NIXERY_S3_REGION (--s3-region) and AWS_ACCESS_KEY_ID"
            }
            #[cfg(feature = "gcs")]
            Self::Gcs(_) => {
                "check GCS_BUCKET (--gcs-bucket) and GOOGLE_APPLICATION_CREDENTIALS (--gcs-credentials)"
            }
        }
    }
}

/// Shows the store's place without secrets.
impl fmt::Display for StorageBackend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filesystem(path) => write!(formatter, "filesystem {}", path.display()),
            #[cfg(feature = "s3")]
            Self::S3(s3) => {
                let prefix = part("prefix", &s3.prefix);
                let endpoint = s3.endpoint.as_deref().unwrap_or("AWS");
                let region = part("region", s3.region.as_deref().unwrap_or_default());
                let clients = s3.public_endpoint.as_deref().unwrap_or_default();
                let clients = part("for clients at", clients);
                let bucket = &s3.bucket;
                write!(
                    formatter,
                    "s3 bucket {bucket}{prefix}, at {endpoint}{region}{clients}"
                )
            }
            #[cfg(feature = "gcs")]
            Self::Gcs(gcs) => {
                let (bucket, prefix) = (&gcs.bucket, part("prefix", &gcs.prefix));
                let endpoint = gcs.endpoint.as_deref().unwrap_or("Google");
                write!(formatter, "gcs bucket {bucket}{prefix}, at {endpoint}")
            }
        }
    }
}

/// Describes a part of a store's place, unless it is empty.
#[cfg(any(feature = "s3", feature = "gcs"))]
fn part(label: &str, value: &str) -> String {
    match value {
        "" => String::new(),
        value => format!(", {label} {value}"),
    }
}

#[cfg(all(feature = "s3", feature = "gcs"))]
#[cfg(test)]
mod tests;
