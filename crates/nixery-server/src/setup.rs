//! Makes a registry from settings.

use std::sync::Arc;

use crate::access::{Access, AccessError};
#[cfg(feature = "lab")]
use crate::config::Salt;
use crate::config::setup::{
    SetupError, builder, describe_finding, nix, preflight, working_storage,
};
use crate::config::{BlobDelivery, HttpSettings, Settings};
use crate::delivery::{self, DeliveryError};
use crate::host::without_scheme;
use crate::limits::Limits;
use crate::state::AppState;

/// The registry cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The store, Nix or the builder cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The blob store cannot deliver blobs as configured.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// Users, tokens or the policy cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// There is no random salt for recording pulls.
    #[cfg(feature = "lab")]
    #[error(
        "the system has no random bytes for the salt of recorded pulls. Fix: set NIXERY_TRAFFIC_SALT (--traffic-salt)"
    )]
    Salt(#[source] std::io::Error),
}

/// Whether a URL names the machine itself.
fn is_loopback(url: &str) -> bool {
    let names = ["127.", "localhost", "[::1]"];
    names
        .iter()
        .any(|name| without_scheme(url).starts_with(name))
}

/// Opens the store, Nix and the builder, checks that they work, and returns the registry.
///
/// # Errors
/// The first of them that does not work.
pub(crate) async fn state(settings: &Settings, limits: &Limits) -> Result<AppState, StateError> {
    let access = Access::load(settings.access.clone()).await?;
    let storage = working_storage(&settings.storage).await?;
    let backend = &settings.storage.backend;
    let blobs = delivery::prepare(&settings.server.http, &*storage).await?;
    tracing::info!(store = %backend, blobs = blobs.describe(), "using this blob store");
    if let Some(endpoint) = backend.client_endpoint()
        && matches!(blobs, BlobDelivery::Redirect | BlobDelivery::Public)
        && is_loopback(endpoint)
    {
        tracing::warn!(
            "clients are redirected to {endpoint}, which only this machine can reach. Fix: set NIXERY_S3_PUBLIC_ENDPOINT (--s3-public-endpoint) to the store's address for clients, or NIXERY_BLOB_DELIVERY (--blob-delivery) to proxy"
        );
    }
    let spool = &settings.storage.spool;
    let nix = nix(&settings.nix, spool, None)?;
    for finding in preflight(&nix).await? {
        tracing::warn!("{}", describe_finding(&finding));
    }
    let builder = builder(
        settings.source.clone(),
        &settings.nix,
        &settings.layering,
        &settings.storage,
        Arc::new(nix),
        storage,
        settings.gc.policy.grace,
    )
    .await?;
    let http = HttpSettings {
        max_downloads: limits.downloads,
        max_downloads_per_client: limits.downloads_per_client,
        ..settings.server.http.clone()
    };
    #[cfg(feature = "lab")]
    if settings.traffic.record {
        let salt = settings.traffic.salt.clone();
        let salt = salt.map_or_else(Salt::random, Ok);
        let salt = salt.map_err(StateError::Salt)?;
        return Ok(AppState::recording(builder, http, salt).with_access(access));
    }
    Ok(AppState::new(builder, http).with_access(access))
}
