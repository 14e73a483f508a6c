//! Runs the server from its start to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use nixery_nix::hide_process_memory;
use tokio::sync::oneshot;

use crate::access::check_files;
use crate::app::service;
use crate::collection::collect_until;
use crate::config::{Arguments, ConfigErrors, ServerSettings, Settings, unknown_variables};
use crate::host::host_of_examples;
use crate::limits::Limits;
use crate::listen::{ListenError, Listener, bind, bind_admin, serve};
use crate::logging;
use crate::page::EXAMPLE;
use crate::setup::{self, StateError};
use crate::shutdown::{INTERRUPTED, Signals, exit_soon, unless_signalled};
use crate::state::AppState;
use crate::tls::{RELOAD_INTERVAL, Tls, TlsError};

/// Time limit for a garbage collection to release its lease when the server stops.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// The server could not start, or did not end in order. Each problem is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Something the server needs does not work.
    #[error(transparent)]
    State(#[from] StateError),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A port cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Signals cannot be handled.
    #[error("cannot handle signals")]
    Signals(#[source] std::io::Error),
    /// A second signal ended the server before its work had ended.
    #[error("stopped at once by a second signal; unfinished builds and transfers are lost")]
    Interrupted,
}

impl RunError {
    /// Returns the exit code: 2 for invalid settings, as for invalid flags, 130 after a second
    /// signal, as in shells, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Interrupted => INTERRUPTED,
            Self::State(_) | Self::Tls(_) | Self::Listen(_) | Self::Signals(_) => 1,
        }
    }
}

/// Checks the configuration, starts logging, and serves until a signal arrives. Other processes of
/// the user cannot read the memory of this one from now on.
///
/// # Errors
/// The server could not start, or a second signal stopped it.
pub async fn run(arguments: &Arguments<Settings>) -> Result<(), RunError> {
    // Before anything is started: Nix runs as the user of this server.
    let hidden = hide_process_memory();
    let settings = arguments.settings()?;
    logging::start(settings.server.log_format, &settings.server.log_filter);
    if let Err(error) = hidden {
        tracing::warn!(%error, "other programs of this user can read the memory of this server");
    }
    for warning in warnings(&settings) {
        tracing::warn!("{warning}");
    }
    let done = run_settings(&settings).await;
    logging::drain();
    done
}

/// Checks the configuration without starting the server, with the files of users, tokens, keys, the
/// policy and the certificate. Returns warnings and the settings in effect, one per line.
///
/// # Errors
/// The configuration or one of the files is wrong.
pub async fn check(arguments: &Arguments<Settings>) -> Result<(Vec<String>, String), RunError> {
    let settings = arguments.settings()?;
    check_files(&settings.access)
        .await
        .map_err(StateError::Access)?;
    if let Some(files) = &settings.server.tls {
        Tls::load(files).await?;
    }
    Ok((warnings(&settings), arguments.summary()))
}

fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = settings.warnings();
    warnings.extend(unknown_variables());
    warnings
}

async fn run_settings(settings: &Settings) -> Result<(), RunError> {
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    let limits = Limits::of(&settings.server);
    // The ports first: if another server has them, this one must not touch the store.
    let listeners = Listeners::open(&settings.server).await?;
    let state = tokio::select! {
        state = setup::state(settings, &limits) => state?,
        () = signals.next() => return Ok(()),
    };
    announce(settings, &state, &listeners);
    let (stop_collection, collection_stopped) = oneshot::channel();
    let collection = tokio::spawn(collect_until(
        Arc::clone(state.builder().storage()),
        settings.gc.clone(),
        state.metrics().gc().clone(),
        dropped(collection_stopped),
    ));
    #[cfg(feature = "lab")]
    let learning = start_lab(settings, &state);

    let watching = settings.access.is_configured();
    let watching = watching.then(|| {
        let state = state.clone();
        tokio::spawn(async move { state.access().watch_files().await })
    });

    let grace = settings.server.shutdown_grace;
    let builder = state.builder().clone();
    let registry = state.clone();
    let (stop, stopped) = oneshot::channel();
    let requests = tokio::spawn(listeners.serve(state, limits, dropped(stopped), grace));

    signals.next().await;
    registry.readiness().stop();
    #[cfg(feature = "lab")]
    if let Some(learning) = learning {
        // This is harmless at any moment: a plan is stored before it is used.
        learning.abort();
    }
    if let Some(watching) = watching {
        watching.abort();
    }
    // This is harmless at any moment, and other servers need not wait for the collection.
    drop(stop_collection);
    tracing::info!(
        seconds = grace.as_secs(),
        "stopping when running requests and builds have ended; a second signal stops at once"
    );
    drop(stop);
    let begun = Instant::now();
    let work = async {
        // The requests first: one of them may still start a build.
        let stored = tokio::time::timeout(grace, registry.store_recorded());
        let (requests, _) = tokio::join!(requests, stored);
        let rest = grace.saturating_sub(begun.elapsed());
        // The pulls of these requests.
        let stored = tokio::time::timeout(rest, registry.store_recorded());
        let (builds, _) = tokio::join!(tokio::time::timeout(rest, builder.drain()), stored);
        // If the store does not answer, the lease expires by itself.
        let _ = tokio::time::timeout(RELEASE_TIMEOUT, collection).await;
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

/// Starts recording pulls and learning cluster plans, where the settings want it. Returns the task
/// that learns.
#[cfg(feature = "lab")]
fn start_lab(settings: &Settings, state: &AppState) -> Option<tokio::task::JoinHandle<()>> {
    let builder = state.builder();
    if let Some(recorder) = state.recorder() {
        let storage = Arc::clone(builder.storage());
        let recorder = Arc::clone(recorder);
        tokio::spawn(crate::traffic::record_forever(recorder, storage));
    }
    let crate::config::StrategySettings::Learned { hour } = settings.layering.strategy else {
        return None;
    };
    let (builder, plans) = (builder.clone(), state.plans().clone());
    let clock = std::time::SystemTime::now;
    let learning = crate::learning::learn_forever(builder, plans, hour, clock);
    Some(tokio::spawn(learning))
}

/// Waits until the sender is dropped.
async fn dropped(sender: oneshot::Receiver<()>) {
    let _ = sender.await;
}

/// The ports of the server.
struct Listeners {
    registry: Listener,
    admin: Option<Listener>,
}

impl Listeners {
    /// Opens the ports, and reads the certificate from now on, if there is one.
    async fn open(settings: &ServerSettings) -> Result<Self, RunError> {
        let tls = match &settings.tls {
            Some(files) => Some(Arc::new(Tls::load(files).await?)),
            None => None,
        };
        let mut registry = Listener::from(bind(settings.listen, settings.port).await?);
        if let Some(tls) = tls {
            registry = registry.with_tls(Arc::clone(&tls));
            tokio::spawn(async move { tls.reload_forever(RELOAD_INTERVAL).await });
        }
        let admin = match settings.admin_listen {
            Some(address) => Some(Listener::admin(bind_admin(address).await?, &registry)),
            None => None,
        };
        Ok(Self { registry, admin })
    }

    /// Serves until `stop` is ready, and returns whether all requests ended in time.
    async fn serve(
        self,
        state: AppState,
        limits: Limits,
        stop: impl Future<Output = ()> + Send + 'static,
        grace: Duration,
    ) -> bool {
        let stop = stop.shared();
        // A task of its own, which the connections of the registry cannot delay.
        let admin = self.admin.map(|admin| {
            let (service, limits) = (service(state.clone()), Limits::of_admin_listener());
            tokio::spawn(serve(admin, service, limits, stop.clone(), grace))
        });
        let registry = serve(self.registry, service(state), limits, stop, grace).await;
        let admin = match admin {
            Some(admin) => admin.await.unwrap_or(false),
            None => true,
        };
        registry && admin
    }
}

/// Logs the addresses of the listeners and an example of their use.
fn announce(settings: &Settings, state: &AppState, listeners: &Listeners) {
    let packages = &settings.source;
    let storage = state.builder().storage().backend();
    match (listeners.registry.url(), listeners.registry.address()) {
        (Ok(url), Ok(address)) => {
            tracing::info!(%packages, %storage, "listening on {url}");
            let host = host_of_examples(&settings.server.http, address);
            tracing::info!("try it: docker pull {host}/{EXAMPLE}");
        }
        _ => tracing::info!(%packages, %storage, "listening on port {}", settings.server.port),
    }
    if let Some(url) = listeners.admin.as_ref().and_then(|admin| admin.url().ok()) {
        tracing::info!("health checks, metrics and pages are on {url}");
    }
}
