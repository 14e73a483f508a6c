//! Settings of a store in a bucket of Google Cloud Storage.

use super::{Environment, checks, first, set};
use crate::value::{ConfigErrors, Setting, given, given_path};
use nixery_storage::{GcsConfig, RemoteLimits};
use std::ffi::OsString;

const BUCKET: Setting = Setting::new("GCS_BUCKET", "--gcs-bucket");
const PREFIX: Setting = Setting::new("NIXERY_GCS_PREFIX", "--gcs-prefix");
const ENDPOINT: Setting = Setting::new("NIXERY_GCS_ENDPOINT", "--gcs-endpoint");
const ANONYMOUS: Setting = Setting::new("NIXERY_GCS_ANONYMOUS", "--gcs-anonymous");
const CREDENTIALS: Setting = Setting::new("GOOGLE_APPLICATION_CREDENTIALS", "--gcs-credentials");

/// Where Google's own libraries find an emulator: `host:port`, or a URL.
const EMULATOR: &str = "STORAGE_EMULATOR_HOST";
/// How the original is told what to sign with: a private key in PEM, and whose it is.
const SIGNING_OF_THE_ORIGINAL: [&str; 2] = ["GCS_SIGNING_KEY", "GCS_SIGNING_ACCOUNT"];

/// Flags and variables of a store in a bucket of Google Cloud Storage.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Blob store in a bucket of Google Cloud Storage")]
pub struct GcsArgs {
    /// The bucket, which must exist
    #[arg(long, env = "GCS_BUCKET", value_name = "NAME")]
    pub gcs_bucket: Option<String>,

    /// Where in the bucket the store is, such as `team/nixery` [default: at its top]
    #[arg(long, env = "NIXERY_GCS_PREFIX", value_name = "PREFIX")]
    pub gcs_prefix: Option<String>,

    /// The store's address [default: `STORAGE_EMULATOR_HOST`, else Google's]
    #[arg(long, env = "NIXERY_GCS_ENDPOINT", value_name = "URL")]
    pub gcs_endpoint: Option<String>,

    /// Send no credentials: `true` or `false` [default: true with `STORAGE_EMULATOR_HOST`]
    #[arg(long, env = "NIXERY_GCS_ANONYMOUS", value_name = "BOOL")]
    pub gcs_anonymous: Option<String>,

    /// File with credentials; the key file of a service account can sign URLs as well [default:
    /// those of the machine or workload]
    #[arg(long, env = "GOOGLE_APPLICATION_CREDENTIALS", value_name = "FILE")]
    pub gcs_credentials: Option<OsString>,
}

impl GcsArgs {
    pub(super) fn config(
        &self,
        environment: Environment<'_>,
        limits: RemoteLimits,
        errors: &mut ConfigErrors,
    ) -> GcsConfig {
        let endpoint = first(
            ENDPOINT,
            self.gcs_endpoint.as_deref(),
            &[EMULATOR],
            environment,
        );
        let emulator = matches!(&endpoint, Some((setting, _)) if setting.variable == EMULATOR);
        let endpoint = endpoint.map(|(setting, text)| {
            let url = if emulator && !text.contains("://") {
                format!("http://{text}")
            } else {
                text
            };
            checks::endpoint(errors, setting, &url)
        });
        let anonymous = errors.choice(
            ANONYMOUS,
            self.gcs_anonymous.as_deref(),
            emulator,
            &[("true", true), ("false", false), ("1", true), ("0", false)],
        );
        let credential_file = given_path(self.gcs_credentials.as_ref()).filter(|_| !anonymous);
        if let Some(file) = &credential_file
            && !file.is_file()
        {
            let allowed = "a file that exists, with the key of a service account or other credentials of Google's tools";
            errors.invalid(CREDENTIALS, &file.display().to_string(), allowed);
        }
        GcsConfig {
            bucket: checks::bucket(errors, BUCKET, self.gcs_bucket.as_deref()),
            prefix: checks::prefix(errors, PREFIX, self.gcs_prefix.as_deref()),
            endpoint,
            credential_file,
            anonymous,
            limits,
        }
    }

    /// Those that only this store reads; a machine may have Google credentials for other purposes.
    pub(super) fn given(&self) -> Vec<Setting> {
        set(&[
            (BUCKET, &self.gcs_bucket),
            (PREFIX, &self.gcs_prefix),
            (ENDPOINT, &self.gcs_endpoint),
            (ANONYMOUS, &self.gcs_anonymous),
        ])
    }
}

/// The original's settings that this store cannot use, with what to use instead.
pub(super) fn ignored(environment: Environment<'_>) -> Vec<String> {
    let is_set = |name: &&str| {
        let value = environment(name);
        given(value.and_then(|value| value.into_string().ok()).as_deref()).is_some()
    };
    let names: Vec<_> = SIGNING_OF_THE_ORIGINAL.into_iter().filter(is_set).collect();
    if names.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "not used: {}. URLs are signed with the JSON key file of a service account in {CREDENTIALS}; without one, NIXERY_BLOB_DELIVERY=public redirects to unsigned URLs as the original does without a key",
        names.join(" and ")
    )]
}
