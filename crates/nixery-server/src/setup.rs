//! From checked settings to a registry that can serve.

use crate::config::setup::{SetupError, builder, line, nix, preflight, working_storage};
use crate::config::{BlobDelivery, Settings};
use crate::delivery::{self, DeliveryError};
use crate::state::AppState;
use crate::traffic::{Recorder, Salt};

pub(crate) use crate::config::setup::log_plan;

/// Why the registry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store, Nix or the builder cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The blob store cannot deliver blobs as configured.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

/// Whether a URL names the machine itself.
fn is_loopback(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, host)| host);
    ["127.", "localhost", "[::1]"]
        .iter()
        .any(|name| host.starts_with(name))
}

/// Everything at once: store, Nix with its preflight, builder, registry.
///
/// # Errors
/// The first thing that is in the way.
pub(crate) async fn state(settings: &Settings) -> Result<AppState, StateError> {
    let storage = working_storage(&settings.storage).await?;
    let backend = &settings.storage.backend;
    let blobs = delivery::prepare(&settings.server.http, &*storage).await?;
    tracing::info!(store = %backend, blobs = blobs.way(), "blob store");
    if let Some(endpoint) = backend.client_endpoint()
        && matches!(blobs, BlobDelivery::Redirect | BlobDelivery::Public)
        && is_loopback(endpoint)
    {
        tracing::warn!(
            "clients are redirected to {endpoint}, which only this machine reaches: set NIXERY_S3_PUBLIC_ENDPOINT (--s3-public-endpoint) to the store's address for clients, or NIXERY_BLOB_DELIVERY (--blob-delivery) to proxy"
        );
    }
    let spool = &settings.storage.spool;
    let nix = nix(&settings.nix, spool)?;
    for finding in preflight(&*nix).await? {
        tracing::warn!("{}", line(&finding));
    }
    let builder = builder(
        settings.source.clone(),
        &settings.nix,
        &settings.layering,
        spool,
        nix,
        storage,
        settings.gc.policy.grace,
    )
    .await?;
    let recorder = settings.traffic.record.then(|| {
        let salt = settings.traffic.salt.as_ref();
        let salt = salt.map_or_else(Salt::random, |salt| Salt::new(salt.expose().as_bytes()));
        Recorder::new(salt)
    });
    let http = settings.server.http.clone();
    Ok(AppState::recording(builder, http, recorder))
}
