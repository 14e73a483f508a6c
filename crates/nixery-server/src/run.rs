//! The whole life of the server.

use crate::app::router;
use crate::config::{Config, Settings};
use crate::listen::{ListenError, bind, serve};
use crate::setup::{self, SetupError};
use crate::{logging, shutdown};
use std::time::Instant;

/// Why the server could not start. One line for each problem.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigErrors),
    /// Something the server needs does not work.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The port cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Signals cannot be handled.
    #[error("cannot handle signals")]
    Signals(#[source] std::io::Error),
}

/// Checks the configuration, starts logging, and serves until a signal comes.
///
/// # Errors
/// The server could not start.
pub async fn run(config: &Config) -> Result<(), RunError> {
    let settings = config.settings()?;
    logging::start(settings.server.log_format, &settings.server.log_filter);
    for ignored in &settings.server.ignored {
        tracing::warn!("{ignored}");
    }
    run_settings(&settings).await
}

async fn run_settings(settings: &Settings) -> Result<(), RunError> {
    let stop = shutdown::signals().map_err(RunError::Signals)?;
    // The port first: another server on it must not find its store touched by this one.
    let listener = bind(settings.server.listen, settings.server.port).await?;
    let state = setup::state(settings).await?;
    let address = listener.local_addr().map_or_else(
        |_| format!("port {}", settings.server.port),
        |address| address.to_string(),
    );
    tracing::info!(
        address,
        packages = %settings.source,
        storage = state.builder().storage().backend(),
        "serving"
    );

    let grace = settings.server.shutdown_grace;
    let stopping = state.clone();
    let stop = async move {
        stop.await;
        stopping.readiness().stop();
        tracing::info!(
            seconds = grace.as_secs(),
            "stopping: running transfers and builds may end, a second signal stops at once"
        );
    };
    let builder = state.builder().clone();
    let begun = std::sync::OnceLock::new();
    let requests = serve(
        listener,
        router(state),
        async {
            stop.await;
            let _ = begun.set(Instant::now());
        },
        grace,
    )
    .await;
    let used = begun.get().map_or(grace, Instant::elapsed);
    let builds = tokio::time::timeout(grace.saturating_sub(used), builder.drain())
        .await
        .is_ok();
    if !requests || !builds {
        tracing::warn!(requests, builds, "stopped before all work had ended");
    } else {
        tracing::info!("stopped");
    }
    Ok(())
}
