//! Which way blobs take to clients: through this server, or straight from the store by a redirect.

use crate::config::{BlobDelivery, HttpSettings};
use http::HeaderValue;
use nixery_manifest::Digest;
use nixery_storage::{Key, Storage};
use std::time::Duration;

/// Signing is a calculation, but may have to fetch credentials first.
const SIGNING_PATIENCE: Duration = Duration::from_secs(5);

/// The store cannot do what the operator wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// No URLs can be signed.
    #[error(
        "NIXERY_BLOB_DELIVERY (--blob-delivery) is \"redirect\", but this {backend} store cannot sign URLs{hint}; allowed here: auto, proxy{public}"
    )]
    CannotSign {
        /// Name of the backend.
        backend: &'static str,
        /// What it would take.
        hint: &'static str,
        /// Whether unsigned URLs would do.
        public: &'static str,
    },
    /// There are no public URLs.
    #[error(
        "NIXERY_BLOB_DELIVERY (--blob-delivery) is \"public\", but a {backend} store has no public URLs; allowed here: auto, proxy"
    )]
    NoPublicUrls {
        /// Name of the backend.
        backend: &'static str,
    },
}

/// Tries out at start whether the store can do what is wanted; returns which way blobs will take.
///
/// # Errors
/// [`DeliveryError`]. Where [`BlobDelivery::Auto`] finds that signing fails, it is proxying with a log line instead.
pub async fn prepare(
    settings: &HttpSettings,
    storage: &dyn Storage,
) -> Result<BlobDelivery, DeliveryError> {
    let backend = storage.backend();
    let probe = Key::Blob(Digest::of(b""));
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

/// Where the client shall get the blob, or `None` if it is to pass through this server.
pub(crate) async fn location(
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
        // A signed URL is as good as a key for as long as it lives: no log may show it.
        Some(location) => location.set_sensitive(true),
        None => tracing::warn!(%key, "the store's URL does not fit into a header: proxying"),
    }
    location
}

/// A signed URL; `None` where the store cannot sign, or fails to.
async fn signed(storage: &dyn Storage, key: &Key, ttl: Duration) -> Option<String> {
    match tokio::time::timeout(SIGNING_PATIENCE, storage.presign_get(key, ttl)).await {
        Ok(Ok(url)) => url,
        Ok(Err(error)) => {
            let error = crate::api::chain(&error);
            tracing::warn!(%key, error, "a URL could not be signed: proxying");
            None
        }
        Err(_) => {
            tracing::warn!(%key, "signing a URL took too long: proxying");
            None
        }
    }
}
