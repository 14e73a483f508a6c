//! What clients are told when something is wrong: the errors of the OCI distribution specification.
//!
//! Every error of the crates below gets its status in one `match` without a default arm: a new error does not
//! compile until someone has picked its status.

use crate::redact::redact;
use crate::route::RouteError;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use nixery_builder::BuildError;
use nixery_core::{PackError, PackErrorKind};
use nixery_manifest::DigestError;
use nixery_storage::StorageError;
use serde_json::{Value, json};
use std::io;

/// How long clients shall wait before they ask again for something that is not ready, in seconds.
pub const RETRY_SECONDS: u64 = 10;

/// Error codes of the OCI distribution specification, section "Error Codes", and of its Docker precursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The image name breaks the grammar.
    NameInvalid,
    /// The tag breaks the grammar.
    TagInvalid,
    /// The digest is malformed or of another algorithm.
    DigestInvalid,
    /// `n` is not a number.
    PaginationNumberInvalid,
    /// There is no such manifest, or it cannot be made.
    ManifestUnknown,
    /// There is no such blob.
    BlobUnknown,
    /// The operation does not exist here.
    Unsupported,
    /// The client shall come back later.
    TooManyRequests,
    /// The server cannot do it now.
    Unavailable,
    /// The server cannot do it.
    Unknown,
}

impl Code {
    /// The code as it stands in a body.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NameInvalid => "NAME_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// One error answer of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// Code for programs.
    pub code: Code,
    /// Text for people.
    pub message: String,
    /// More for programs, or null.
    pub detail: Value,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// An error without detail. Paths of this server are taken out of the message.
    pub fn new(status: StatusCode, code: Code, message: impl AsRef<str>) -> Self {
        Self {
            status,
            code,
            message: redact(message.as_ref()),
            detail: Value::Null,
            retry_after: None,
        }
    }

    /// An image that cannot be built, which is not this server's fault.
    ///
    /// The code is one after which podman and skopeo do not try again, which they do after most others.
    pub fn failure(message: impl AsRef<str>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            Code::ManifestUnknown,
            message,
        )
    }

    /// The same with more for programs.
    #[must_use]
    pub fn with_detail(self, detail: Value) -> Self {
        Self { detail, ..self }
    }

    /// The same with the time to wait before asking again, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    /// A blob that the store does not have.
    #[must_use]
    pub fn blob_unknown(digest: &nixery_manifest::Digest) -> Self {
        let message = format!(
            "this registry has no blob {digest}; ask for the manifest again, which builds it"
        );
        Self::new(StatusCode::NOT_FOUND, Code::BlobUnknown, message)
            .with_detail(json!({ "digest": digest.to_string() }))
    }

    /// The answer, without a body for HEAD (which the HTTP layer drops, keeping the headers).
    fn response(self) -> Response {
        let body = json!({
            "errors": [{ "code": self.code.as_str(), "message": self.message, "detail": self.detail }],
        });
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // A failure must not outlive its cause in a cache on the way.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.response()
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
            RouteError::Digest(error) => match error {
                DigestError::Malformed { .. }
                | DigestError::UnsupportedAlgorithm { .. }
                | DigestError::Mismatch { .. } => (StatusCode::BAD_REQUEST, Code::DigestInvalid),
            },
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<&StorageError> for ApiError {
    fn from(error: &StorageError) -> Self {
        // Only fixed sentences: what the backend says names folders and hosts of this server.
        let (status, code, message) = match error {
            StorageError::Open { .. } | StorageError::Denied { .. } => (
                StatusCode::INTERNAL_SERVER_ERROR,
                Code::Unknown,
                "the server may not use its blob store",
            ),
            StorageError::NoSpace { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                "the server's blob store has no space left",
            ),
            StorageError::Failed { .. } if error.is_retryable() => (
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                "the server's blob store does not answer",
            ),
            StorageError::Failed { .. } | StorageError::Spool { .. } => (
                StatusCode::INTERNAL_SERVER_ERROR,
                Code::Unknown,
                "the server's blob store failed",
            ),
            // The store may be in the middle of something; damage that lasts is found by its size or digest.
            StorageError::Truncated { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                "the server's blob store gave a part of this only",
            ),
            StorageError::TooLarge { .. } => (
                StatusCode::INTERNAL_SERVER_ERROR,
                Code::Unknown,
                "the server's blob store holds a damaged copy of this; its operator can find it with `nixery verify`",
            ),
            StorageError::RangeNotSatisfiable { .. } => (
                StatusCode::RANGE_NOT_SATISFIABLE,
                Code::Unsupported,
                "the range holds no byte of this blob",
            ),
        };
        let answer = Self::new(status, code, message);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer.retry_after(RETRY_SECONDS)
        } else {
            answer
        }
    }
}

/// How a failed build is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildAnswer {
    /// With this error, at once.
    Direct(ApiError),
    /// With a redirect whose URL says why, and the error there: the package or the package set is at fault, and
    /// clients that print no body print that URL.
    Failure(ApiError),
}

impl BuildAnswer {
    /// Picks the answer for a build error.
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
            BuildError::NotFound { packages } => Self::Direct(
                ApiError::new(StatusCode::NOT_FOUND, Code::ManifestUnknown, &message)
                    .with_detail(json!({ "missing": packages })),
            ),
            BuildError::NotDerivation { .. }
            | BuildError::Evaluation { .. }
            | BuildError::Failed { .. }
            | BuildError::TimedOut { .. }
            | BuildError::Source { .. } => failure(),
            BuildError::Pack(error) => match (error.kind(), error) {
                (PackErrorKind::Contents, _) => failure(),
                (_, PackError::Write { source }) if is_full(source) => unavailable(),
                _ => own_fault(),
            },
            BuildError::Unavailable { .. } => unavailable(),
            BuildError::Busy { .. } => later(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests),
            BuildError::Storage { source, .. } => {
                let mut answer = ApiError::from(source);
                answer.message = redact(&format!("{message}: {}", answer.message));
                Self::Direct(answer)
            }
            BuildError::Spool { source, .. } if is_full(source) => unavailable(),
            BuildError::Spool { .. } | BuildError::Internal { .. } => own_fault(),
        }
    }

    /// The error, whichever way it is answered.
    #[must_use]
    pub fn into_error(self) -> ApiError {
        match self {
            Self::Direct(error) | Self::Failure(error) => error,
        }
    }
}

/// Whether the disk has no space left, which may pass: spool files of other builds go.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
