//! The whole life of the server.

use crate::app::router;
use crate::config::{Config, Settings};
use crate::listen::{ListenError, bind, serve};
use crate::logging;
use crate::setup::{self, SetupError};
use crate::shutdown::{Signals, unless_signalled};
use std::time::Instant;
use tokio::sync::oneshot;

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
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    // The port first: another server on it must not find its store touched by this one.
    let listener = bind(settings.server.listen, settings.server.port).await?;
    let state = tokio::select! {
        state = setup::state(settings) => state?,
        () = signals.next() => return Ok(()),
    };
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
    let builder = state.builder().clone();
    let readiness = state.clone();
    let (stop, stopped) = oneshot::channel();
    let requests = tokio::spawn(serve(
        listener,
        router(state),
        async {
            // Only sent to; a sender that is gone stops as well.
            let _ = stopped.await;
        },
        grace,
    ));

    signals.next().await;
    readiness.readiness().stop();
    tracing::info!(
        seconds = grace.as_secs(),
        "stopping: running requests and builds may end, a second signal stops at once"
    );
    let _ = stop.send(());
    let begun = Instant::now();
    let work = async {
        // The requests first: one that is already on its way may still start a build.
        let requests = requests.await.unwrap_or(false);
        let rest = grace.saturating_sub(begun.elapsed());
        let builds = tokio::time::timeout(rest, builder.drain()).await.is_ok();
        (requests, builds)
    };
    match unless_signalled(&mut signals, work).await {
        Some((true, true)) => tracing::info!("stopped"),
        Some((requests, builds)) => {
            tracing::warn!(requests, builds, "stopped before all work had ended");
        }
        None => tracing::warn!("stopping at once, as a second signal asks"),
    }
    Ok(())
}
