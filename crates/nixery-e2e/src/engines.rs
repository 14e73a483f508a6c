//! Storage engines that tests start for themselves: SeaweedFS, which speaks S3, and
//! fake-gcs-server.
//!
//! `scripts/engines` installs them. Starting SeaweedFS takes some seconds, so tests share one
//! ([`SeaweedFs::shared`]) and take a bucket each; a test that stops the engine starts its own.

mod bucket;
mod fake_gcs;
mod seaweedfs;

pub use bucket::Bucket;
pub use fake_gcs::FakeGcs;
pub use seaweedfs::SeaweedFs;

use crate::checkout;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long an engine may take to be usable. Alone on a machine it takes four seconds.
const START_LIMIT: Duration = Duration::from_secs(90);

/// An engine's program, as `scripts/engines` installs it.
///
/// # Panics
/// It was not installed.
fn engine(name: &str) -> PathBuf {
    let path = checkout().join("target/engines").join(name);
    assert!(
        path.exists(),
        "{} is missing: run `scripts/engines`",
        path.display()
    );
    path
}

/// A running engine process that is killed when dropped; its log is shown if the test fails.
#[derive(Debug)]
struct Process {
    name: &'static str,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts the program with its output in a log file, which grows over restarts.
    fn spawn(name: &'static str, command: &mut Command, log: PathBuf) -> Self {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the log can be opened");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("the engine starts");
        Self { name, log, child }
    }

    /// Waits until the engine answers as it must; `false` if it ended instead, as where a port was
    /// taken.
    #[track_caller]
    fn wait_until(&mut self, mut usable: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + START_LIMIT;
        while !usable() {
            if self
                .child
                .try_wait()
                .expect("the child can be asked")
                .is_some()
            {
                return false;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not answer:\n{}",
                self.name,
                tail(&self.log)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// Ends the process as `kill -9` does.
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "--- the log of {}, last lines\n{}",
                self.name,
                tail(&self.log)
            );
        }
    }
}

/// The last lines of a log, each cut to a readable length.
fn tail(log: &Path) -> String {
    let log = std::fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<String> = log
        .lines()
        .rev()
        .take(30)
        .map(|line| line.chars().take(300).collect())
        .collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// The engine that other tests of this process run now, or a new one.
fn share<Engine>(slot: &Mutex<Weak<Engine>>, start: impl FnOnce() -> Engine) -> Arc<Engine> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = slot.upgrade() {
        return running;
    }
    let started = Arc::new(start());
    *slot = Arc::downgrade(&started);
    started
}

/// Free ports of the loopback address, below those that the kernel gives to outgoing connections:
/// an engine that is stopped must find its ports free when it starts again, though clients keep
/// connecting meanwhile.
fn quiet_ports<const COUNT: usize>() -> [u16; COUNT] {
    const FIRST: u32 = 12_000;
    const COUNT_OF_QUIET: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at once begin at different places.
    let start = std::process::id().wrapping_mul(97);
    let mut held: Vec<TcpListener> = Vec::new();
    while held.len() < COUNT {
        let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + number % COUNT_OF_QUIET).expect("below 32,000");
        held.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    std::array::from_fn(|index| {
        held[index]
            .local_addr()
            .expect("a bound socket has an address")
            .port()
    })
}
