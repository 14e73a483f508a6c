//! Signals that stop a command.

use std::future::{Future, pending};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::errors::Interrupted;

/// Returns the result of `work`, which is dropped when SIGINT or SIGTERM arrives.
///
/// # Errors
/// [`Interrupted`].
pub(crate) async fn or_interrupted<T>(work: impl Future<Output = T>) -> Result<T, Interrupted> {
    // The handlers are installed before the work starts. Until then, and if that fails, a signal
    // ends the process at once.
    let [mut interrupt, mut terminate] =
        [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).ok());
    tokio::select! {
        biased;
        () = received(&mut interrupt) => Err(Interrupted),
        () = received(&mut terminate) => Err(Interrupted),
        result = work => Ok(result),
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => pending().await,
    }
}
