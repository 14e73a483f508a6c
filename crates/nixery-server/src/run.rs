//! The whole life of the server.

use crate::app::service;
use crate::collection::collect_until;
use crate::config::{Arguments, ConfigErrors, Settings, StrategySettings, unknown_variables};
use crate::host::host_of_examples;
use crate::learning::learn_forever;
use crate::listen::{ListenError, bind, serve};
use crate::logging;
use crate::page::EXAMPLE;
use crate::setup::{self, StateError};
use crate::shutdown::{INTERRUPTED, Signals, exit_soon, unless_signalled};
use crate::state::AppState;
use crate::traffic::record_forever;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;

/// Time for a collection of garbage to leave the store to others.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why the server could not start. One line for each problem.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Something the server needs does not work.
    #[error(transparent)]
    State(#[from] StateError),
    /// The port cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Signals cannot be handled.
    #[error("cannot handle signals")]
    Signals(#[source] std::io::Error),
    /// A second signal ended the server before its work had ended.
    #[error("stopped at once by a second signal; what was being built or sent is lost")]
    Interrupted,
}

impl RunError {
    /// What the process tells whoever started it: 2 for wrong settings, as for wrong flags, 130 after a second
    /// signal, as shells have it, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Interrupted => INTERRUPTED,
            Self::State(_) | Self::Listen(_) | Self::Signals(_) => 1,
        }
    }
}

/// Checks the configuration, starts logging, and serves until a signal comes.
///
/// # Errors
/// The server could not start, or a second signal did not let it end in order.
pub async fn run(arguments: &Arguments<Settings>) -> Result<(), RunError> {
    let settings = arguments.settings()?;
    logging::start(settings.server.log_format, &settings.server.log_filter);
    for warning in warnings(&settings) {
        tracing::warn!("{warning}");
    }
    let done = run_settings(&settings).await;
    logging::drain();
    done
}

/// Checks the configuration and starts nothing. Returns warnings, and the settings in effect, one per
/// line.
///
/// # Errors
/// The configuration is wrong.
pub fn check(arguments: &Arguments<Settings>) -> Result<(Vec<String>, String), RunError> {
    let settings = arguments.settings()?;
    Ok((warnings(&settings), arguments.summary()))
}

fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = settings.warnings();
    warnings.extend(unknown_variables());
    warnings
}

async fn run_settings(settings: &Settings) -> Result<(), RunError> {
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    // The port first: another server on it must not find its store touched by this one.
    let listener = bind(settings.server.listen, settings.server.port).await?;
    let state = tokio::select! {
        state = setup::state(settings) => state?,
        () = signals.next() => return Ok(()),
    };
    announce(settings, &state, listener.local_addr().ok());
    let (quit, quitting) = oneshot::channel();
    let collection = tokio::spawn(collect_until(
        Arc::clone(state.builder().storage()),
        settings.gc.clone(),
        state.metrics().gc().clone(),
        gone(quitting),
    ));
    if let Some(recorder) = state.recorder() {
        let storage = Arc::clone(state.builder().storage());
        tokio::spawn(record_forever(Arc::clone(recorder), storage));
    }
    let learning = match settings.layering.strategy {
        StrategySettings::Learned { hour } => Some(tokio::spawn(learn_forever(
            state.builder().clone(),
            state.metrics().plans().clone(),
            hour,
            SystemTime::now,
        ))),
        _ => None,
    };

    let grace = settings.server.shutdown_grace;
    let builder = state.builder().clone();
    let registry = state.clone();
    let (stop, stopped) = oneshot::channel();
    let requests = tokio::spawn(serve(listener, service(state), gone(stopped), grace));

    signals.next().await;
    registry.readiness().stop();
    if let Some(learning) = learning {
        // At any moment: a plan is stored before it is used.
        learning.abort();
    }
    // At any moment: what it has done is whole. Others shall not wait for it.
    drop(quit);
    tracing::info!(
        seconds = grace.as_secs(),
        "stopping: running requests and builds may end, a second signal stops at once"
    );
    drop(stop);
    let begun = Instant::now();
    let work = async {
        // The requests first: one that is already on its way may still start a build.
        let stored = tokio::time::timeout(grace, registry.store_recorded());
        let (requests, _) = tokio::join!(requests, stored);
        let rest = grace.saturating_sub(begun.elapsed());
        // What these requests pulled.
        let stored = tokio::time::timeout(rest, registry.store_recorded());
        let (builds, _) = tokio::join!(tokio::time::timeout(rest, builder.drain()), stored);
        // A store that does not answer is not waited for; the lease goes stale.
        let _ = tokio::time::timeout(FAREWELL, collection).await;
        (requests.unwrap_or(false), builds.is_ok())
    };
    match unless_signalled(&mut signals, work).await {
        Some((true, true)) => tracing::info!("stopped"),
        Some((requests, builds)) => {
            tracing::warn!(requests, builds, "stopped before all work had ended");
            exit_soon(0);
            builder.release_leases().await;
        }
        None => {
            exit_soon(INTERRUPTED);
            builder.release_leases().await;
            return Err(RunError::Interrupted);
        }
    }
    Ok(())
}

/// Ready when the sender is dropped.
async fn gone(sender: oneshot::Receiver<()>) {
    let _ = sender.await;
}

/// Says where the registry is and how to use it.
fn announce(settings: &Settings, state: &AppState, address: Option<SocketAddr>) {
    let packages = &settings.source;
    let storage = state.builder().storage().backend();
    match address {
        Some(address) => {
            tracing::info!(%packages, %storage, "listening on http://{address}");
            let host = host_of_examples(&settings.server.http, address);
            tracing::info!("try it: docker pull {host}/{EXAMPLE}");
        }
        None => tracing::info!(%packages, %storage, "listening on port {}", settings.server.port),
    }
}
