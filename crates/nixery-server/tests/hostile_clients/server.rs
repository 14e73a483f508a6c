//! A registry in a process of its own.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nixery_builder::{Builder, BuilderConfig};
use nixery_core::PackageSource;
use nixery_manifest::Digest;
use nixery_server::config::HttpSettings;
use nixery_server::limits::Limits;
use nixery_server::listen::{bind, serve};
use nixery_server::{AppState, router};
use nixery_storage::{FilesystemStorage, Key, PutMode, Storage};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::fake_nix::FakeNix;
use crate::probe::get;

/// Descriptors of the server.
const DESCRIPTORS: usize = 1024;
/// How long a client of the server may take nothing of a response.
pub(crate) const STALL: Duration = Duration::from_secs(2);
/// Size of the blob that clients ask for.
pub(crate) const BLOB_BYTES: usize = 3_000_000;

const FOLDER: &str = "NIXERY_TEST_SERVER_FOLDER";

/// The allocator of the real program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A running server. It ends with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    _folder: TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        raise_own_descriptors();
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server::the_server_of_the_other_tests"])
            .env(FOLDER, folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let address = loop {
            let written = fs::read_to_string(folder.path().join("address"));
            if let Some(address) = written.ok().and_then(|text| text.parse().ok()) {
                break address;
            }
            assert!(Instant::now() < deadline, "the server does not start");
            std::thread::sleep(Duration::from_millis(20));
        };
        Self {
            child,
            address,
            _folder: folder,
        }
    }

    /// Returns the path of the blob.
    pub(crate) fn blob_path() -> &'static str {
        &BLOB_PATH
    }

    /// A client of its own gets the blob.
    pub(crate) async fn assert_blob_is_sent(&self) {
        let answer = get(self.address, Self::blob_path());
        let answer = timeout(Duration::from_secs(20), answer).await;
        let answer = answer.expect("others are served").unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(answer.ends_with(&BLOB));
    }

    /// Returns how many descriptors the server has open.
    pub(crate) fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.child.id());
        fs::read_dir(folder).unwrap().count()
    }

    /// Waits until the server has closed all but a few of the descriptors that it opened since.
    pub(crate) async fn wait_for_descriptors(&self, before: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.descriptors() > before + 4 {
            assert!(Instant::now() < deadline, "{}", self.descriptors());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the most memory that the server had, in MiB.
    pub(crate) fn peak_memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
        kibibytes.unwrap().parse::<usize>().unwrap() / 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that are the same in every process.
static BLOB: LazyLock<Bytes> = LazyLock::new(|| {
    let numbers = (0..BLOB_BYTES as u32).step_by(4);
    numbers.flat_map(u32::to_le_bytes).collect()
});
static BLOB_PATH: LazyLock<String> =
    LazyLock::new(|| format!("/v2/git/blobs/{}", Digest::of(&BLOB)));

/// The clients need more descriptors than the server.
fn raise_own_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// Serves if another test started this process. It is no test of its own.
#[test]
fn the_server_of_the_other_tests() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let limit = Some(DESCRIPTORS as u64);
    let descriptors = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nofile, descriptors).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.spawn(run(Path::new(&folder).to_owned()));
    // The other end closes with the process that started this one.
    let _ = std::io::stdin().read(&mut [0]);
}

async fn run(folder: std::path::PathBuf) {
    let storage = Arc::new(FilesystemStorage::open(folder.join("blobs")).unwrap());
    let key = Key::blob(Digest::of(&BLOB));
    let put = storage.put(&key, BLOB.clone(), PutMode::Replace).await;
    let _ = put.unwrap();
    // Pinned, so that a manifest is answered from memory.
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let source = PackageSource::channel(commit).unwrap();
    let config = BuilderConfig::new(source, folder.join("spool"));
    let builder = Builder::new(config, Arc::new(FakeNix::new()), storage);
    let limits = Limits {
        stall: STALL,
        ..Limits::for_descriptors(DESCRIPTORS)
    };
    let settings = HttpSettings {
        max_downloads: limits.downloads,
        max_downloads_per_client: limits.downloads_per_client,
        ..HttpSettings::default()
    };
    let registry = router(AppState::new(builder.await.unwrap(), settings));
    let listener = bind(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), 0)
        .await
        .unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // It is never seen half written.
    fs::write(folder.join("new"), address).unwrap();
    fs::rename(folder.join("new"), folder.join("address")).unwrap();
    serve(listener, registry, limits, std::future::pending(), STALL).await;
}
