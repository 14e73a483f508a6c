//! SeaweedFS: master, volume server, filer and S3 gateway in one process.

use super::{Bucket, Process, bucket, engine, quiet_ports, share};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tempfile::TempDir;

/// The key that the engine knows; any other is refused, so signatures are really checked.
const ACCESS_KEY: &str = "nixery-e2e";
const SECRET_KEY: &str = "nixery-e2e-secret";

/// How often a start is repeated when the engine ends at once, as where another process took a port
/// meanwhile.
const STARTS: usize = 3;

/// A SeaweedFS on a scratch folder and ports of its own.
#[derive(Debug)]
pub struct SeaweedFs {
    folder: TempDir,
    /// S3, its gRPC; master, its gRPC; volume server, its gRPC; filer, its gRPC.
    ports: [u16; 8],
    process: Option<Process>,
    buckets: AtomicUsize,
}

impl SeaweedFs {
    /// Starts one and waits until it stores objects.
    ///
    /// # Panics
    /// It does not start; its log is in the message.
    #[track_caller]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let identities = serde_json::json!({"identities": [{
            "name": "e2e",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        std::fs::write(folder.path().join("s3.json"), identities.to_string())
            .expect("the scratch folder is writable");
        std::fs::create_dir(folder.path().join("data")).expect("the scratch folder is writable");
        let mut engine = Self {
            folder,
            ports: quiet_ports(),
            process: None,
            buckets: AtomicUsize::new(0),
        };
        for _ in 0..STARTS {
            if engine.try_start() {
                return engine;
            }
            engine.ports = quiet_ports();
        }
        panic!(
            "SeaweedFS ended {STARTS} times at start:\n{}",
            super::tail(&engine.folder.path().join("log"))
        );
    }

    /// The engine that the tests of this process share; take a bucket of your own from it and never
    /// stop it.
    #[track_caller]
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<SeaweedFs>> = Mutex::new(Weak::new());
        share(&SHARED, Self::start)
    }

    /// Ends the engine as `kill -9` does; what it acknowledged stays.
    pub fn stop(&mut self) {
        drop(self.process.take());
    }

    /// Starts a stopped engine again, on the same data and ports, and waits until it stores
    /// objects.
    ///
    /// # Panics
    /// It does not start; its log is in the message.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        assert!(
            self.try_start(),
            "SeaweedFS ended when started again:\n{}",
            super::tail(&self.folder.path().join("log"))
        );
    }

    /// The port of the S3 gateway.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// A new, empty bucket.
    ///
    /// # Panics
    /// The engine does not create it.
    #[track_caller]
    pub fn bucket(&self) -> Bucket {
        let number = self.buckets.fetch_add(1, Ordering::Relaxed);
        let bucket = Bucket::new(self.access(), &format!("e2e-{number}"));
        bucket.create().expect("the engine makes buckets");
        bucket
    }

    fn access(&self) -> bucket::Access {
        bucket::Access::S3 {
            port: self.port(),
            access_key: ACCESS_KEY,
            secret_key: SECRET_KEY,
        }
    }

    fn try_start(&mut self) -> bool {
        let folder = self.folder.path();
        let [
            s3,
            s3_grpc,
            master,
            master_grpc,
            volume,
            volume_grpc,
            filer,
            filer_grpc,
        ] = self.ports;
        let mut command = Command::new(engine("weed"));
        command
            .arg("server")
            .arg(format!("-dir={}", folder.join("data").display()))
            .arg(format!("-s3.config={}", folder.join("s3.json").display()))
            .arg(format!(
                "-filer.localSocket={}",
                folder.join("filer.sock").display()
            ))
            .arg(format!(
                "-s3.localSocket={}",
                folder.join("s3.sock").display()
            ))
            .args([
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-master.telemetry=false",
                "-s3",
            ])
            // Seven volumes a bucket; they are small files until something is stored.
            .args(["-volume.max=2000", "-master.volumeSizeLimitMB=1024"])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
        for (name, port) in [
            ("s3.port", s3),
            ("s3.port.grpc", s3_grpc),
            ("master.port", master),
            ("master.port.grpc", master_grpc),
            ("volume.port", volume),
            ("volume.port.grpc", volume_grpc),
            ("filer.port", filer),
            ("filer.port.grpc", filer_grpc),
        ] {
            command.arg(format!("-{name}={port}"));
        }
        let mut process = Process::spawn("SeaweedFS", &mut command, folder.join("log"));
        // The gateway answers before the volume server has joined: only a stored object shows that
        // it is usable.
        let probe = Bucket::new(self.access(), "e2e-probe");
        let usable = process
            .wait_until(|| probe.create().is_ok() && probe.try_put("probe", b"probe").is_ok());
        self.process = usable.then_some(process);
        usable
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        self.stop();
        // It listens on sockets at fixed places as well, and leaves them when it is killed.
        for (name, port) in ["s3-grpc", "master-grpc", "volume-grpc", "filer-grpc"]
            .into_iter()
            .zip(self.ports.iter().skip(1).step_by(2))
        {
            let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{name}-{port}.sock"));
        }
    }
}
