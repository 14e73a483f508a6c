//! What buckets, prefixes and endpoints may be.

use crate::value::{ConfigErrors, Setting, given, origin};

const NAME: &str = "letters, digits, '.', '-' and '_'";

/// The longest name of a bucket, which GCS has.
const LONGEST_BUCKET: usize = 222;
/// Leaves room for our own part of a key, of which S3 and GCS allow 1,024 bytes.
const LONGEST_PREFIX: usize = 512;

/// A bucket's name, which must be given.
pub(super) fn bucket(errors: &mut ConfigErrors, setting: Setting, value: Option<&str>) -> String {
    let Some(name) = given(value) else {
        errors.missing(setting, "the name of the bucket that holds the blobs");
        return String::new();
    };
    if !is_name(name) || name.len() > LONGEST_BUCKET {
        errors.invalid(setting, name, format!("a bucket's name: {NAME}"));
    }
    name.to_owned()
}

/// A prefix of all keys, without slashes at its ends; empty if none is given.
pub(super) fn prefix(errors: &mut ConfigErrors, setting: Setting, value: Option<&str>) -> String {
    let text = given(value).unwrap_or_default();
    let prefix = text.trim_matches('/');
    let legal = prefix.is_empty() || prefix.split('/').all(is_name);
    if !legal || prefix.len() > LONGEST_PREFIX {
        let allowed = format!("names such as nixery or team/nixery: {NAME} between slashes");
        errors.invalid(setting, text, allowed);
    }
    prefix.to_owned()
}

/// An endpoint: scheme, host and perhaps a port.
pub(super) fn endpoint(errors: &mut ConfigErrors, setting: Setting, text: &str) -> String {
    if let Some(url) = origin(text) {
        return url;
    }
    // It may hold a password.
    let shown = if text.contains('@') { "…@…" } else { text };
    let allowed =
        "http:// or https://, a host and perhaps a port, without a path and without a user";
    errors.invalid(setting, shown, allowed);
    String::new()
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.bytes().all(|byte| byte == b'.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}
