//! fake-gcs-server: the JSON interface of Google Cloud Storage, in memory.

use super::{Bucket, Process, bucket, engine, quiet_ports, share};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tempfile::TempDir;

/// A fake-gcs-server on a port of its own; it forgets everything when it ends.
#[derive(Debug)]
pub struct FakeGcs {
    /// Killed when the engine is dropped, before the folder with its log goes.
    _process: Process,
    _folder: TempDir,
    port: u16,
    buckets: AtomicUsize,
}

impl FakeGcs {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// It does not start; its log is in the message.
    #[track_caller]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let log = folder.path().join("log");
        for _ in 0..3 {
            let [port] = quiet_ports();
            let host = format!("127.0.0.1:{port}");
            let mut command = Command::new(engine("fake-gcs-server"));
            command
                .args(["-scheme", "http", "-backend", "memory"])
                .args(["-host", "127.0.0.1", "-port", &port.to_string()])
                .args([
                    "-public-host",
                    &host,
                    "-external-url",
                    &format!("http://{host}"),
                ]);
            let mut process = Process::spawn("fake-gcs-server", &mut command, log.clone());
            let probe = Bucket::new(bucket::Access::Gcs { port }, "e2e-probe");
            if process.wait_until(|| probe.create().is_ok()) {
                return Self {
                    _process: process,
                    _folder: folder,
                    port,
                    buckets: AtomicUsize::new(0),
                };
            }
        }
        panic!(
            "fake-gcs-server ended three times at start:\n{}",
            super::tail(&log)
        );
    }

    /// The engine that the tests of this process share; take a bucket of your own from it.
    #[track_caller]
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<FakeGcs>> = Mutex::new(Weak::new());
        share(&SHARED, Self::start)
    }

    /// The port it answers on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A new, empty bucket.
    ///
    /// # Panics
    /// The engine does not create it.
    #[track_caller]
    pub fn bucket(&self) -> Bucket {
        let number = self.buckets.fetch_add(1, Ordering::Relaxed);
        let bucket = Bucket::new(
            bucket::Access::Gcs { port: self.port },
            &format!("e2e-{number}"),
        );
        bucket.create().expect("the engine makes buckets");
        bucket
    }
}
