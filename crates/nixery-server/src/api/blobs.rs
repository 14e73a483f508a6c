//! Blobs: layers, configs, and manifests too.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use nixery_core::ImageName;
use nixery_manifest::Digest;
use nixery_storage::ByteRange;

use crate::access::Caller;
use crate::delivery;
use crate::error::{ApiError, Code};
use crate::range::{Selection, select};
use crate::response::{IMMUTABLE, content_headers, entity_tag, not_modified, respond, unchanged};
use crate::state::AppState;

const OCTETS: &str = "application/octet-stream";

/// Answers a request for a blob.
///
/// # Errors
/// There is no such blob, the caller may not have it, or it cannot be served.
pub(crate) async fn blob(
    state: &AppState,
    request: &Parts,
    caller: &Caller<'_>,
    name: &ImageName,
    digest: Digest,
) -> Result<Response, ApiError> {
    caller.may_read(name, &digest).await?;
    let Some(blob) = state.builder().open_blob(digest).await? else {
        return Err(ApiError::blob_unknown(&digest));
    };
    let mut headers = content_headers(&digest, IMMUTABLE);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if unchanged(request, &digest) {
        return Ok(not_modified(headers, blob.size()));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    // A range has no meaning for HEAD (RFC 9110, section 14.2).
    if request.method == Method::HEAD {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(blob.size()));
        return Ok(respond(StatusCode::OK, headers, Body::empty()));
    }
    let range = match select(&request.headers, blob.size(), &entity_tag(&digest)) {
        Selection::Whole => None,
        Selection::Part { start, end } => Some(ByteRange::new(start, end)),
        Selection::Unsatisfiable => return Ok(unsatisfiable(blob.size())),
    };
    delivery::deliver(state, request, &blob, range, headers).await
}

fn unsatisfiable(size: u64) -> Response {
    let error = ApiError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        Code::Unsupported,
        format!("the range is outside of this blob, which has {size} bytes"),
    );
    let mut response = error.into_response();
    if let Ok(value) = HeaderValue::try_from(format!("bytes */{size}")) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    response
}
