//! The registry's endpoints.

mod blobs;
mod failure;
mod listings;
mod manifests;
mod token;

pub(crate) use blobs::blob;
pub(crate) use listings::{referrers, tags};
pub(crate) use manifests::manifest;
pub(crate) use token::token;

use axum::response::Response;
use http::StatusCode;

use crate::access::Caller;
use crate::error::ApiError;
use crate::response::{REVALIDATE, page};

/// Answers `GET /v2/`: this is a registry, and the caller has some rights.
///
/// # Errors
/// The caller has to log in.
pub(crate) fn version(caller: &Caller<'_>) -> Result<Response, ApiError> {
    match caller.needs_token().or_else(|| caller.refused_entirely()) {
        Some(refused) => Err(refused),
        None => Ok(version_page()),
    }
}

fn version_page() -> Response {
    page(StatusCode::OK, "application/json", REVALIDATE, "{}")
}
