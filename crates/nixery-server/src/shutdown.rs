//! Signals that end the server.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Status of a process that was interrupted, as shells report `SIGINT`.
pub(crate) const INTERRUPTED: u8 = 130;
/// Time for stopping Nix and whatever it runs, when everything is to end at once.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Waits for `SIGTERM` and `SIGINT`.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// The system does not let this process handle signals.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Ready at the next of them.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs `work` until it ends or a signal comes; `None` is for the signal.
pub(crate) async fn unless_signalled<T>(
    signals: &mut Signals,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        result = work => Some(result),
        () = signals.next() => None,
    }
}

/// Ends the process within two seconds, whatever it does, or within four if nobody takes its log lines: work in progress
/// is lost, but nothing is damaged.
///
/// Until then whoever dropped the work can stop what runs outside of this process. Layers being packed are on
/// threads that the runtime would wait for.
pub(crate) fn exit_soon(code: u8) {
    std::thread::spawn(move || {
        std::thread::sleep(AT_ONCE);
        crate::logging::drain();
        std::process::exit(code.into());
    });
}
