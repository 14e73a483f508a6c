//! Blobs: layers, configs, and manifests too.

use super::verified::{Verdict, verified};
use crate::delivery;
use crate::error::{ApiError, BuildAnswer, Code};
use crate::range::{Selection, select};
use crate::response::{
    IMMUTABLE, content_headers, document, elsewhere, entity_tag, not_modified, respond, unchanged,
};
use crate::state::AppState;
use axum::body::Body;
use axum::response::Response;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use nixery_manifest::Digest;
use nixery_storage::{BlobReader, ByteRange, Key, StorageError};

/// Blobs up to this size, which configs are, pass through this server always: sending them is less work than a
/// redirect is for the client. They are checked before the first byte is sent.
const SMALL: u64 = 64 * 1024;

pub(crate) async fn blob(
    state: &AppState,
    request: &Parts,
    digest: Digest,
) -> Result<Response, ApiError> {
    let key = Key::blob(digest);
    let storage = state.builder().storage();
    let failed = |error: StorageError| unreadable(state, &digest, &error);

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
    // A client sends its range to the store as well.
    if stat.size > SMALL
        && let Some(location) = delivery::location(state.settings(), &**storage, &key).await
    {
        state.metrics().count_redirected();
        return Ok(elsewhere(&digest, location));
    }
    let Some(reader) = storage.get(&key, range).await.map_err(failed)? else {
        state.builder().report_missing(&digest);
        return Err(ApiError::blob_unknown(&digest));
    };
    check_size(state, &digest, reader.stat.size)?;
    through(state, &digest, headers, reader, range.is_some()).await
}

/// Sends a blob, or a part of one, through this server.
async fn through(
    state: &AppState,
    digest: &Digest,
    mut headers: HeaderMap,
    reader: BlobReader,
    part: bool,
) -> Result<Response, ApiError> {
    let (sent, size) = (reader.range, reader.stat.size);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(sent.len()));
    if part {
        let value = format!("bytes {}-{}/{size}", sent.start, sent.end - 1);
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(CONTENT_RANGE, value);
        }
        state.metrics().count_proxied();
        let body = Body::from_stream(reader.body);
        return Ok(respond(StatusCode::PARTIAL_CONTENT, headers, body));
    }
    let body = if state.builder().is_verified(digest) {
        Body::from_stream(reader.body)
    } else if size <= SMALL {
        let bytes = reader.bytes().await;
        let bytes = bytes.map_err(|error| unreadable(state, digest, &error))?;
        if digest.verify(&bytes).is_err() {
            damaged(state, *digest);
            let message = format!("the stored copy of {digest} is damaged");
            return Err(damage(message));
        }
        state.builder().report_verified(digest, size);
        Body::from(bytes)
    } else {
        let (state, digest) = (state.clone(), *digest);
        let tell = move |verdict| match verdict {
            Verdict::Sound(size) => state.builder().report_verified(&digest, size),
            Verdict::Damaged => damaged(&state, digest),
        };
        Body::from_stream(verified(reader.body, digest, tell))
    };
    state.metrics().count_proxied();
    Ok(respond(StatusCode::OK, headers, body))
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
    let media_type = "application/octet-stream";
    Ok(document(
        request,
        media_type,
        headers,
        digest,
        manifest.bytes,
    ))
}

/// The answer for a blob that cannot be read. Images that need it are looked at again.
fn unreadable(state: &AppState, digest: &Digest, error: &StorageError) -> ApiError {
    tracing::error!(%digest, error = %chain(error), "a blob cannot be read");
    state.builder().report_missing(digest);
    ApiError::from(error)
}

/// Refuses a blob that is known to have another size: half a layer must not look like a whole one.
fn check_size(state: &AppState, digest: &Digest, stored: u64) -> Result<(), ApiError> {
    match state.builder().expected_size(digest) {
        Some(expected) if expected != stored => {
            tracing::error!(%digest, stored, expected, "a stored blob is damaged and not served");
            state.metrics().count_damaged();
            // Stored anew by the next build, as its size is wrong.
            state.builder().report_missing(digest);
            Err(damage(format!(
                "the stored copy of {digest} is damaged: it has {stored} of {expected} bytes"
            )))
        }
        _ => Ok(()),
    }
}

/// Sees to it that a blob with wrong contents is made anew.
fn damaged(state: &AppState, digest: Digest) {
    tracing::error!(%digest, "a stored blob is not what its digest says: its sending is broken off");
    state.metrics().count_damaged();
    let state = state.clone();
    tokio::spawn(async move {
        if let Err(error) = state.builder().discard_damaged(&digest).await {
            tracing::error!(%digest, error = %chain(&error), "a damaged blob cannot be deleted; `nixery verify --delete-corrupt` can do it later");
        }
    });
}

fn damage(message: String) -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unknown,
        format!(
            "{message}. Ask for the image again, which makes it anew; the operator of this registry can find all damage with `nixery verify`"
        ),
    )
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
