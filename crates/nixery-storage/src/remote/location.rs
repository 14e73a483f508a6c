//! Addresses of buckets, validated when a store is opened.

use reqwest::Url;

use super::request;
use crate::StorageError;

/// Validates parts of a configuration, and creates the errors of opening a store.
pub(super) struct Opening {
    pub(super) backend: &'static str,
    pub(super) location: String,
}

impl Opening {
    pub(super) fn new(backend: &'static str, bucket: &str) -> Self {
        Self {
            backend,
            location: format!("bucket `{bucket}`"),
        }
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> StorageError {
        StorageError::Open {
            backend: self.backend,
            location: self.location.clone(),
            problem: problem.into(),
            source: None,
        }
    }

    pub(super) fn client(&self) -> Result<reqwest::Client, StorageError> {
        request::client()
            .map_err(|error| self.error(format!("the HTTP client cannot be created: {error}")))
    }

    /// A bucket has letters, digits, `.`, `-` and `_`, as S3 and GCS require.
    pub(super) fn bucket(&self, bucket: &str) -> Result<(), StorageError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if bucket.is_empty() {
            return Err(self.error("the bucket is missing. Fix: set its name"));
        }
        // GCS allows 222, S3 63.
        if !bucket.chars().all(legal) || bucket.len() > 222 || bucket.starts_with('.') {
            return Err(self.error(
                "the bucket's name is invalid: it may contain letters, digits, `.`, `-` and `_`",
            ));
        }
        Ok(())
    }

    /// A prefix has components that need no escaping in URLs.
    pub(super) fn prefix(&self, prefix: &str) -> Result<(), StorageError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let component =
            |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(legal);
        if prefix.is_empty() || prefix.split('/').all(component) {
            return Ok(());
        }
        Err(self.error(format!(
            "the prefix `{prefix}` is invalid: it must be like `a/b`, with letters, digits, `.`, `-` and `_` between single slashes"
        )))
    }

    /// An endpoint has scheme, host and port. Returns it without a slash at the end.
    pub(super) fn endpoint(&self, endpoint: &str) -> Result<String, StorageError> {
        let wrong = |why: &str| {
            // Without the URL, which may contain a password.
            self.error(format!(
                "the endpoint's URL {why}. Fix: use the form `https://host:port`"
            ))
        };
        let url = Url::parse(endpoint).map_err(|_| wrong("cannot be parsed"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("is not an HTTP or HTTPS URL"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("contains a user or a password"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("contains more than host and port"));
        }
        Ok(url.as_str().trim_end_matches('/').to_owned())
    }
}

/// Returns `prefix/`, or nothing for an empty prefix.
pub(super) fn folder(prefix: &str) -> String {
    if prefix.is_empty() {
        String::new()
    } else {
        format!("{prefix}/")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("http://127.0.0.1:8333", Some("http://127.0.0.1:8333"))]
    #[case("https://minio.example.org/", Some("https://minio.example.org"))]
    #[case("https://minio.example.org:443", Some("https://minio.example.org"))]
    #[case("minio.example.org", None)]
    #[case("ftp://minio.example.org", None)]
    #[case("https://user:secret@minio.example.org", None)]
    #[case("https://minio.example.org/bucket", None)]
    #[case("https://minio.example.org?a=b", None)]
    #[case("", None)]
    fn endpoints(#[case] endpoint: &str, #[case] expected: Option<&str>) {
        let result = Opening::new("s3", "b").endpoint(endpoint);
        match (result, expected) {
            (Ok(actual), Some(expected)) => assert_eq!(actual, expected),
            (Err(error), None) => assert!(!error.to_string().contains("secret"), "{error}"),
            (result, expected) => panic!("{result:?} is not {expected:?}"),
        }
    }

    #[rstest]
    #[case("", true)]
    #[case("a", true)]
    #[case("a/b.c", true)]
    #[case("/a", false)]
    #[case("a/", false)]
    #[case("a//b", false)]
    #[case("a/../b", false)]
    #[case("a b", false)]
    fn prefixes(#[case] prefix: &str, #[case] legal: bool) {
        assert_eq!(Opening::new("s3", "b").prefix(prefix).is_ok(), legal);
    }

    #[rstest]
    #[case("nixery-layers.example_1", true)]
    #[case("", false)]
    #[case("a/b", false)]
    #[case("..", false)]
    #[case("a?b", false)]
    fn buckets(#[case] bucket: &str, #[case] legal: bool) {
        assert_eq!(Opening::new("s3", bucket).bucket(bucket).is_ok(), legal);
    }
}
