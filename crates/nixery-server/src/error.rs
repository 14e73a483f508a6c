//! Errors as clients get them, in the format of the OCI distribution specification.
//!
//! Every error of the crates below gets its status in one `match` without a default arm: a new
//! error does not compile until its status is chosen.

use std::fmt::Display;
use std::io;

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use nixery_builder::{BuildError, OpenBlobError};
use nixery_core::{PackError, PackErrorKind};
use nixery_nix::PackageError;
use nixery_storage::{Operation, StorageError};
use serde::Serialize;
use serde_json::{Value, json};

use crate::reason::reason_phrase;
use crate::redact::redact;
use crate::response::NO_STORE;
use crate::route::RouteError;

/// Seconds that clients should wait before they ask again for something that is not ready.
pub const RETRY_SECONDS: u64 = 10;

/// Error codes of the OCI distribution specification, section "Error Codes", and of its Docker
/// precursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum Code {
    /// The image name breaks the grammar.
    NameInvalid,
    /// The tag breaks the grammar.
    TagInvalid,
    /// The digest is malformed or of another algorithm.
    DigestInvalid,
    /// `n` is not a number.
    PaginationNumberInvalid,
    /// There is no such manifest, or it cannot be built.
    ManifestUnknown,
    /// There is no such blob.
    BlobUnknown,
    /// The client has to log in.
    Unauthorized,
    /// The user may not do this.
    Denied,
    /// The operation does not exist here.
    Unsupported,
    /// The client should ask again later.
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    /// The server cannot answer now.
    Unavailable,
    /// The server cannot answer.
    Unknown,
}

/// One error answer of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// Code for programs.
    pub code: Code,
    /// Text for people.
    pub message: String,
    /// More for programs, or null.
    pub(crate) detail: Value,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u64>,
    /// How to log in, for `WWW-Authenticate`.
    pub(crate) challenge: Option<HeaderValue>,
}

impl ApiError {
    /// Returns an error without detail. Paths of this server are removed from the message.
    pub fn new(status: StatusCode, code: Code, message: impl AsRef<str>) -> Self {
        Self {
            status,
            code,
            message: redact(message.as_ref()),
            detail: Value::Null,
            retry_after: None,
            challenge: None,
        }
    }

    /// Returns the error for an image that cannot be built, through no fault of this server.
    ///
    /// After its code, unlike most others, podman and skopeo do not try again.
    pub fn failure(message: impl AsRef<str>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            Code::ManifestUnknown,
            message,
        )
    }

    /// Adds more for programs.
    #[must_use]
    pub(crate) fn with_detail(self, detail: Value) -> Self {
        Self { detail, ..self }
    }

    /// Adds how to log in.
    #[must_use]
    pub(crate) fn with_challenge(self, challenge: Option<String>) -> Self {
        let challenge = challenge.and_then(|text| HeaderValue::try_from(text).ok());
        Self { challenge, ..self }
    }

    /// Adds the time to wait before asking again, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    /// Returns the error for a stored copy that is damaged. It is deleted meanwhile, or replaced.
    fn damaged(damage: &dyn Display) -> Self {
        let message = format!(
            "{damage}. Fix: pull the image again by its tag, which rebuilds it; the operator of this registry can find all damage with `nixery verify`"
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, message)
            .retry_after(RETRY_SECONDS)
    }

    /// Returns the error for a blob that the store does not have.
    #[must_use]
    pub fn blob_unknown(digest: &nixery_manifest::Digest) -> Self {
        let message = format!(
            "this registry has no blob {digest}. Fix: pull the image again by its tag, which builds it"
        );
        Self::new(StatusCode::NOT_FOUND, Code::BlobUnknown, message)
            .with_detail(json!({ "digest": digest.to_string() }))
    }
}

/// The answer. For HEAD, the HTTP layer drops its body and keeps the headers.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({
            "errors": [{ "code": self.code, "message": self.message, "detail": self.detail }],
        });
        let mut response = (self.status, body.to_string()).into_response();
        let log = self.detail.get("log").and_then(Value::as_str);
        if let Some(reason) = reason_phrase(self.status, &self.message, log) {
            response.extensions_mut().insert(reason);
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // No cache may keep a failure longer than its cause lasts.
        headers.insert(CACHE_CONTROL, NO_STORE);
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<RouteError> for ApiError {
    fn from(error: RouteError) -> Self {
        let (status, code) = match &error {
            RouteError::Method { .. } => (StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported),
            RouteError::NotFound | RouteError::Unsupported { .. } => {
                (StatusCode::NOT_FOUND, Code::Unsupported)
            }
            RouteError::Encoding { .. } | RouteError::Name(_) => {
                (StatusCode::BAD_REQUEST, Code::NameInvalid)
            }
            RouteError::Tag(_) => (StatusCode::BAD_REQUEST, Code::TagInvalid),
            RouteError::Digest(_) => (StatusCode::BAD_REQUEST, Code::DigestInvalid),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<&StorageError> for ApiError {
    fn from(error: &StorageError) -> Self {
        // Only fixed sentences: messages of the backend name folders and hosts of this server.
        let failed = |message| Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown, message);
        let unavailable = |message| {
            Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, message)
                .retry_after(RETRY_SECONDS)
        };
        match error {
            StorageError::Denied {
                operation: Operation::Write,
                ..
            } => unavailable(
                "the server's blob store is read-only, so that no image can be built. Fix: pull an image that it has, or ask its operator to let the server write to it",
            ),
            StorageError::Open { .. } | StorageError::Denied { .. } => failed(
                "the server has no access to its blob store. Fix: ask its operator to look for the cause in the log",
            ),
            StorageError::NoSpace { .. } => unavailable(
                "the server's blob store has no space left. Fix: ask its operator to free some space",
            ),
            StorageError::Failed { .. } if error.is_retryable() => unavailable(
                "the server's blob store does not answer. Fix: pull the image again later",
            ),
            // It may pass; lasting damage is found by its size or digest.
            StorageError::Truncated { .. } => unavailable(
                "the server's blob store returned only a part of an object. Fix: pull the image again later",
            ),
            StorageError::TooLarge { .. } => failed(
                "the server's blob store holds a damaged object. Fix: ask its operator to run `nixery verify`",
            ),
            StorageError::RangeNotSatisfiable { .. } => Self::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                Code::Unsupported,
                "the range is outside of this blob",
            ),
            // `Failed` and `Spool`.
            _ => failed(
                "the server's blob store failed. Fix: ask its operator to look for the cause in the log",
            ),
        }
    }
}

impl From<OpenBlobError> for ApiError {
    fn from(error: OpenBlobError) -> Self {
        match &error {
            OpenBlobError::Storage(source) => Self::from(source),
            damage @ (OpenBlobError::WrongSize { .. } | OpenBlobError::WrongDigest { .. }) => {
                Self::damaged(damage)
            }
            wait @ OpenBlobError::NotVerified { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                wait.to_string(),
            )
            .retry_after(RETRY_SECONDS),
        }
    }
}

/// How a failed build is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildAnswer {
    /// With this error, directly.
    Direct(ApiError),
    /// With a redirect to a URL that names the reason, and this error there: the package or the
    /// package set is at fault, and clients that print no body print that URL.
    Failure(ApiError),
}

impl BuildAnswer {
    /// Returns the answer for a build error.
    #[must_use]
    pub fn of(error: &BuildError) -> Self {
        let message = error.to_string();
        let direct = |status, code| Self::Direct(ApiError::new(status, code, &message));
        let own_fault = || direct(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown);
        let later = |status, code| {
            Self::Direct(ApiError::new(status, code, &message).retry_after(RETRY_SECONDS))
        };
        let unavailable = || later(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable);
        let failure = || Self::Failure(ApiError::failure(&message));
        match error {
            BuildError::Package(PackageError::NotFound { packages }) => Self::Direct(
                ApiError::new(StatusCode::NOT_FOUND, Code::ManifestUnknown, &message)
                    .with_detail(json!({ "missing": packages })),
            ),
            BuildError::Package(PackageError::UnknownRevision { .. })
            | BuildError::UnknownTag { .. }
            | BuildError::OtherVersion { .. } => {
                direct(StatusCode::NOT_FOUND, Code::ManifestUnknown)
            }
            BuildError::Package(
                PackageError::NotDerivation { .. }
                | PackageError::Evaluation { .. }
                | PackageError::Failed { .. }
                | PackageError::Source { .. },
            )
            | BuildError::TimedOut { .. }
            | BuildError::EvaluationMemory { .. }
            | BuildError::ClosureTooLarge { .. }
            | BuildError::ImageTooLarge { .. } => failure(),
            BuildError::TooManyPackages { .. } => {
                direct(StatusCode::BAD_REQUEST, Code::NameInvalid)
            }
            BuildError::Pack(error) => match (error.kind(), error) {
                (PackErrorKind::Contents, _) => failure(),
                (_, PackError::Write { source }) if is_full(source) => unavailable(),
                _ => own_fault(),
            },
            BuildError::Unavailable(_) => unavailable(),
            BuildError::Busy { .. } | BuildError::QuotaExceeded { .. } => {
                later(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests)
            }
            BuildError::Storage { source, .. } => {
                let mut answer = ApiError::from(source);
                answer.message = redact(&format!("{message}: {}", answer.message));
                Self::Direct(answer)
            }
            BuildError::Damaged { .. } => Self::Direct(ApiError::damaged(error)),
            BuildError::Spool { source, .. } if is_full(source) => unavailable(),
            BuildError::DiskFull { .. } => unavailable(),
            BuildError::InvalidPlan { .. }
            | BuildError::Spool { .. }
            | BuildError::Internal { .. } => own_fault(),
        }
    }

    /// Returns the error, however it is answered.
    #[must_use]
    pub fn into_error(self) -> ApiError {
        match self {
            Self::Direct(error) | Self::Failure(error) => error,
        }
    }
}

/// Whether the disk has no space left, which may pass when other builds delete their spool files.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
