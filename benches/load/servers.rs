//! The processes that are measured.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{self, Answer};
use crate::image::COMMIT;
use crate::{ACCEPT, Result, bare};

/// Time to start in.
const PATIENCE: Duration = Duration::from_secs(20);
/// A folder of the fake store below, which the server finds its Nix sound by.
const BUILT: &str = "/nix/store/4f3wk3sqrn87vpykdryba82hnj7gbr1y-nixery-preflight";
/// The package that the check at start evaluates.
const CHECKED: &str = "nixery-preflight";

/// The release build of the server.
pub(crate) fn program() -> Result<PathBuf> {
    let program = match env::var_os("NIXERY_SERVER") {
        Some(program) => program.into(),
        None => {
            // This program is in `deps`, below it.
            let beside = env::current_exe()?;
            let folder = beside.ancestors().nth(2).ok_or("no target folder")?;
            folder.join("nixery-server")
        }
    };
    if program.is_file() {
        return Ok(program);
    }
    Err(format!(
        "there is no server at {}: build it with `cargo build --release -p nixery-server`, or name one in NIXERY_SERVER",
        program.display()
    )
    .into())
}

/// A registry over the image's store.
pub(crate) struct Registry {
    process: Child,
    log: PathBuf,
    pub(crate) port: u16,
}

impl Registry {
    /// Starts it with a Nix that passes the preflight and can do nothing else: what is measured
    /// needs none.
    pub(crate) fn start(program: &Path, folder: &Path) -> Result<Self> {
        Self::start_with(program, folder, &[])
    }

    /// Starts it with more settings.
    pub(crate) fn start_with(
        program: &Path,
        folder: &Path,
        settings: &[(&str, &Path)],
    ) -> Result<Self> {
        let nix = folder.join("nix-root");
        fs::create_dir_all(nix.join(BUILT.trim_start_matches('/')))?;
        let programs = folder.join("bin");
        fs::create_dir_all(&programs)?;
        let evaluated = format!(
            r#"{{"found":[{{"name":"{CHECKED}","attribute":"{CHECKED}","drvPath":"{BUILT}.drv","outputName":"out","storePath":"{BUILT}"}}],"notFound":[],"notDerivation":[]}}"#
        );
        for name in ["nix", "nix-store", "nix-instantiate"] {
            let script = format!(
                "#!/bin/sh\ncase \"$0 $*\" in\n*--version*) echo 'nix (Nix) 2.18.0';;\n*prepare-image*) echo '{evaluated}';;\n*--realise*) echo {BUILT};;\n*) exit 1;;\nesac\n"
            );
            fs::write(programs.join(name), script)?;
            fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755))?;
        }
        let port = free_port()?;
        let log = folder.join(format!("server-{port}.log"));
        let process = Command::new(program)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
            .env("NIXERY_CHANNEL", COMMIT)
            .env("NIXERY_NIX_STORE", format!("local?root={}", nix.display()))
            .env("STORAGE_PATH", folder.join("store"))
            .env("NIXERY_LISTEN", "127.0.0.1")
            .env("PORT", port.to_string())
            .envs(settings.iter().copied())
            // The access log is on, as by default.
            .stderr(File::create(&log)?)
            .stdin(Stdio::null())
            .spawn()?;
        let mut registry = Self { process, log, port };
        registry.wait()?;
        Ok(registry)
    }

    fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        while client::get(self.port, "/healthz", ACCEPT).is_err() {
            if self.process.try_wait()?.is_some() || begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(&self.log)?;
                return Err(format!("the server does not start:\n{log}").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Its resident memory in kB.
    pub(crate) fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let line = line.ok_or("the system does not tell the memory of a process")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        stop(&mut self.process);
    }
}

/// A bare server that gives the same answer.
pub(crate) struct Bare {
    process: Child,
    pub(crate) port: u16,
}

impl Bare {
    pub(crate) fn start(folder: &Path, kind: &str, answer: &Answer) -> Result<Self> {
        let (head, body) = (folder.join("head"), folder.join("body"));
        fs::write(&head, answer.headers.join("\n"))?;
        fs::write(&body, &answer.body)?;
        let file = answer.file.as_ref().unwrap_or(&body);
        let mut process = Command::new(env::current_exe()?)
            .args([bare::FLAG, kind])
            .args([file, &head])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().ok_or("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let Ok(port) = line.trim().parse() else {
            stop(&mut process);
            return Err("the bare server does not start".into());
        };
        Ok(Self { process, port })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        stop(&mut self.process);
    }
}

fn stop(process: &mut Child) {
    // It may have ended by itself.
    let _ = process.kill();
    let _ = process.wait();
}

/// One that was free a moment ago.
fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}
