//! Handles the signals that end the server.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of an interrupted process, as shells report `SIGINT`.
pub(crate) const INTERRUPTED: u8 = 130;
/// Time for stopping Nix and what it runs, when the server ends at once.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Waits for `SIGTERM` and `SIGINT`.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes over these signals: they no longer end the process by themselves.
    ///
    /// # Errors
    /// The system does not let this process handle signals.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs `work` until it ends or a signal comes, and returns `None` in the latter case.
pub(crate) async fn unless_signalled<T>(
    signals: &mut Signals,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        result = work => Some(result),
        () = signals.next() => None,
    }
}

/// Ends the process within two seconds, or within four if nothing reads its log lines. Work in
/// progress is lost, but nothing is damaged.
///
/// Meanwhile the caller can stop what runs outside of this process. The runtime would wait for the
/// threads that pack layers.
pub(crate) fn exit_soon(code: u8) {
    std::thread::spawn(move || {
        std::thread::sleep(AT_ONCE);
        crate::logging::drain();
        std::process::exit(code.into());
    });
}
