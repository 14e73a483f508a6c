//! Settings of stores in buckets.

use super::{Remote, StorageBackend};
#[cfg(feature = "gcs")]
use crate::check::BOOLEANS;
use crate::check::{Checker, origin};
use crate::table::Setting;
#[cfg(feature = "gcs")]
use crate::table::{GCS_ANONYMOUS, GCS_BUCKET, GCS_CREDENTIALS, GCS_ENDPOINT, GCS_PREFIX};
#[cfg(feature = "s3")]
use crate::table::{
    S3_ADDRESSING, S3_BUCKET, S3_ENDPOINT, S3_PREFIX, S3_PUBLIC_ENDPOINT, S3_REGION,
};
#[cfg(feature = "gcs")]
use nixery_storage::GcsConfig;
use nixery_storage::RemoteLimits;
#[cfg(feature = "s3")]
use nixery_storage::{S3Addressing, S3Config};

/// The variable by which the libraries of Google find an emulator: `host:port`, or a URL.
#[cfg(feature = "gcs")]
const EMULATOR: &str = "STORAGE_EMULATOR_HOST";
const NAME: &str = "letters, digits, '.', '-' and '_'";

/// The longest name of a bucket, which GCS has.
const LONGEST_BUCKET: usize = 222;
/// Leaves room for our own part of a key, of which S3 and GCS allow 1,024 bytes.
const LONGEST_PREFIX: usize = 512;

/// What an endpoint is.
const ENDPOINT: &str =
    "http:// or https://, a host and perhaps a port, without a path and without a user";
#[cfg(feature = "s3")]
const ADDRESSING: [(&str, S3Addressing); 2] = [
    ("path", S3Addressing::Path),
    ("virtual", S3Addressing::Virtual),
];

impl Remote {
    fn limits(&self) -> RemoteLimits {
        let default = RemoteLimits::default();
        let mut limits = default.clone();
        limits.attempts = self.attempts;
        limits.call_timeout = self.timeout.unwrap_or(default.call_timeout);
        limits.stall_timeout = self.timeout.unwrap_or(default.stall_timeout);
        limits
    }
}

#[cfg(feature = "s3")]
pub(super) fn s3(checker: &mut Checker<'_>, remote: &Remote) -> Option<StorageBackend> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let region = |text: &str| text.bytes().all(word).then(|| text.to_owned());
    if checker.given(S3_REGION).is_none() && checker.given(S3_ENDPOINT).is_none() {
        let needed =
            "the bucket's region, such as eu-central-1, or the endpoint of a store that is not AWS";
        checker.missing(S3_REGION, needed);
    }
    let mut config = S3Config::new(bucket(checker, S3_BUCKET));
    config.prefix = prefix(checker, S3_PREFIX);
    config.endpoint = endpoint(checker, S3_ENDPOINT);
    config.public_endpoint = endpoint(checker, S3_PUBLIC_ENDPOINT);
    config.region = checker.parsed(S3_REGION, region, || {
        "a region's name, such as eu-central-1".to_owned()
    });
    config.addressing = checker.choice(S3_ADDRESSING, &ADDRESSING)?;
    config.limits = remote.limits();
    Some(StorageBackend::S3(config))
}

#[cfg(feature = "gcs")]
pub(super) fn gcs(checker: &mut Checker<'_>, remote: &Remote) -> Option<StorageBackend> {
    let given = checker.given(GCS_ENDPOINT);
    let emulator = given.is_some_and(|(name, _)| name.variable == EMULATOR);
    let url = |text: &str| match emulator && !text.contains("://") {
        true => origin(&format!("http://{text}")),
        false => origin(text),
    };
    let anonymous = checker.optional_choice(GCS_ANONYMOUS, BOOLEANS);
    let anonymous = anonymous.unwrap_or(emulator);
    let credential_file = checker.path(GCS_CREDENTIALS).filter(|_| !anonymous);
    if let Some(file) = &credential_file
        && !file.is_file()
    {
        let name = checker.name(GCS_CREDENTIALS);
        let allowed = "a file that exists, with the key of a service account or other credentials of Google's tools";
        checker.invalid(name, &file.display().to_string(), allowed);
    }
    let mut config = GcsConfig::new(bucket(checker, GCS_BUCKET));
    config.prefix = prefix(checker, GCS_PREFIX);
    config.endpoint = checker.parsed(GCS_ENDPOINT, url, || ENDPOINT.to_owned());
    config.credential_file = credential_file;
    config.anonymous = anonymous;
    config.limits = remote.limits();
    Some(StorageBackend::Gcs(config))
}

/// A bucket's name, which must be given.
fn bucket(checker: &mut Checker<'_>, setting: &Setting) -> String {
    if !checker.is_given(setting) {
        checker.missing(setting, "the name of the bucket that holds the blobs");
        return String::new();
    }
    let legal = |name: &str| {
        let legal = is_name(name) && name.len() <= LONGEST_BUCKET;
        legal.then(|| name.to_owned())
    };
    let name = checker.parsed(setting, legal, || format!("a bucket's name: {NAME}"));
    name.unwrap_or_default()
}

/// A prefix of all keys, without slashes at its ends; empty if none is given.
fn prefix(checker: &mut Checker<'_>, setting: &Setting) -> String {
    let legal = |text: &str| {
        let prefix = text.trim_matches('/');
        let legal = prefix.is_empty() || prefix.split('/').all(is_name);
        (legal && prefix.len() <= LONGEST_PREFIX).then(|| prefix.to_owned())
    };
    let allowed = || format!("names such as nixery or team/nixery: {NAME} between slashes");
    checker.parsed(setting, legal, allowed).unwrap_or_default()
}

/// An endpoint: scheme, host and perhaps a port.
#[cfg(feature = "s3")]
fn endpoint(checker: &mut Checker<'_>, setting: &Setting) -> Option<String> {
    checker.parsed(setting, origin, || ENDPOINT.to_owned())
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.bytes().all(|byte| byte == b'.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}
