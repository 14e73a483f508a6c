//! Signals that end the server.

use std::future::Future;
use tokio::signal::unix::{SignalKind, signal};

/// Status of a process that was interrupted a second time, as shells report `SIGINT`.
const INTERRUPTED: i32 = 130;

/// Starts to listen for `SIGTERM` and `SIGINT`; the future is ready at the first of them.
///
/// A second signal ends the process at once: work in progress is lost, but nothing is damaged.
///
/// # Errors
/// The system does not let this process handle signals.
pub(crate) fn signals() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("stopping at once, as a second signal asks");
            std::process::exit(INTERRUPTED);
        });
    })
}
