//! Clients that log in to a registry, each with credentials of its own.

use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use crate::clients::{Containerd, Podman, skopeo};
use crate::command::{Ran, run};
use crate::docker::Docker;

/// How clients reach a registry.
#[derive(Debug, Clone)]
pub enum Transport {
    /// Over plain HTTP.
    Plain,
    /// Over TLS, with the authority `ca.crt` of this folder.
    Tls(PathBuf),
}

/// A client with a file of credentials.
#[derive(Debug)]
pub struct LoginClient {
    program: Program,
    transport: Transport,
    folder: TempDir,
    /// `USER:PASSWORD` for `ctr`, which keeps no credentials.
    ctr_user: Option<String>,
}

#[derive(Debug)]
enum Program {
    Skopeo,
    Podman(Podman),
    Docker(Docker),
    Ctr(Containerd),
}

impl LoginClient {
    /// Starts a client by its name, without credentials.
    ///
    /// # Panics
    /// There is no such client, or its daemon does not start.
    pub fn start(name: &str, transport: Transport) -> Self {
        let program = match name {
            "skopeo" => Program::Skopeo,
            "podman" => Program::Podman(Podman::new()),
            "docker" => Program::Docker(Docker::start()),
            "ctr" => Program::Ctr(Containerd::start()),
            _ => panic!("no client is called {name}"),
        };
        let client = Self {
            program,
            transport,
            folder: tempfile::tempdir().expect("a scratch folder"),
            ctr_user: None,
        };
        // podman wants the file to exist.
        std::fs::write(client.credentials(), "{}").expect("a scratch folder");
        client
    }

    /// Logs in; `None` where that only decides what the next pull sends.
    pub fn log_in(&mut self, host: &str, user: &str, password: &str) -> Option<Ran> {
        let given = ["--username", user, "--password", password, host];
        match &self.program {
            Program::Skopeo => Some(run(skopeo().arg("login").args(self.flags("")).args(given))),
            Program::Podman(podman) => Some(run(podman
                .command()
                .arg("login")
                .args(self.flags(""))
                .args(given))),
            Program::Docker(docker) => {
                Some(docker.run(self.folder.path(), &[&["login"][..], &given].concat()))
            }
            Program::Ctr(_) => {
                self.ctr_user = Some(format!("{user}:{password}"));
                None
            }
        }
    }

    /// Logs out.
    #[track_caller]
    pub fn log_out(&mut self, host: &str) {
        let authfile = format!("--authfile={}", self.credentials().display());
        match &self.program {
            Program::Skopeo => {
                run(skopeo().args(["logout", &authfile, host])).success();
            }
            Program::Podman(podman) => {
                run(podman.command().args(["logout", &authfile, host])).success();
            }
            Program::Docker(docker) => {
                docker.run(self.folder.path(), &["logout", host]).success();
            }
            Program::Ctr(_) => self.ctr_user = None,
        }
    }

    /// Writes the file of a Kubernetes pull secret (`.dockerconfigjson`) as the credentials.
    ///
    /// # Panics
    /// The client is `ctr`, which reads no such file.
    pub fn use_pull_secret(&self, host: &str, credentials: &serde_json::Value) {
        let is_ctr = matches!(self.program, Program::Ctr(_));
        assert!(!is_ctr, "ctr reads no credentials from a file");
        let secret = json!({ "auths": { host: credentials } });
        std::fs::write(self.credentials(), secret.to_string()).expect("a scratch folder");
    }

    /// Pulls an image (`HOST/NAME:TAG`).
    pub fn pull(&self, reference: &str) -> Ran {
        match &self.program {
            Program::Skopeo => self.skopeo_copy(&[], reference),
            Program::Podman(podman) => {
                let flags = self.flags("");
                let flags: Vec<_> = flags.iter().map(String::as_str).collect();
                podman.pull_with(&flags, reference)
            }
            Program::Docker(docker) => docker.run(self.folder.path(), &["pull", reference]),
            Program::Ctr(containerd) => {
                let mut flags = match &self.transport {
                    Transport::Plain => vec!["--plain-http".to_owned()],
                    Transport::Tls(authority) => vec![self.ctr_hosts(authority, reference)],
                };
                flags.extend(self.ctr_user.iter().map(|user| format!("--user={user}")));
                let flags: Vec<_> = flags.iter().map(String::as_str).collect();
                containerd.pull_with(&flags, reference)
            }
        }
    }

    /// `skopeo copy` of an image with more flags.
    pub fn skopeo_copy(&self, flags: &[&str], reference: &str) -> Ran {
        let target = tempfile::tempdir_in(self.folder.path()).expect("a scratch folder");
        run(skopeo()
            .args(["copy", "--quiet"])
            .args(self.flags("src-"))
            .args(flags)
            .arg(format!("docker://{reference}"))
            .arg(format!("dir:{}", target.path().display())))
    }

    /// The flag with a folder that names the authority; without it `ctr` speaks plain HTTP to the
    /// loopback address.
    fn ctr_hosts(&self, authority: &Path, reference: &str) -> String {
        let host = reference.split('/').next().expect("a host");
        let hosts = self.folder.path().join("hosts");
        let folder = hosts.join(host);
        std::fs::create_dir_all(&folder).expect("a scratch folder");
        let authority = authority.join("ca.crt");
        let contents = format!("[host.\"https://{host}\"]\nca = {authority:?}\n");
        std::fs::write(folder.join("hosts.toml"), contents).expect("a scratch folder");
        format!("--hosts-dir={}", hosts.display())
    }

    /// The flags of skopeo and podman for the credentials and the transport.
    fn flags(&self, of: &str) -> Vec<String> {
        let transport = match &self.transport {
            Transport::Plain => format!("--{of}tls-verify=false"),
            Transport::Tls(folder) => format!("--{of}cert-dir={}", folder.display()),
        };
        let authfile = format!("--authfile={}", self.credentials().display());
        vec![transport, authfile]
    }

    /// Docker's name for it; the others are given the path.
    fn credentials(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }
}
