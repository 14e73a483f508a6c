//! Where blobs are kept: which store, and its settings.
//!
//! Secrets are no settings of ours: the stores read keys where the tools of their makers do.

mod checks;
mod filesystem;
mod gcs;
mod s3;
#[cfg(test)]
mod tests;

pub use gcs::GcsArgs;
pub use s3::S3Args;

use super::value::{ConfigErrors, Setting, given, given_path};
use nixery_storage::{GcsConfig, RemoteLimits, S3Config};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

const BACKEND: Setting = Setting::new("NIXERY_STORAGE_BACKEND", "--storage-backend");
const PATH: Setting = Setting::new("STORAGE_PATH", "--storage-path");
const TIMEOUT: Setting = Setting::new("NIXERY_STORAGE_TIMEOUT", "--storage-timeout");
const ATTEMPTS: Setting = Setting::new("NIXERY_STORAGE_ATTEMPTS", "--storage-attempts");

/// A store that takes longer for one answer is of no use to any client.
const LONGEST_TIMEOUT: u64 = 600;
/// With the pauses between them, more attempts than this are a wait of many minutes.
const MOST_ATTEMPTS: u32 = 100;

/// Flags and variables of the blob store.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Blob store")]
pub struct StorageArgs {
    /// Kind of blob store: `filesystem`, `s3` or `gcs` [default: filesystem]
    #[arg(long, env = "NIXERY_STORAGE_BACKEND", value_name = "KIND")]
    pub storage_backend: Option<String>,

    /// Folder of the filesystem store [default: `$STATE_DIRECTORY`, else `$XDG_DATA_HOME/nixery`,
    /// else `~/.local/share/nixery`, else `/var/lib/nixery`]
    #[arg(long, env = "STORAGE_PATH", value_name = "FOLDER")]
    pub storage_path: Option<OsString>,

    /// Folder for layers being packed and other files that may be lost [default: `spool` in the
    /// folder of the filesystem store, which has no other use with a remote store]
    #[arg(long, env = "NIXERY_SPOOL_DIR", value_name = "FOLDER")]
    pub spool_dir: Option<OsString>,

    /// Time for an answer of a remote store to begin, and for a transfer to stand still, in seconds
    /// [default: 30, and 20 for a transfer]
    #[arg(long, env = "NIXERY_STORAGE_TIMEOUT", value_name = "SECONDS")]
    pub storage_timeout: Option<String>,

    /// How often a request to a remote store is sent at most; 12 attempts outlast a store that is
    /// away for 30 seconds [default: 12]
    #[arg(long, env = "NIXERY_STORAGE_ATTEMPTS", value_name = "COUNT")]
    pub storage_attempts: Option<String>,

    /// An S3 bucket.
    #[command(flatten)]
    pub s3: S3Args,

    /// A bucket of Google Cloud Storage.
    #[command(flatten)]
    pub gcs: GcsArgs,
}

/// A checked choice of blob store.
#[derive(Debug, Clone)]
pub struct StorageSettings {
    /// Which store.
    pub backend: StorageBackend,
    /// The folder for work in progress.
    pub spool: PathBuf,
    /// Settings that were given and do nothing, each with the reason.
    pub ignored: Vec<String>,
}

/// The kinds of blob store, each with its place.
#[derive(Debug, Clone)]
pub enum StorageBackend {
    /// A local folder.
    Filesystem(PathBuf),
    /// A bucket of S3, or of a store that speaks its protocol.
    S3(S3Config),
    /// A bucket of Google Cloud Storage.
    Gcs(GcsConfig),
}

/// Environment variables that are not flags of ours.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Filesystem,
    S3,
    Gcs,
}

const KINDS: [(&str, Kind); 3] = [
    ("filesystem", Kind::Filesystem),
    ("s3", Kind::S3),
    ("gcs", Kind::Gcs),
];

impl StorageArgs {
    /// Checks the settings of the chosen store; those of the others are listed as ignored.
    ///
    /// # Errors
    /// Every value that is not allowed, and every one that is missing.
    pub fn settings(&self) -> Result<StorageSettings, ConfigErrors> {
        self.settings_in(&|name| std::env::var_os(name))
    }

    fn settings_in(&self, environment: Environment<'_>) -> Result<StorageSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let backend = self.storage_backend.as_deref();
        let kind = errors.choice(BACKEND, backend, Kind::Filesystem, &KINDS);
        let folder = given_path(self.storage_path.as_ref())
            .unwrap_or_else(|| filesystem::default_path(environment));
        let spool = given_path(self.spool_dir.as_ref()).unwrap_or_else(|| folder.join("spool"));
        let limits = self.limits(&mut errors);
        let mut ignored = self.ignored(kind);
        let backend = match kind {
            Kind::Filesystem => StorageBackend::Filesystem(folder),
            Kind::S3 => StorageBackend::S3(self.s3.config(environment, limits, &mut errors)),
            Kind::Gcs => {
                ignored.extend(gcs::ignored(environment));
                StorageBackend::Gcs(self.gcs.config(environment, limits, &mut errors))
            }
        };
        errors.finish(StorageSettings {
            backend,
            spool,
            ignored,
        })
    }

    fn limits(&self, errors: &mut ConfigErrors) -> RemoteLimits {
        let default = RemoteLimits::default();
        let timeout = given(self.storage_timeout.as_deref())
            .map(|text| errors.seconds(TIMEOUT, Some(text), 1, 1..=LONGEST_TIMEOUT));
        let or = |default: Duration| timeout.unwrap_or(default);
        RemoteLimits {
            attempts: errors.number(
                ATTEMPTS,
                self.storage_attempts.as_deref(),
                default.attempts,
                1..=MOST_ATTEMPTS,
            ),
            call_timeout: or(default.call_timeout),
            stall_timeout: or(default.stall_timeout),
            ..default
        }
    }

    /// What was set for other stores than the chosen one.
    fn ignored(&self, kind: Kind) -> Vec<String> {
        let name = KINDS.iter().find(|(_, other)| *other == kind);
        let name = name.map_or("", |(name, _)| name);
        let mut unused = Vec::new();
        if kind != Kind::S3 {
            unused.extend(self.s3.given());
        }
        if kind != Kind::Gcs {
            unused.extend(self.gcs.given());
        }
        let mut ignored = Vec::new();
        if kind == Kind::Filesystem {
            let limits = [
                (TIMEOUT, &self.storage_timeout),
                (ATTEMPTS, &self.storage_attempts),
            ];
            unused.extend(set(&limits));
        } else if given_path(self.storage_path.as_ref()).is_some() {
            if given_path(self.spool_dir.as_ref()).is_some() {
                unused.push(PATH);
            } else {
                ignored.push(format!(
                    "{PATH} is set, but the blob store is {name}: only the spool folder is there"
                ));
            }
        }
        let unused = unused
            .into_iter()
            .map(|setting| format!("{setting} is set but not used: the blob store is {name}"));
        ignored.extend(unused);
        ignored
    }
}

/// Those of the settings that are given.
fn set(settings: &[(Setting, &Option<String>)]) -> Vec<Setting> {
    let given = |(setting, value): &(Setting, &Option<String>)| {
        given(value.as_deref()).is_some().then_some(*setting)
    };
    settings.iter().filter_map(given).collect()
}

/// A setting's value, or that of the first variable of other programs that is set, with the name it came by.
fn first(
    setting: Setting,
    value: Option<&str>,
    others: &[&'static str],
    environment: Environment<'_>,
) -> Option<(Setting, String)> {
    if let Some(text) = given(value) {
        return Some((setting, text.to_owned()));
    }
    others.iter().find_map(|name| {
        let value = environment(name)?.to_string_lossy().into_owned();
        let text = given(Some(&value))?.to_owned();
        Some((Setting::new(name, setting.flag), text))
    })
}

impl StorageBackend {
    /// The address at which clients meet the store when they are redirected, where it was configured.
    #[must_use]
    pub fn client_endpoint(&self) -> Option<&str> {
        match self {
            Self::Filesystem(_) => None,
            Self::S3(s3) => s3.public_endpoint.as_deref().or(s3.endpoint.as_deref()),
            Self::Gcs(gcs) => gcs.endpoint.as_deref(),
        }
    }

    /// What to look at when the store does not work.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Filesystem(_) => {
                "set STORAGE_PATH (--storage-path) to a folder this user may write to"
            }
            Self::S3(_) => {
                "see that NIXERY_S3_BUCKET (--s3-bucket), NIXERY_S3_ENDPOINT (--s3-endpoint), NIXERY_S3_REGION (--s3-region) and AWS_ACCESS_KEY_ID are right"
            }
            Self::Gcs(_) => {
                "see that GCS_BUCKET (--gcs-bucket) and GOOGLE_APPLICATION_CREDENTIALS (--gcs-credentials) are right"
            }
        }
    }
}

/// The store's place, for the log; tells no secret.
impl fmt::Display for StorageBackend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, bucket, prefix) = match self {
            Self::Filesystem(path) => return write!(formatter, "filesystem {}", path.display()),
            Self::S3(s3) => ("s3", &s3.bucket, &s3.prefix),
            Self::Gcs(gcs) => ("gcs", &gcs.bucket, &gcs.prefix),
        };
        write!(formatter, "{kind} bucket {bucket}")?;
        if !prefix.is_empty() {
            write!(formatter, ", prefix {prefix}")?;
        }
        match self {
            Self::Filesystem(_) => Ok(()),
            Self::S3(s3) => {
                let endpoint = s3.endpoint.as_deref().unwrap_or("AWS");
                write!(formatter, ", at {endpoint}")?;
                if let Some(region) = &s3.region {
                    write!(formatter, ", region {region}")?;
                }
                if let Some(public) = &s3.public_endpoint {
                    write!(formatter, ", for clients at {public}")?;
                }
                Ok(())
            }
            Self::Gcs(gcs) => {
                let endpoint = gcs.endpoint.as_deref().unwrap_or("Google");
                write!(formatter, ", at {endpoint}")
            }
        }
    }
}
