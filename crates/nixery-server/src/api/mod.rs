//! The registry's endpoints.

mod blobs;
mod failure;
mod listings;
mod manifests;

pub(crate) use blobs::blob;
pub(crate) use listings::{referrers, tags};
pub(crate) use manifests::manifest;

use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CACHE_CONTROL;

use crate::response::{REVALIDATE, contents};

/// Answers `GET /v2/`: this is a registry that needs no login.
pub(crate) fn version() -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, REVALIDATE);
    contents("application/json", headers, Bytes::from_static(b"{}"))
}
