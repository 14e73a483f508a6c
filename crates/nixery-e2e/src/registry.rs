//! A registry process of its own for each test.

use crate::engines::Bucket;
use crate::{command, demo_set, free_port, http, program, test_set};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How a registry is to be started.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// The package set, as `NIXERY_PKGS_PATH`.
    pub packages: PathBuf,
    /// More environment variables.
    pub environment: Vec<(String, String)>,
    /// The hard limit of its file descriptors, if not that of the tests.
    pub descriptors: Option<u64>,
    /// Whether the environment names a bucket: then only the spool is in the registry's folder.
    pub bucket: bool,
}

impl RegistryOptions {
    /// The plain demo set, nothing else.
    pub fn demo() -> Self {
        Self {
            packages: demo_set(),
            environment: Vec::new(),
            descriptors: None,
            bucket: false,
        }
    }

    /// The demo set with the awkward packages.
    pub fn awkward() -> Self {
        Self {
            packages: test_set(),
            environment: Vec::new(),
            descriptors: None,
            bucket: false,
        }
    }

    /// The awkward packages with a salt of its own, so that nothing salted was ever built before.
    ///
    /// The folder must live as long as the registry.
    ///
    /// # Panics
    /// The set cannot be copied.
    pub fn salted(folder: &TempDir) -> Self {
        let packages = folder.path().join("test-set");
        command::run(Command::new("cp").arg("-r").arg(test_set()).arg(&packages)).success();
        std::os::unix::fs::symlink(demo_set(), folder.path().join("set")).expect("a new folder");
        let salt = format!("{:?} {}", std::time::SystemTime::now(), std::process::id());
        std::fs::write(packages.join("salt"), salt).expect("the copied set is writable");
        Self {
            packages,
            environment: Vec::new(),
            descriptors: None,
            bucket: false,
        }
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Allows the process this number of file descriptors, whatever it wants to raise the limit to.
    #[must_use]
    pub fn descriptors(mut self, limit: u64) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Stores in the bucket instead of a folder; several registries may share it.
    #[must_use]
    pub fn on(self, bucket: &Bucket) -> Self {
        self.on_through(bucket, bucket.port())
    }

    /// The same through a proxy at that port.
    #[must_use]
    pub fn on_through(mut self, bucket: &Bucket, port: u16) -> Self {
        self.environment.extend(bucket.environment_through(port));
        self.bucket = true;
        self
    }
}

/// A running registry on a scratch store, killed when dropped.
#[derive(Debug)]
pub struct Registry {
    options: RegistryOptions,
    port: u16,
    folder: TempDir,
    child: Child,
}

impl Registry {
    /// A registry of the plain demo set.
    pub fn on_demo_set() -> Self {
        Self::start(RegistryOptions::demo())
    }

    /// Starts a registry on a new, empty store and waits until it answers.
    ///
    /// # Panics
    /// It does not answer within a minute; its log is in the message.
    pub fn start(options: RegistryOptions) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let port = free_port();
        let child = spawn(&options, port, folder.path());
        let mut registry = Self {
            options,
            port,
            folder,
            child,
        };
        registry.wait_until_ready();
        registry
    }

    /// Ends the process as `kill -9` does and starts another on the same store.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.child = spawn(&self.options, self.port, self.folder.path());
        self.wait_until_ready();
    }

    /// Ends the process as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, such as `TERM`.
    ///
    /// # Panics
    /// The process is gone.
    #[track_caller]
    pub fn signal(&self, signal: &str) {
        let process = self.process().to_string();
        command::run(Command::new("kill").args(["-s", signal, &process])).success();
    }

    /// How the process ended by itself.
    ///
    /// # Panics
    /// It did not end in time; its log is in the message.
    #[track_caller]
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the registry did not end:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The absolute URL of a path.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.speaks_tls() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.host())
    }

    /// The host and the port, as clients name the registry.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn speaks_tls(&self) -> bool {
        variables(&self.options).any(|(name, _)| name == "NIXERY_TLS_CERT")
    }

    /// The URL of an image's manifest by tag `latest`.
    pub fn manifest_url(&self, image: &str) -> String {
        self.url(&format!("/v2/{image}/manifests/latest"))
    }

    /// The reference of an image, without a tag.
    pub fn reference(&self, image: &str) -> String {
        format!("{}/{image}", self.host())
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process ID of the registry.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// The resident memory of the registry alone, in bytes.
    ///
    /// # Panics
    /// The process is gone.
    #[track_caller]
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process()))
            .expect("the registry runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a running process has memory");
        let kilobytes = line.trim().trim_end_matches(" kB").parse::<u64>();
        kilobytes.expect("a number") * 1024
    }

    /// What the file descriptors of the registry refer to, such as `socket:[1234]` or a path.
    ///
    /// # Panics
    /// The process is gone, or this user may not look: the registry is not dumpable, so only root
    /// may.
    #[track_caller]
    pub fn open_descriptors(&self) -> Vec<String> {
        let folder = format!("/proc/{}/fd", self.process());
        let list = ["find", &folder, "-type", "l", "-printf", "%l\n"];
        let mut command = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let mut command = Command::new("sudo");
                command.arg("-n").args(list);
                command
            }
            _ => {
                let mut command = Command::new(list[0]);
                command.args(&list[1..]);
                command
            }
        };
        // One that is closed meanwhile makes `find` fail, and does not count.
        let found = command::run(&mut command).stdout;
        let found: Vec<_> = found.lines().map(str::to_owned).collect();
        assert!(!found.is_empty(), "nothing is listed in {folder}");
        found
    }

    /// The folder of its blob store.
    pub fn storage(&self) -> PathBuf {
        self.folder.path().join("storage")
    }

    /// What the registry logged so far.
    pub fn log(&self) -> String {
        std::fs::read(self.folder.path().join("log"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// How often a line of the log holds the text.
    pub fn logged(&self, text: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(text))
            .count()
    }

    /// Runs `nixery verify` over the store, which must find nothing wrong.
    #[track_caller]
    pub fn verify(&self) {
        self.nixery(&["verify"]).success();
    }

    /// Runs a command of `nixery` on this registry's store.
    #[track_caller]
    pub fn nixery(&self, arguments: &[&str]) -> command::Ran {
        command::run(
            Command::new(program("nixery"))
                .args(arguments)
                .env("NIXERY_STORAGE_BACKEND", "filesystem")
                .env("STORAGE_PATH", self.storage())
                .envs(variables(&self.options)),
        )
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                panic!("the registry ended at start ({status}):\n{}", self.log());
            }
            // The certificate may be of an authority that only the test knows.
            let flags = ["-sS", "--insecure", "--max-time", "5", "-o", "/dev/null"];
            let status = ["-w", "%{http_code}", &self.url("/v2/")];
            let probe = command::run(Command::new("curl").args(flags).args(status));
            // 401 asks for a login.
            if ["200", "401"].contains(&probe.stdout.as_str()) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the registry does not answer: {}\n{}",
                probe.stderr,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The answer to a manifest request, redirects followed.
    #[track_caller]
    pub fn manifest(&self, image: &str) -> http::Response {
        http::get_following(&self.manifest_url(image))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!(
                "--- the registry's log, last lines\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
    }
}

fn spawn(options: &RegistryOptions, port: u16, folder: &Path) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .expect("the log can be opened");
    let mut command = match options.descriptors {
        // It becomes the server, so the process ID stays.
        Some(limit) => {
            let mut command = Command::new("prlimit");
            command.arg(format!("--nofile={limit}:{limit}"));
            command.arg(program("nixery-server"));
            command
        }
        None => Command::new(program("nixery-server")),
    };
    if options.bucket {
        command.env("NIXERY_SPOOL_DIR", folder.join("spool"));
    }
    command
        .env("PORT", port.to_string())
        .env("NIXERY_PKGS_PATH", &options.packages)
        .env("NIXERY_STORAGE_BACKEND", "filesystem")
        .env("STORAGE_PATH", folder.join("storage"))
        .envs(variables(options))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("the registry starts")
}

fn variables(options: &RegistryOptions) -> impl Iterator<Item = (&String, &String)> {
    options
        .environment
        .iter()
        .map(|(name, value)| (name, value))
}
