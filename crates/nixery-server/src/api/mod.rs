//! The registry's endpoints.

mod blobs;
mod failure;
mod listings;
mod manifests;

pub(crate) use blobs::blob;
pub(crate) use listings::{referrers, tags};
pub(crate) use manifests::manifest;

use axum::response::Response;
use http::StatusCode;

use crate::response::{REVALIDATE, page};

/// Answers `GET /v2/`: this is a registry that needs no login.
pub(crate) fn version() -> Response {
    page(StatusCode::OK, "application/json", REVALIDATE, "{}")
}
