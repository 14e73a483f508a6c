//! Delivers blobs to clients: through this server, or from the store by a redirect.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::TryStreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use nixery_builder::{ClientId, StoredBlob};
use nixery_manifest::Digest;
use nixery_storage::{ByteRange, Key, Storage, error_chain};

use crate::client::client_address;
use crate::config::{BlobDelivery, HttpSettings};
use crate::error::ApiError;
use crate::response::{redirect_to_store, respond};
use crate::state::AppState;

/// Time limit for signing, which may have to fetch credentials first.
const SIGNING_TIMEOUT: Duration = Duration::from_secs(5);

/// Blobs up to this size, such as configs, are always proxied: sending them is less work than a
/// redirect is for the client.
const MAX_PROXIED_BYTES: u64 = 64 * 1024;

/// The store cannot deliver blobs as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The store cannot sign URLs.
    #[error(
        "NIXERY_BLOB_DELIVERY (--blob-delivery) is \"redirect\", but this {backend} store cannot sign URLs{hint}. Fix: set it to one of: auto, proxy{public}"
    )]
    CannotSign {
        /// Name of the backend.
        backend: &'static str,
        /// What it lacks.
        hint: &'static str,
        /// The value of the setting for unsigned URLs, where the store has them.
        public: &'static str,
    },
    /// The store has no unsigned URLs.
    #[error(
        "NIXERY_BLOB_DELIVERY (--blob-delivery) is \"public\", but a {backend} store has no public URLs. Fix: set it to one of: auto, proxy"
    )]
    NoPublicUrls {
        /// Name of the backend.
        backend: &'static str,
    },
}

/// Checks whether the store can deliver blobs as configured, and returns how it does.
///
/// # Errors
/// [`DeliveryError`]. If signing fails, [`BlobDelivery::Auto`] proxies and logs a warning instead.
pub async fn prepare(
    settings: &HttpSettings,
    storage: &dyn Storage,
) -> Result<BlobDelivery, DeliveryError> {
    let backend = storage.backend();
    let probe = Key::blob(Digest::of(b""));
    let public = storage.public_url(&probe).is_some();
    match settings.delivery {
        BlobDelivery::Proxy => Ok(BlobDelivery::Proxy),
        BlobDelivery::Public if public => Ok(BlobDelivery::Public),
        BlobDelivery::Public => Err(DeliveryError::NoPublicUrls { backend }),
        wanted @ (BlobDelivery::Auto | BlobDelivery::Redirect) => {
            if signed(storage, &probe, settings.redirect_ttl)
                .await
                .is_some()
            {
                return Ok(BlobDelivery::Redirect);
            }
            if wanted == BlobDelivery::Auto {
                return Ok(BlobDelivery::Proxy);
            }
            Err(DeliveryError::CannotSign {
                backend,
                hint: match backend {
                    "gcs" => {
                        " without the key file of a service account in GOOGLE_APPLICATION_CREDENTIALS"
                    }
                    "s3" => " without credentials",
                    _ => "",
                },
                public: if public { ", public" } else { "" },
            })
        }
    }
}

/// Answers a GET with the blob or a part of it. `headers` are those of the whole blob.
///
/// # Errors
/// The blob has been deleted since it was opened, it cannot be read, or too many blobs are being
/// sent.
pub(crate) async fn deliver(
    state: &AppState,
    request: &Parts,
    blob: &StoredBlob,
    range: Option<ByteRange>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (digest, storage) = (blob.digest(), &**state.builder().storage());
    // A redirected client sends its range to the store.
    if blob.size() > MAX_PROXIED_BYTES
        && let Some(url) = redirect_location(state.settings(), storage, &Key::blob(digest)).await
    {
        state.metrics().count_redirected();
        return Ok(redirect_to_store(&digest, url));
    }
    proxy_blob(state, request, blob, range, headers).await
}

/// Sends the blob or a part of it through this server.
async fn proxy_blob(
    state: &AppState,
    request: &Parts,
    blob: &StoredBlob,
    range: Option<ByteRange>,
    mut headers: HeaderMap,
) -> Result<Response, ApiError> {
    // Small blobs are read whole and count as answers that wait for their clients. So a pull gets
    // its config while slow clients have all downloads.
    let download = if blob.size() > MAX_PROXIED_BYTES {
        let client = client_address(request).map(ClientId::from_address);
        let response = request.extensions.get().cloned();
        Some(state.downloads().begin(client, response).await?)
    } else {
        None
    };
    let Some(body) = blob.read(range).await? else {
        return Err(ApiError::blob_unknown(&blob.digest()));
    };
    state.metrics().count_proxied();
    let (sent, size) = (body.range, body.size);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(sent.len()));
    let mut status = StatusCode::OK;
    if range.is_some() {
        status = StatusCode::PARTIAL_CONTENT;
        let part = format!("bytes {}-{}/{size}", sent.start, sent.end - 1);
        headers.extend(HeaderValue::try_from(part).map(|part| (CONTENT_RANGE, part)));
    }
    let body = match download {
        Some(download) => download.body(body.body),
        None => match body.body.try_collect::<Vec<_>>().await {
            Ok(chunks) => Body::from(chunks.concat()),
            // The transfer breaks off, as that of a large blob does.
            Err(error) => Body::from_stream(futures::stream::iter([Err::<Bytes, _>(error)])),
        },
    };
    Ok(respond(status, headers, body))
}

/// Returns the URL to redirect a client to, or `None` if the blob is proxied.
async fn redirect_location(
    settings: &HttpSettings,
    storage: &dyn Storage,
    key: &Key,
) -> Option<HeaderValue> {
    let url = match settings.delivery {
        BlobDelivery::Proxy => None,
        BlobDelivery::Public => storage.public_url(key),
        BlobDelivery::Auto | BlobDelivery::Redirect => {
            signed(storage, key, settings.redirect_ttl).await
        }
    }?;
    let mut location = HeaderValue::try_from(url).ok();
    match &mut location {
        // A signed URL gives access until it expires: no log may show it.
        Some(location) => location.set_sensitive(true),
        None => {
            tracing::warn!(%key, "the store's URL does not fit into a header; the blob is proxied")
        }
    }
    location
}

/// Returns a signed URL, or `None` if the store cannot sign or signing fails.
async fn signed(storage: &dyn Storage, key: &Key, ttl: Duration) -> Option<String> {
    match tokio::time::timeout(SIGNING_TIMEOUT, storage.presign_get(key, ttl)).await {
        Ok(Ok(url)) => url,
        Ok(Err(error)) => {
            let error = error_chain(&error);
            tracing::warn!(%key, error, "cannot sign a URL; the blob is proxied");
            None
        }
        Err(_) => {
            tracing::warn!(%key, "signing a URL took too long; the blob is proxied");
            None
        }
    }
}
