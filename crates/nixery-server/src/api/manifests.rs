//! Answers requests for manifests, by tag and by digest. A request by tag builds the image.

use axum::response::Response;
use http::header::{ACCEPT, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use nixery_builder::{Image, ImageRequest, ManifestBlob};
use nixery_core::{ImageName, Tag};
use nixery_manifest::{Digest, Family};
use tokio::time::{Instant, timeout};

use super::failure;
use crate::access::Caller;
use crate::error::{ApiError, BuildAnswer, Code};
use crate::host::log_link;
use crate::long_build::{count_if_it_waits, redirect_to_self, wait_for_build};
use crate::negotiate::{Preference, preference};
use crate::response::{IMMUTABLE, REVALIDATE, content_headers, document};
use crate::route::Reference;
use crate::state::AppState;

pub(crate) async fn manifest(
    state: &AppState,
    request: &Parts,
    caller: &Caller<'_>,
    name: ImageName,
    reference: Reference,
) -> Result<Response, ApiError> {
    match reference {
        Reference::Tag(tag) => by_tag(state, request, caller, name, tag).await,
        Reference::Digest(digest) => {
            caller.may_read(&name, &digest).await?;
            by_digest(state, request, &name, &digest).await
        }
    }
}

async fn by_tag(
    state: &AppState,
    request: &Parts,
    caller: &Caller<'_>,
    name: ImageName,
    tag: Tag,
) -> Result<Response, ApiError> {
    let allowance = caller.may_pull(&name, &tag)?;
    // A URL with the reason of a failed build never starts one.
    let asked = ImageRequest { name, tag };
    if let Some(error) = failure::error_of_reason(state, request, caller, &asked) {
        return Err(error);
    }
    if !allowance.may_build {
        return built_before(state, request, caller, &asked).await;
    }
    let (begun, limit) = (Instant::now(), state.settings().hold);
    let hold = || state.held().add(caller.client());
    let ready = timeout(limit, state.ready(&asked));
    let (ready, held) = count_if_it_waits(ready, hold).await?;
    match ready {
        Ok(Ok(Some(image))) => return by_image(state, request, caller, &asked, &image).await,
        Ok(Err(error)) => return Err(BuildAnswer::of(&error).into_error()),
        // Only a build can answer, or the look-up takes long.
        Ok(Ok(None)) | Err(_) => {}
    }
    let _held = held.map_or_else(hold, Ok)?;
    let start = || state.build(asked.clone(), caller.client());
    let handle = match caller.start_build(&allowance, &asked, start) {
        Ok(handle) => handle,
        // An image that is built needs no build.
        Err(refused) => {
            let built = built_before(state, request, caller, &asked).await;
            return built.map_err(|_| refused);
        }
    };
    // The look-up in a slow store may have taken most of the time.
    let rest = limit.saturating_sub(begun.elapsed());
    let Some(result) = wait_for_build(&handle, rest).await else {
        let log = log_link(state.settings(), request, &handle.id());
        return redirect_to_self(&request.uri, &handle, log.as_deref());
    };
    match result {
        Ok(image) => by_image(state, request, caller, &asked, &image).await,
        Err(error) => match BuildAnswer::of(&error) {
            BuildAnswer::Direct(error) => Err(error),
            BuildAnswer::Failure(_) => {
                let (settings, id) = (state.settings(), handle.id());
                Ok(failure::redirect_to_reason(settings, request, &error, &id))
            }
        },
    }
}

/// Answers a caller who may not start a build, with an image that is built.
async fn built_before(
    state: &AppState,
    request: &Parts,
    caller: &Caller<'_>,
    asked: &ImageRequest,
) -> Result<Response, ApiError> {
    let (name, tag) = (&asked.name, &asked.tag);
    let kept = state.builder().kept_image(asked).await;
    let kept = kept.map_err(|error| BuildAnswer::of(&error).into_error())?;
    if let Some(image) = kept {
        return by_image(state, request, caller, asked, &image).await;
    }
    let preferred = preference(&request.headers).first;
    let mut other = None;
    for digest in caller.built_before(name, tag).await? {
        let found = state.builder().manifest_by_digest(&digest).await;
        match found.map_err(|error| BuildAnswer::of(&error).into_error())? {
            Some(manifest) if manifest.media_type == preferred.manifest() => {
                return Ok(by_manifest(state, request, name, &manifest, None));
            }
            manifest => other = other.or(manifest),
        }
    }
    match other {
        Some(manifest) => Ok(by_manifest(state, request, name, &manifest, None)),
        None => Err(caller.not_built(name, tag)),
    }
}

async fn by_image(
    state: &AppState,
    request: &Parts,
    caller: &Caller<'_>,
    asked: &ImageRequest,
    image: &Image,
) -> Result<Response, ApiError> {
    let manifest = pick(image, preference(&request.headers))?;
    caller.remember(&asked.name, &asked.tag, image).await;
    state.builder().record_use(&manifest.digest);
    let key = Some(image.key);
    Ok(by_manifest(state, request, &asked.name, manifest, key))
}

/// Answers with a manifest that was selected by a tag and by what the client accepts.
fn by_manifest(
    state: &AppState,
    request: &Parts,
    name: &ImageName,
    manifest: &ManifestBlob,
    image: Option<Digest>,
) -> Response {
    let mut headers = content_headers(&manifest.digest, REVALIDATE);
    headers.insert(VARY, HeaderValue::from(ACCEPT));
    answer(state, request, headers, name, manifest, image)
}

async fn by_digest(
    state: &AppState,
    request: &Parts,
    name: &ImageName,
    digest: &Digest,
) -> Result<Response, ApiError> {
    let manifest = state
        .builder()
        .manifest_by_digest(digest)
        .await
        .map_err(|error| BuildAnswer::of(&error).into_error())?
        .ok_or_else(|| {
            let message = format!(
                "this registry has no manifest {digest}. Fix: pull the image by its tag, which builds it"
            );
            ApiError::new(StatusCode::NOT_FOUND, Code::ManifestUnknown, message)
        })?;
    let headers = content_headers(&manifest.digest, IMMUTABLE);
    Ok(answer(state, request, headers, name, &manifest, None))
}

/// Returns the manifest that a client reads. Families are never mixed, and zstd layers have no
/// Docker media type.
fn pick(image: &Image, wanted: Preference) -> Result<&ManifestBlob, ApiError> {
    match image.manifest(wanted.first) {
        Some(manifest) => Ok(manifest),
        None if wanted.oci => Ok(&image.oci),
        None => Err(ApiError::new(
            StatusCode::NOT_ACCEPTABLE,
            Code::Unsupported,
            format!(
                "the layers of this registry are compressed with zstd. Fix: use a client that accepts {}",
                Family::Oci.manifest()
            ),
        )),
    }
}

/// Answers with a manifest, and records the pull where pulls are recorded. `image` is the key of
/// the image, if it is known.
#[cfg_attr(not(feature = "lab"), expect(unused_variables))]
fn answer(
    state: &AppState,
    request: &Parts,
    headers: HeaderMap,
    name: &ImageName,
    manifest: &ManifestBlob,
    image: Option<Digest>,
) -> Response {
    let (media_type, bytes) = (manifest.media_type.as_str(), manifest.bytes.clone());
    let answer = document(request, media_type, headers, &manifest.digest, bytes);
    #[cfg(feature = "lab")]
    if let Some(recorder) = state.recorder() {
        recorder.answered(request, answer.status(), name, &manifest.digest, image);
    }
    answer
}
