//! Blobs: layers, configs, and manifests too.

use crate::error::{ApiError, BuildAnswer, Code};
use crate::range::{Selection, select};
use crate::response::{
    IMMUTABLE, content_headers, contents, entity_tag, not_modified, respond, unchanged,
};
use crate::state::AppState;
use axum::body::Body;
use axum::response::Response;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use nixery_manifest::Digest;
use nixery_storage::{ByteRange, Key};

pub(crate) async fn blob(
    state: &AppState,
    request: &Parts,
    digest: Digest,
) -> Result<Response, ApiError> {
    let key = Key::Blob(digest);
    let storage = state.builder().storage();
    let failed = |error: nixery_storage::StorageError| {
        tracing::error!(%digest, error = %chain(&error), "a blob cannot be read");
        state.builder().report_missing(&digest);
        ApiError::from(&error)
    };

    let Some(stat) = storage.stat(&key).await.map_err(failed)? else {
        return manifest_as_blob(state, request, &digest).await;
    };
    check_size(state, &digest, stat.size)?;

    let etag = entity_tag(&digest);
    let mut headers = content_headers(&digest, IMMUTABLE);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if unchanged(request, &digest) {
        return Ok(not_modified(headers, stat.size));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(key.content_type()));
    // A range has no meaning for HEAD (RFC 9110, section 14.2).
    if request.method == Method::HEAD {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(stat.size));
        return Ok(respond(StatusCode::OK, headers, Body::empty()));
    }

    let range = match select(&request.headers, stat.size, &etag) {
        Selection::Whole => None,
        Selection::Part { start, end } => Some(ByteRange::new(start, end)),
        Selection::Unsatisfiable => return Ok(unsatisfiable(stat.size)),
    };
    let Some(reader) = storage.get(&key, range).await.map_err(failed)? else {
        return Err(ApiError::blob_unknown(&digest));
    };
    check_size(state, &digest, reader.stat.size)?;

    let sent = reader.range;
    headers.insert(CONTENT_LENGTH, HeaderValue::from(sent.len()));
    let status = if range.is_some() {
        let value = format!("bytes {}-{}/{}", sent.start, sent.end - 1, reader.stat.size);
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(CONTENT_RANGE, value);
        }
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    Ok(respond(status, headers, Body::from_stream(reader.body)))
}

/// A manifest that the blob store keeps elsewhere.
async fn manifest_as_blob(
    state: &AppState,
    request: &Parts,
    digest: &Digest,
) -> Result<Response, ApiError> {
    let manifest = state
        .builder()
        .manifest_by_digest(digest)
        .await
        .map_err(|error| BuildAnswer::of(&error).into_error())?;
    let Some(manifest) = manifest else {
        // An image that needs it is mended at its next request.
        state.builder().report_missing(digest);
        return Err(ApiError::blob_unknown(digest));
    };
    let headers = content_headers(digest, IMMUTABLE);
    if unchanged(request, digest) {
        return Ok(not_modified(headers, manifest.bytes.len() as u64));
    }
    Ok(contents(
        "application/octet-stream",
        headers,
        manifest.bytes,
    ))
}

/// Refuses a blob that is known to have another size: half a layer must not look like a whole one.
fn check_size(state: &AppState, digest: &Digest, stored: u64) -> Result<(), ApiError> {
    match state.builder().expected_size(digest) {
        Some(expected) if expected != stored => {
            tracing::error!(%digest, stored, expected, "a stored blob is damaged and not served");
            state.builder().report_missing(digest);
            Err(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                Code::Unknown,
                format!(
                    "the stored copy of {digest} is damaged: it has {stored} of {expected} bytes. The operator of this registry can find it with `nixery verify`"
                ),
            ))
        }
        _ => Ok(()),
    }
}

fn unsatisfiable(size: u64) -> Response {
    let error = ApiError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        Code::Unsupported,
        format!("the range holds no byte of this blob, which has {size}"),
    );
    let mut response = axum::response::IntoResponse::into_response(error);
    if let Ok(value) = HeaderValue::try_from(format!("bytes */{size}")) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    response
}

/// An error with its sources, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
