//! Docker on scratch state.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::command::{Ran, run};

/// How long the daemon may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Docker daemon of its own, without a network, and `docker` that talks to it. Registries on the
/// loopback address need no certificate.
#[derive(Debug)]
pub struct Docker {
    folder: TempDir,
    daemon: Child,
}

impl Docker {
    /// Starts the daemon and waits until it answers.
    ///
    /// # Panics
    /// It does not answer within a minute.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let under = |name: &str| folder.path().join(name);
        // Not the configuration of the machine.
        std::fs::write(under("daemon.json"), "{}").expect("the scratch folder is writable");
        let log = std::fs::File::create(under("log")).expect("the scratch folder is writable");
        let mut command = Command::new("dockerd");
        let network = ["--bridge=none", "--iptables=false", "--ip6tables=false"];
        command.args(network).args(["--storage-driver", "vfs"]);
        for (flag, name) in [
            ("--config-file", "daemon.json"),
            ("--data-root", "data"),
            ("--exec-root", "run"),
            ("--pidfile", "pid"),
        ] {
            command.arg(flag).arg(under(name));
        }
        let daemon = command
            .args(["--host", &address(folder.path())])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("dockerd starts; run `scripts/setup test`");
        let mut docker = Self { folder, daemon };
        docker.wait_until_ready();
        docker
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let config = self.folder.path().to_path_buf();
        while !self.run(&config, &["version"]).ok {
            let log = std::fs::read_to_string(config.join("log")).unwrap_or_default();
            let ended = self.daemon.try_wait().expect("the daemon can be asked");
            assert!(ended.is_none(), "dockerd ended:\n{log}");
            assert!(Instant::now() < deadline, "dockerd does not answer:\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs `docker` with the credentials of a configuration folder.
    pub fn run(&self, config: &Path, arguments: &[&str]) -> Ran {
        run(Command::new("docker")
            .args(["--host", &address(self.folder.path())])
            .arg("--config")
            .arg(config)
            .args(arguments))
    }
}

/// The address of a daemon.
fn address(folder: &Path) -> String {
    format!("unix://{}", folder.join("socket").display())
}

impl Drop for Docker {
    fn drop(&mut self) {
        // SIGTERM, so that it ends the containerd that it started, and unmounts.
        let _ = Command::new("kill")
            .arg(self.daemon.id().to_string())
            .status();
        let deadline = Instant::now() + PATIENCE;
        while let Ok(None) = self.daemon.try_wait() {
            if Instant::now() > deadline {
                let _ = self.daemon.kill();
                let _ = self.daemon.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
