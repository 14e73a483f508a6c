//! Builds answers and their headers.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use nixery_manifest::Digest;

/// Header with the digest of the contents, for clients that verify (OCI distribution specification,
/// "Pulling manifests").
pub(crate) const DOCKER_CONTENT_DIGEST: HeaderName =
    HeaderName::from_static("docker-content-digest");
/// Header that identifies a registry (OCI distribution specification, "Legacy Docker support HTTP
/// headers").
pub(crate) const API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");

/// Cache control of contents that never change, as their digest names them.
pub(crate) const IMMUTABLE: HeaderValue =
    HeaderValue::from_static("public, max-age=31536000, immutable");
/// Cache control of contents that must be revalidated with the entity tag.
pub(crate) const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");
/// Cache control of answers that no cache may keep.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Returns the cache control of the same contents where not everybody may have them, so that no
/// shared cache may keep them. `None` if nothing changes.
#[must_use]
pub(crate) fn private(cache: &HeaderValue) -> Option<HeaderValue> {
    let private = match cache {
        cache if *cache == IMMUTABLE => "private, max-age=31536000, immutable",
        cache if *cache == REVALIDATE => "private, no-cache",
        _ => return None,
    };
    Some(HeaderValue::from_static(private))
}

/// Redirects to a path of this server, keeping the method.
///
/// The location is relative, so that it works behind any proxy. `path` must have been routed.
#[must_use]
pub(crate) fn redirect(path: &str, query: &str) -> Response {
    match HeaderValue::try_from(format!("{path}?{query}")) {
        Ok(location) => {
            let headers = [(LOCATION, location), (CACHE_CONTROL, NO_STORE)];
            (StatusCode::TEMPORARY_REDIRECT, headers).into_response()
        }
        // This cannot happen, as the path and the query are those of a request.
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

/// Returns the entity tag of contents: their quoted digest.
#[must_use]
pub(crate) fn entity_tag(digest: &Digest) -> String {
    ["\"sha256:", &digest.hex(), "\""].concat()
}

/// Returns the headers of an answer whose contents have a digest.
#[must_use]
pub(crate) fn content_headers(digest: &Digest, cache: HeaderValue) -> HeaderMap {
    // With room for the headers that are added later: growing costs more.
    let mut headers = HeaderMap::with_capacity(16);
    let etag = Bytes::from(entity_tag(digest));
    let texts = [
        (DOCKER_CONTENT_DIGEST, etag.slice(1..etag.len() - 1)),
        (ETAG, etag),
    ];
    for (name, text) in texts {
        if let Ok(value) = HeaderValue::from_maybe_shared(text) {
            headers.insert(name, value);
        }
    }
    headers.insert(CACHE_CONTROL, cache);
    headers
}

/// Whether the client already has these contents (RFC 9110, section 13.1.2: weak comparison).
#[must_use]
pub(crate) fn unchanged(request: &Parts, digest: &Digest) -> bool {
    request.headers.contains_key(IF_NONE_MATCH) && has(&request.headers, &entity_tag(digest))
}

fn has(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Answers a client that has the contents. The length is that of the contents (RFC 9110, section
/// 8.6); without it, the HTTP layer would fill in 0, the length of the body.
#[must_use]
pub(crate) fn not_modified(mut headers: HeaderMap, size: u64) -> Response {
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    respond(StatusCode::NOT_MODIFIED, headers, Body::empty())
}

/// Answers with contents held in memory, or without them to a client that has them.
#[must_use]
pub(crate) fn document(
    request: &Parts,
    media_type: &str,
    headers: HeaderMap,
    digest: &Digest,
    bytes: Bytes,
) -> Response {
    if unchanged(request, digest) {
        return not_modified(headers, bytes.len() as u64);
    }
    contents(media_type, headers, bytes)
}

/// Redirects to the store, from which the client gets the contents.
///
/// It must not be cached: a signed URL expires, and each request checks that the contents are still
/// there.
#[must_use]
pub(crate) fn redirect_to_store(digest: &Digest, location: HeaderValue) -> Response {
    let mut headers = HeaderMap::new();
    if let Ok(digest) = HeaderValue::try_from(digest.to_string()) {
        headers.insert(DOCKER_CONTENT_DIGEST, digest);
    }
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    headers.insert(LOCATION, location);
    respond(StatusCode::TEMPORARY_REDIRECT, headers, Body::empty())
}

/// Returns an answer with exactly these headers.
#[must_use]
pub(crate) fn respond(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Answers GET and HEAD with contents held in memory.
#[must_use]
pub(crate) fn contents(media_type: &str, mut headers: HeaderMap, bytes: Bytes) -> Response {
    if let Ok(media_type) = HeaderValue::try_from(media_type) {
        headers.insert(CONTENT_TYPE, media_type);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    respond(StatusCode::OK, headers, Body::from(bytes))
}

/// Answers GET and HEAD with text or a file in memory.
#[must_use]
pub(crate) fn page(
    status: StatusCode,
    media_type: &'static str,
    cache: HeaderValue,
    bytes: impl Into<Bytes>,
) -> Response {
    let headers = HeaderMap::from_iter([(CACHE_CONTROL, cache)]);
    let mut response = contents(media_type, headers, bytes.into());
    *response.status_mut() = status;
    response
}

/// Removes the body of an answer to HEAD, and keeps its length.
#[must_use]
pub(crate) fn without_body(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let length = http_body::Body::size_hint(&body).exact();
    if let (Some(length), false) = (length, parts.status == StatusCode::NOT_MODIFIED) {
        parts
            .headers
            .entry(CONTENT_LENGTH)
            .or_insert(HeaderValue::from(length));
    }
    Response::from_parts(parts, Body::empty())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("\"a\"", true)]
    #[case("W/\"a\"", true)]
    #[case("\"b\", \"a\"", true)]
    #[case("*", true)]
    #[case("\"b\"", false)]
    #[case("a", false)]
    #[case("", false)]
    fn entity_tags_are_compared_weakly(#[case] value: &'static str, #[case] expected: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, HeaderValue::from_static(value));
        assert_eq!(has(&headers, "\"a\""), expected);
    }
}
