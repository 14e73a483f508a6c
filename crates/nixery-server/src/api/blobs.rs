//! Blobs: layers, configs, and manifests too.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use nixery_builder::{BlobBody, OpenBlob};
use nixery_manifest::Digest;
use nixery_storage::{ByteRange, Key};

use crate::delivery;
use crate::error::{ApiError, Code};
use crate::range::{Selection, select};
use crate::response::{
    IMMUTABLE, content_headers, document, entity_tag, not_modified, redirect_to_store, respond,
    unchanged,
};
use crate::state::AppState;

/// Blobs up to this size, such as configs, are always proxied: sending them is less work than a
/// redirect is for the client.
const MAX_PROXIED_BYTES: u64 = 64 * 1024;
const OCTETS: &str = "application/octet-stream";

/// Answers a request for a blob.
///
/// # Errors
/// There is no such blob, or it cannot be served.
pub(crate) async fn blob(
    state: &AppState,
    request: &Parts,
    digest: Digest,
) -> Result<Response, ApiError> {
    let mut headers = content_headers(&digest, IMMUTABLE);
    let blob = match state.builder().open_blob(digest).await? {
        None => return Err(ApiError::blob_unknown(&digest)),
        Some(OpenBlob::Manifest(manifest)) => {
            let bytes = manifest.bytes;
            return Ok(document(request, OCTETS, headers, &digest, bytes));
        }
        Some(OpenBlob::Stored(blob)) => blob,
    };
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
    // A client sends its range to the store as well.
    let storage = &**state.builder().storage();
    if blob.size() > MAX_PROXIED_BYTES
        && let Some(url) =
            delivery::redirect_location(state.settings(), storage, &Key::blob(digest)).await
    {
        state.metrics().count_redirected();
        return Ok(redirect_to_store(&digest, url));
    }
    let Some(body) = blob.read(range).await? else {
        return Err(ApiError::blob_unknown(&digest));
    };
    state.metrics().count_proxied();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.range.len()));
    let status = match range {
        None => StatusCode::OK,
        Some(_) => {
            headers.extend(content_range(&body).map(|value| (CONTENT_RANGE, value)));
            StatusCode::PARTIAL_CONTENT
        }
    };
    Ok(respond(status, headers, Body::from_stream(body.body)))
}

fn content_range(body: &BlobBody) -> Option<HeaderValue> {
    let (sent, size) = (body.range, body.size);
    HeaderValue::try_from(format!("bytes {}-{}/{size}", sent.start, sent.end - 1)).ok()
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
