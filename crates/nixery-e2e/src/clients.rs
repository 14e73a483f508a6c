//! skopeo, podman and containerd's ctr, each on scratch state of its own.

use crate::Layout;
use crate::command::{Ran, run};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// `skopeo copy` of a reference (`HOST/NAME[:TAG|@DIGEST]`) into an OCI layout below `folder`.
pub fn skopeo_copy(reference: &str, folder: &Path) -> (Ran, Layout) {
    let layout = Layout::below(folder);
    let target = format!("oci:{}:latest", layout.path().display());
    let ran = run(skopeo().args([
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        &format!("docker://{reference}"),
        &target,
    ]));
    (ran, layout)
}

/// `skopeo copy` that must succeed.
#[track_caller]
pub fn skopeo_pull(reference: &str, folder: &Path) -> Layout {
    let (ran, layout) = skopeo_copy(reference, folder);
    ran.success();
    layout
}

/// The digest that skopeo computes of a reference's manifest.
#[track_caller]
pub fn skopeo_digest(reference: &str) -> String {
    run(skopeo().args([
        "inspect",
        "--tls-verify=false",
        "--format",
        "{{.Digest}}",
        &format!("docker://{reference}"),
    ]))
    .success()
    .trim()
    .to_owned()
}

pub(crate) fn skopeo() -> Command {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy");
    command
}

/// podman on scratch storage.
#[derive(Debug)]
pub struct Podman {
    folder: TempDir,
}

impl Podman {
    /// A podman with no images.
    ///
    /// # Panics
    /// The scratch folder cannot be made.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        std::fs::write(folder.path().join("policy.json"), policy)
            .expect("the scratch folder is writable");
        Self { folder }
    }

    /// `podman pull` over plain HTTP.
    pub fn pull(&self, reference: &str) -> Ran {
        self.pull_with(&["--tls-verify=false"], reference)
    }

    /// `podman pull` with these flags.
    pub fn pull_with(&self, flags: &[&str], reference: &str) -> Ran {
        let policy = self.folder.path().join("policy.json");
        run(self
            .command()
            .args(["pull", "--quiet", "--signature-policy"])
            .arg(policy)
            .args(flags)
            .arg(reference))
    }

    /// `podman load` of an archive.
    pub fn load(&self, archive: &Path) -> Ran {
        let policy = self.folder.path().join("policy.json");
        run(self
            .command()
            .args(["load", "--quiet", "--signature-policy"])
            .arg(policy)
            .arg("--input")
            .arg(archive))
    }

    /// `podman run` of a pulled image on the host's network, as this user.
    pub fn run(&self, reference: &str, user: &str, arguments: &[&str]) -> Ran {
        // The limits: rootful podman asks for more than a container or a CI machine may grant.
        let limits = [
            "--net=host",
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
        ];
        run(self
            .command()
            .args(["run", "--rm", "--pull=never"])
            .args(limits)
            .args(["--user", user, reference])
            .args(arguments))
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("podman");
        let under = |name: &str| self.folder.path().join(name);
        command.args([
            "--runtime",
            "runc",
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "file",
        ]);
        command
            .arg("--root")
            .arg(under("root"))
            .arg("--runroot")
            .arg(under("run"));
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        run(self.command().args(["rmi", "--all", "--force"]));
    }
}

/// A containerd of its own and `ctr` that talks to it.
#[derive(Debug)]
pub struct Containerd {
    folder: TempDir,
    daemon: Child,
}

impl Containerd {
    /// Starts the daemon and waits until it answers.
    ///
    /// # Panics
    /// It does not answer within a minute.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let under = |name: &str| folder.path().join(name);
        let configuration = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\", \
                             \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\"]\n";
        std::fs::write(under("config.toml"), configuration)
            .expect("the scratch folder is writable");
        let log = std::fs::File::create(under("log")).expect("the scratch folder is writable");
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(under("config.toml"))
            .arg("--root")
            .arg(under("root"))
            .arg("--state")
            .arg(under("state"))
            .arg("--address")
            .arg(under("socket"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("containerd starts; run `scripts/setup test`");
        let mut containerd = Self { folder, daemon };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !containerd.ctr(&["version"]).ok {
            let log =
                std::fs::read_to_string(containerd.folder.path().join("log")).unwrap_or_default();
            assert!(
                containerd
                    .daemon
                    .try_wait()
                    .expect("the daemon can be asked")
                    .is_none(),
                "containerd ended:\n{log}"
            );
            assert!(
                Instant::now() < deadline,
                "containerd does not answer:\n{log}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        containerd
    }

    /// `ctr images pull` over plain HTTP, for any platform.
    pub fn pull(&self, reference: &str) -> Ran {
        self.pull_with(&["--plain-http"], reference)
    }

    /// `ctr images pull` for another platform than the host's.
    pub fn pull_platform(&self, platform: &str, reference: &str) -> Ran {
        self.pull_with(&["--plain-http", "--platform", platform], reference)
    }

    /// `ctr images pull` with these flags.
    pub fn pull_with(&self, flags: &[&str], reference: &str) -> Ran {
        let mut all = vec!["images", "pull", "--snapshotter", "native"];
        all.extend(flags);
        all.push(reference);
        self.ctr(&all)
    }

    /// `ctr run` of a pulled image on the host's network, as root.
    pub fn run(&self, reference: &str, arguments: &[&str]) -> Ran {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let id = format!(
            "e2e-{}",
            COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        );
        let mut all = vec![
            "run",
            "--rm",
            "--net-host",
            "--snapshotter",
            "native",
            reference,
            &id,
        ];
        all.extend(arguments);
        self.ctr(&all)
    }

    fn ctr(&self, arguments: &[&str]) -> Ran {
        run(Command::new("ctr")
            .arg("--address")
            .arg(self.socket())
            .args(arguments))
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // SIGTERM, so that it unmounts what it mounted.
        let _ = Command::new("kill")
            .arg(self.daemon.id().to_string())
            .status();
        let _ = self.daemon.wait();
    }
}
