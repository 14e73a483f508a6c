//! Running the Nix command-line tools.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nixery_core::StoreRoot;

use super::code::{ENTRY, write_embedded};
use super::command::{self, CommandSpec, Finished};
use super::log_format::{NixLog, short_name};
use super::{Evaluation, NixError, NixStore};
use crate::build_log::BuildLog;
use crate::spool::InstanceDir;

/// Most bytes a command may print. The path information of 50,000 paths is about 50 MB.
const MAX_STDOUT: usize = 512 * 1024 * 1024;
/// Queries of the store's database are quick; they wait for a lock at most.
pub(super) const QUERY_TIMEOUT: Duration = Duration::from_secs(120);
/// How much later than ours Nix's own deadline for a builder is, so that ours is the one that is
/// told of.
const OWN_DEADLINE_MARGIN: Duration = Duration::from_secs(2);

/// Most time that one evaluation may take, unless configured: a package set from cold, download
/// included, evaluates in less.
pub const DEFAULT_EVALUATE_TIMEOUT: Duration = Duration::from_secs(300);
/// Most time that one realisation may take, unless configured: most clients have given up long
/// before, and what is built until then is kept by Nix.
pub const DEFAULT_REALISE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Settings of [`NixCli`].
#[derive(Debug, Clone)]
pub struct NixCliConfig {
    /// Directory with `prepare-image.nix`. `None`: the files embedded in this crate, written
    /// below `spool_dir`.
    pub nix_dir: Option<PathBuf>,
    /// Where the embedded files are written while this process lives.
    pub spool_dir: PathBuf,
    /// Most time one evaluation may take, fetching the package set included.
    pub evaluate_timeout: Duration,
    /// Most time one realisation may take.
    ///
    /// Nix is told of it too, in place of the `timeout` in `nix.conf`: when this process is
    /// killed, the builders that it leaves behind end by then.
    pub realise_timeout: Duration,
    /// Added to the environment of Nix.
    pub env: Vec<(String, String)>,
    /// Derivations Nix builds at once for one image (`--max-jobs`); `None` leaves it to
    /// `nix.conf`.
    pub max_jobs: Option<usize>,
    /// The store to build in and to pack from. `None` leaves it to `NIX_REMOTE` and `nix.conf`.
    pub store: Option<NixStore>,
}

impl NixCliConfig {
    /// Defaults: embedded Nix files, [`DEFAULT_EVALUATE_TIMEOUT`], [`DEFAULT_REALISE_TIMEOUT`].
    pub fn new(spool_dir: impl Into<PathBuf>) -> Self {
        Self {
            nix_dir: None,
            spool_dir: spool_dir.into(),
            evaluate_timeout: DEFAULT_EVALUATE_TIMEOUT,
            realise_timeout: DEFAULT_REALISE_TIMEOUT,
            env: Vec::new(),
            max_jobs: None,
            store: None,
        }
    }
}

/// Why a [`NixCli`] could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NixCliError {
    /// The spool directory is not usable.
    #[error("cannot use {path} for spool files: make it a directory this user may write to")]
    Spool {
        /// The directory or file that was tried.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The directory that should hold the Nix code does not.
    #[error(
        "there is no Nix code at {path}: name the directory with prepare-image.nix, or none for the built-in code"
    )]
    NixCode {
        /// The file that was looked for.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// Runs the Nix command-line tools (2.8 or later) that are in `PATH`.
#[derive(Debug)]
pub struct NixCli {
    config: NixCliConfig,
    entry: PathBuf,
    store: StoreRoot,
    /// Where the embedded files are.
    embedded: Option<InstanceDir>,
}

impl NixCli {
    /// Prepares the directory with the Nix files. Runs no Nix: [`Nix::preflight`](crate::Nix::preflight) does.
    ///
    /// # Errors
    /// The spool directory cannot be used, or `nix_dir` has no Nix code.
    pub fn new(config: NixCliConfig) -> Result<Self, NixCliError> {
        let failed = |(path, source)| NixCliError::Spool { path, source };
        let (dir, instance) = match &config.nix_dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let instance = InstanceDir::open(&config.spool_dir).map_err(failed)?;
                let dir = instance.path().to_owned();
                let written = instance.make(write_embedded);
                written.map_err(|source| failed((dir.clone(), source)))?;
                (dir, Some(instance))
            }
        };
        let entry = dir.join(ENTRY);
        let entry = entry
            .canonicalize()
            .map_err(|source| NixCliError::NixCode {
                path: entry,
                source,
            })?;
        Ok(Self {
            store: store_root(&config),
            config,
            entry,
            embedded: instance,
        })
    }

    pub(super) async fn run(
        &self,
        program: &'static str,
        mut args: Vec<OsString>,
        timeout: Duration,
        log: &mut NixLog<'_>,
    ) -> Result<Finished, NixError> {
        if let Some(store) = &self.config.store {
            args.extend(strings(["--store", store.uri()]));
        }
        let spec = CommandSpec {
            program: program.into(),
            args,
            env: self.environment(),
            timeout,
            stdout_limit: MAX_STDOUT,
        };
        tracing::debug!(program, args = ?spec.args, "running Nix");
        let finished = command::run(&spec, &mut |line| log.line(line))
            .await
            .map_err(|source| NixError::Process {
                action: format!("run {program}"),
                source,
            })?;
        if finished.timed_out {
            return Err(NixError::TimedOut {
                after: timeout,
                log_tail: log.tail(),
            });
        }
        if finished.stdout_cut {
            let problem = format!("more than {MAX_STDOUT} bytes");
            return Err(NixError::Output {
                command: program,
                problem,
            });
        }
        Ok(finished)
    }

    /// Where the store's files are.
    pub(super) fn store(&self) -> &StoreRoot {
        &self.store
    }

    pub(super) fn config(&self) -> &NixCliConfig {
        &self.config
    }

    /// Evaluates a file of the Nix code with a request.
    pub(super) async fn instantiate(
        &self,
        file: &str,
        request: &serde_json::Value,
        log: &mut NixLog<'_>,
    ) -> Result<Finished, NixError> {
        self.restore_embedded()?;
        let mut args = strings([
            "--eval",
            "--json",
            "--strict",
            "--read-write-mode",
            "--show-trace",
        ]);
        args.extend(strings([
            "--option",
            "allow-import-from-derivation",
            "false",
        ]));
        args.extend(strings(["--log-format", "internal-json"]));
        args.push(self.entry.with_file_name(file).into());
        args.extend(strings(["--argstr", "request", &request.to_string()]));
        let timeout = self.config.evaluate_timeout;
        self.run("nix-instantiate", args, timeout, log).await
    }

    /// The arguments of `nix-store` that build packages and root them.
    pub(super) fn realisation(&self, evaluation: &Evaluation, gc_roots: &Path) -> Vec<OsString> {
        let mut args = strings(["--realise", "--log-format", "internal-json"]);
        let deadline = self
            .config
            .realise_timeout
            .saturating_add(OWN_DEADLINE_MARGIN);
        // Nix reads no larger number.
        let deadline = deadline.as_secs().min(i32::MAX.unsigned_abs().into());
        args.extend(strings(["--timeout", &deadline.to_string()]));
        if let Some(jobs) = self.config.max_jobs {
            args.extend(strings(["--max-jobs", &jobs.to_string()]));
        }
        args.push("--add-root".into());
        args.push(gc_roots.join("0").into());
        args.push("--indirect".into());
        args.extend(
            evaluation.packages.iter().map(|package| {
                OsString::from(format!("{}!{}", package.derivation, package.output))
            }),
        );
        args
    }

    /// Writes the embedded files again where somebody has cleared them away.
    fn restore_embedded(&self) -> Result<(), NixError> {
        match &self.embedded {
            Some(instance) if !self.entry.exists() => {
                instance
                    .make(write_embedded)
                    .map_err(|source| NixError::Process {
                        action: "write the built-in Nix code".to_owned(),
                        source,
                    })
            }
            _ => Ok(()),
        }
    }

    fn environment(&self) -> Vec<(String, String)> {
        let mut env = vec![
            // Messages are parsed, and names may be any UTF-8.
            ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
            ("TERM".to_owned(), "dumb".to_owned()),
            // A server answers no questions.
            ("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned()),
        ];
        if std::env::var_os("GIT_SSH_COMMAND").is_none() {
            env.push((
                "GIT_SSH_COMMAND".to_owned(),
                "ssh -o BatchMode=yes".to_owned(),
            ));
        }
        env.extend(self.config.env.iter().cloned());
        env
    }

    /// The requested package that needs `derivation`; the derivation's own name if none is known
    /// to.
    pub(super) async fn package_of(&self, derivation: &str, evaluation: &Evaluation) -> String {
        let wanted = |path: &str| {
            let mut packages = evaluation.packages.iter();
            packages
                .find(|package| package.derivation == path)
                .map(|package| package.name.clone())
        };
        if let Some(package) = wanted(derivation) {
            return package;
        }
        let silent = BuildLog::default();
        let args = strings(["--query", "--referrers-closure", derivation]);
        let query = self
            .run("nix-store", args, QUERY_TIMEOUT, &mut NixLog::new(&silent))
            .await;
        let referrers = query.map(|finished| finished.stdout).unwrap_or_default();
        let referrers = String::from_utf8_lossy(&referrers);
        referrers
            .lines()
            .find_map(wanted)
            .unwrap_or_else(|| short_name(derivation).to_owned())
    }
}

/// Where the files of the store are that Nix will use. Where `nix.conf` names another, the preflight finds out.
fn store_root(config: &NixCliConfig) -> StoreRoot {
    let given = config.env.iter().rfind(|(name, _)| name == "NIX_REMOTE");
    let remote = || match given {
        Some((_, uri)) => Some(uri.clone()),
        None => std::env::var("NIX_REMOTE").ok(),
    };
    let store = config
        .store
        .clone()
        .or_else(|| NixStore::parse(&remote()?).ok());
    store.map_or_else(StoreRoot::host, |store| store.root())
}

pub(super) fn strings<const N: usize>(args: [&str; N]) -> Vec<OsString> {
    args.into_iter().map(OsString::from).collect()
}
