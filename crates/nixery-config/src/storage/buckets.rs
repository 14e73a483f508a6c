//! The settings of stores in buckets.

#[cfg(feature = "gcs")]
use nixery_storage::GcsConfig;
use nixery_storage::RemoteLimits;
#[cfg(feature = "s3")]
use nixery_storage::{S3Addressing, S3Config};

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

/// The characters of the names of buckets and prefixes, for messages.
const NAME: &str = "letters, digits, '.', '-' and '_'";

/// Limit of a bucket's name: that of GCS, which is the longer one.
const MAX_BUCKET_BYTES: usize = 222;
/// Limit of a prefix: S3 and GCS allow keys of 1,024 bytes, which need room for the rest.
const MAX_PREFIX_BYTES: usize = 512;

/// The form of an endpoint, for messages.
const ENDPOINT: &str =
    "http:// or https://, a host and perhaps a port, without a path and without a user";
#[cfg(feature = "s3")]
const ADDRESSING: [(&str, S3Addressing); 2] = [
    ("path", S3Addressing::Path),
    ("virtual", S3Addressing::Virtual),
];

impl Remote {
    fn limits(&self) -> RemoteLimits {
        let mut limits = RemoteLimits::default();
        limits.attempts = self.attempts;
        if let Some(timeout) = self.timeout {
            limits.call_timeout = timeout;
            limits.stall_timeout = timeout;
        }
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
    let mut endpoint = |setting| checker.parsed(setting, origin, ENDPOINT);
    (config.endpoint, config.public_endpoint) =
        (endpoint(S3_ENDPOINT), endpoint(S3_PUBLIC_ENDPOINT));
    config.region = checker.parsed(S3_REGION, region, "a region's name, such as eu-central-1");
    config.addressing = checker.choice(S3_ADDRESSING, &ADDRESSING)?;
    config.limits = remote.limits();
    Some(StorageBackend::S3(config))
}

#[cfg(feature = "gcs")]
pub(super) fn gcs(checker: &mut Checker<'_>, remote: &Remote) -> Option<StorageBackend> {
    let emulator = !checker.is_given(GCS_ENDPOINT) && checker.given(GCS_ENDPOINT).is_some();
    let url = |text: &str| match emulator && !text.contains("://") {
        true => origin(&format!("http://{text}")),
        false => origin(text),
    };
    let anonymous = checker.optional_choice(GCS_ANONYMOUS, BOOLEANS);
    let anonymous = anonymous.unwrap_or(emulator);
    let credential_file = (!anonymous).then(|| {
        let allowed = "a file that exists, with the key of a service account or other credentials of Google's tools";
        checker.valid_path(GCS_CREDENTIALS, |file| file.is_file(), allowed)
    });
    let mut config = GcsConfig::new(bucket(checker, GCS_BUCKET));
    config.prefix = prefix(checker, GCS_PREFIX);
    config.endpoint = checker.parsed(GCS_ENDPOINT, url, ENDPOINT);
    config.credential_file = credential_file.flatten();
    config.anonymous = anonymous;
    config.limits = remote.limits();
    Some(StorageBackend::Gcs(config))
}

/// Reads a bucket's name, which must be set.
fn bucket(checker: &mut Checker<'_>, setting: &Setting) -> String {
    if !checker.is_given(setting) {
        checker.missing(setting, "the name of the bucket that holds the blobs");
        return String::new();
    }
    let legal = |name: &str| {
        let legal = is_name(name) && name.len() <= MAX_BUCKET_BYTES;
        legal.then(|| name.to_owned())
    };
    let name = checker.parsed(setting, legal, format_args!("a bucket's name: {NAME}"));
    name.unwrap_or_default()
}

/// Reads a prefix of all keys, without slashes at its ends; it is empty by default.
fn prefix(checker: &mut Checker<'_>, setting: &Setting) -> String {
    let legal = |text: &str| {
        let prefix = text.trim_matches('/');
        let legal = prefix.is_empty() || prefix.split('/').all(is_name);
        (legal && prefix.len() <= MAX_PREFIX_BYTES).then(|| prefix.to_owned())
    };
    let allowed = format_args!("names such as nixery or team/nixery: {NAME} between slashes");
    checker.parsed(setting, legal, allowed).unwrap_or_default()
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.bytes().all(|byte| byte == b'.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}
