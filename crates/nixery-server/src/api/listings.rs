//! Lists the tags of an image, and the referrers of a manifest.

use axum::response::Response;
use http::header::LINK;
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use nixery_core::{ImageName, Tag};
use nixery_manifest::{Index, MediaType};
use serde_json::json;

use crate::access::Caller;
use crate::error::{ApiError, Code};
use crate::query;
use crate::response::{REVALIDATE, page};
use crate::state::AppState;

/// Header for a filter that was applied, `artifactType` (OCI distribution specification, "Listing
/// Referrers").
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Answers `tags/list`: the tags by which the image can be requested, see
/// [`Builder::tags`](nixery_builder::Builder::tags).
///
/// The list is not complete: each commit of a git source is a tag, and the version of a package is
/// known only while its image is in memory.
pub(crate) async fn tags(
    state: &AppState,
    request: &Parts,
    caller: &Caller<'_>,
    name: &ImageName,
) -> Result<Response, ApiError> {
    caller.may_name(name)?;
    let mut tags = state.builder().tags(name).await;
    tags.retain(|tag| caller.may_see(name, tag));
    let query = request.uri.query();
    let limit = query::value(query, "n")
        .map(|n| page_size(&n))
        .transpose()?;
    let last = query::value(query, "last").unwrap_or_default();
    let tags = tags.iter().map(Tag::as_str);
    let rest: Vec<_> = tags.filter(|tag| *tag > last.as_str()).collect();
    let listed = &rest[..limit.unwrap_or(rest.len()).min(rest.len())];

    let body = json!({ "name": name.as_str(), "tags": listed }).to_string();
    let mut answer = page(StatusCode::OK, "application/json", REVALIDATE, body);
    if let (Some(limit), Some(last)) = (limit, listed.last())
        && listed.len() < rest.len()
    {
        let link = format!(
            "<{}?n={limit}&last={last}>; rel=\"next\"",
            request.uri.path()
        );
        if let Ok(link) = HeaderValue::try_from(link) {
            answer.headers_mut().insert(LINK, link);
        }
    }
    Ok(answer)
}

fn page_size(text: &str) -> Result<usize, ApiError> {
    text.parse().map_err(|_| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            Code::PaginationNumberInvalid,
            "the query parameter `n` must be a whole number, zero or more",
        )
    })
}

/// Answers `referrers` with an empty index, as the specification wants: nothing is attached to
/// images here.
///
/// # Errors
/// The caller may not pull the image.
pub(crate) fn referrers(
    request: &Parts,
    caller: &Caller<'_>,
    name: &ImageName,
) -> Result<Response, ApiError> {
    caller.may_name(name)?;
    let (media_type, index) = (MediaType::OciIndex.as_str(), Index::empty().to_bytes());
    let mut answer = page(StatusCode::OK, media_type, REVALIDATE, index);
    if query::value(request.uri.query(), "artifactType").is_some() {
        let filter = HeaderValue::from_static("artifactType");
        answer.headers_mut().insert(OCI_FILTERS_APPLIED, filter);
    }
    Ok(answer)
}
