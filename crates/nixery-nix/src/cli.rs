//! Runs the Nix command-line tools.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nixery_core::{Architecture, ByteSize, ResolvedSource, StoreRoot};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::build_log::BuildLog;
use crate::code::{ENTRY, FOLDER, write_embedded};
use crate::command::{self, CommandSpec, Finished};
use crate::environment::ChildEnvironment;
use crate::evaluation::{self, Access, PackageSet};
use crate::failure::{evaluation_error, killed, ran_out_of_memory};
use crate::fetched::FetchedCommits;
use crate::git::{MirrorOptions, Mirrors, RefPatterns};
use crate::log_format::{NixLog, short_name};
use crate::spool::{InstanceDir, SpoolError};
use crate::{Evaluation, NixError, NixStore};

/// The program that evaluates.
pub(crate) const EVALUATOR: &str = "nix-instantiate";
/// Most bytes a command may print. The path information of 50,000 paths is about 50 MB.
const MAX_STDOUT: usize = 512 * 1024 * 1024;
/// Time for a query of the store's database, which at most waits for a lock.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(120);
/// The folder of mirrors in the spool directory.
const MIRRORS: &str = "git";
/// How much later Nix's own deadline for a builder is than the one here, so that the one here is
/// reported.
const NIX_DEADLINE_MARGIN: Duration = Duration::from_secs(2);

/// Most time that one evaluation may take, unless configured. The first evaluation of a package
/// set, with its download, takes less.
pub const DEFAULT_EVALUATE_TIMEOUT: Duration = Duration::from_secs(300);
/// Most bytes of address space of an evaluation, unless configured. An evaluation of nixpkgs needs
/// about a gigabyte, but git may map a whole repository into its memory.
pub const DEFAULT_EVALUATE_MEMORY: u64 = 16 << 30;
/// Most time that one realisation may take, unless configured. Most clients have given up long
/// before, and Nix keeps what is built until then.
pub const DEFAULT_REALISE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Settings of [`NixCli`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NixCliConfig {
    /// Directory with `prepare-image.nix`. `None`: the files embedded in this crate, which are
    /// written below `spool_dir`.
    pub nix_dir: Option<PathBuf>,
    /// Where files are written that are of use while this process runs, such as the embedded ones.
    pub spool_dir: PathBuf,
    /// Where mirrors of git repositories are kept, also for later processes. Several processes may
    /// share it. `None`: `git` in `spool_dir`.
    pub mirror_dir: Option<PathBuf>,
    /// The refs of a git repository that images can be built from.
    pub refs: RefPatterns,
    /// Whether images can be built from every commit that the host of a git repository serves.
    pub any_commit: bool,
    /// Whether package sets are in git repositories, so that the check at start needs git.
    pub needs_git: bool,
    /// Whether Nix evaluates in its restricted mode, in which package sets read only themselves and
    /// what `nix.conf` allows. `None`: for git repositories, and otherwise as `nix.conf` says.
    /// `Some(false)`: as `nix.conf` says.
    pub restrict_eval: Option<bool>,
    /// Most time one evaluation may take, or the download of a git repository before it.
    pub evaluate_timeout: Duration,
    /// Most time one realisation may take.
    ///
    /// It is passed to Nix too, in place of the `timeout` in `nix.conf`, so that builders end by
    /// then if this process is killed.
    pub realise_timeout: Duration,
    /// More variables of this process that Nix inherits, besides those that every child does. A
    /// `*` at the end of a name stands for any text. Package sets may be able to read them.
    pub inherited_env: Vec<String>,
    /// Set in the environment of Nix.
    pub env: Vec<(String, String)>,
    /// A program with arguments that runs every command of Nix, which is appended to it. Empty:
    /// Nix runs directly.
    pub wrapper: Vec<String>,
    /// Most bytes of address space of an evaluation. `None`: no limit.
    pub evaluate_memory: Option<u64>,
    /// Derivations that Nix builds at once for one image (`--max-jobs`). `None`: the setting of
    /// `nix.conf`.
    pub max_jobs: Option<usize>,
    /// The store to build in and to pack from. `None`: the store of `NIX_REMOTE` or `nix.conf`.
    pub store: Option<NixStore>,
}

impl NixCliConfig {
    /// Returns the defaults: embedded Nix files, [`DEFAULT_EVALUATE_TIMEOUT`],
    /// [`DEFAULT_EVALUATE_MEMORY`], [`DEFAULT_REALISE_TIMEOUT`].
    pub fn new(spool_dir: impl Into<PathBuf>) -> Self {
        Self {
            nix_dir: None,
            spool_dir: spool_dir.into(),
            mirror_dir: None,
            refs: RefPatterns::default(),
            any_commit: false,
            needs_git: false,
            restrict_eval: None,
            evaluate_timeout: DEFAULT_EVALUATE_TIMEOUT,
            realise_timeout: DEFAULT_REALISE_TIMEOUT,
            inherited_env: Vec::new(),
            env: Vec::new(),
            wrapper: Vec::new(),
            evaluate_memory: Some(DEFAULT_EVALUATE_MEMORY),
            max_jobs: None,
            store: None,
        }
    }
}

/// Why a [`NixCli`] could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NixCliError {
    /// The spool directory is not usable.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The directory that should have the Nix code does not.
    #[error(
        "there is no Nix code at {path}. Fix: set NIXERY_NIX_DIR (--nix-dir) to the folder with `prepare-image.nix`, or unset it to use the built-in code"
    )]
    NixCode {
        /// The file that is missing.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// Runs the Nix command-line tools (2.8 or later) that are in `PATH`.
#[derive(Debug)]
pub struct NixCli {
    pub(crate) config: NixCliConfig,
    /// The file that is evaluated for an image.
    entry: PathBuf,
    pub(crate) store_root: StoreRoot,
    /// The environment of Nix.
    pub(crate) environment: ChildEnvironment,
    pub(crate) mirrors: Mirrors,
    pub(crate) fetched: FetchedCommits,
    /// Whether `nix.conf` allows URLs in restricted mode.
    pub(crate) allows_urls: OnceCell<bool>,
    /// Has the embedded files, unless others are configured.
    pub(crate) instance: InstanceDir,
}

impl NixCli {
    /// Prepares the directory with the Nix files. Nix itself does not run;
    /// [`Nix::preflight`](crate::Nix::preflight) checks it.
    ///
    /// # Errors
    /// The spool directory cannot be used, or `nix_dir` has no Nix code.
    pub fn new(config: NixCliConfig) -> Result<Self, NixCliError> {
        let instance = InstanceDir::open(&config.spool_dir)?;
        if config.nix_dir.is_none() {
            let path = instance.path().to_owned();
            let written = instance.make(write_embedded);
            written.map_err(|source| SpoolError { path, source })?;
        }
        let dir = config.nix_dir.clone();
        let path = dir
            .unwrap_or_else(|| instance.path().join(FOLDER))
            .join(ENTRY);
        let entry = path
            .canonicalize()
            .map_err(|source| NixCliError::NixCode { path, source })?;
        let environment = environment(&config);
        let mirror_dir = match &config.mirror_dir {
            Some(folder) => folder.clone(),
            None => config.spool_dir.join(MIRRORS),
        };
        if !config.wrapper.is_empty() {
            // A wrapper can only protect from builders what is there.
            std::fs::create_dir_all(&mirror_dir).map_err(|source| SpoolError {
                path: mirror_dir.clone(),
                source,
            })?;
        }
        let mirrors = Mirrors::new(MirrorOptions {
            mirrors: mirror_dir,
            patterns: config.refs.clone(),
            any_commit: config.any_commit,
            timeout: config.evaluate_timeout,
            env: environment.clone(),
        });
        Ok(Self {
            store_root: store_root(&config),
            environment,
            config,
            entry,
            mirrors,
            fetched: FetchedCommits::default(),
            allows_urls: OnceCell::new(),
            instance,
        })
    }

    /// Returns the program that runs every command of Nix, if there is one.
    pub(crate) fn wrapper(&self) -> Option<&str> {
        self.config.wrapper.first().map(String::as_str)
    }

    pub(crate) async fn run(
        &self,
        program: &'static str,
        args: Vec<OsString>,
        timeout: Duration,
        log: &mut NixLog<'_>,
    ) -> Result<Finished, NixError> {
        let env = self.environment.clone();
        self.run_in(env, program, args, timeout, log).await
    }

    /// Runs a program in an environment.
    pub(crate) async fn run_in(
        &self,
        env: ChildEnvironment,
        program: &'static str,
        mut args: Vec<OsString>,
        timeout: Duration,
        log: &mut NixLog<'_>,
    ) -> Result<Finished, NixError> {
        if let Some(store) = &self.config.store {
            args.extend(strings(["--store", store.uri()]));
        }
        let wrapper = self.config.wrapper.iter().map(OsString::from);
        let mut words = wrapper.chain([program.into()]).chain(args);
        let spec = CommandSpec {
            program: words.next().unwrap_or_else(|| program.into()),
            args: words.collect(),
            env,
            timeout,
            memory: match program {
                EVALUATOR => self.config.evaluate_memory,
                _ => None,
            },
            stdout_limit: MAX_STDOUT,
        };
        tracing::debug!(program, args = ?spec.args, "running Nix");
        let finished = command::run(&spec, &mut |line| log.line(line))
            .await
            .map_err(|source| NixError::Process {
                action: format!("run {}", spec.program.display()),
                source,
            })?;
        if finished.timed_out {
            return Err(NixError::TimedOut {
                after: timeout,
                log_tail: log.tail(),
            });
        }
        if let Some(limit) = spec.memory.filter(|_| ran_out_of_memory(&finished, log)) {
            let limit = ByteSize(limit);
            return Err(NixError::EvaluationMemory { limit });
        }
        if let Some(cause) = killed(&finished, log) {
            return Err(NixError::Killed {
                command: program,
                cause,
            });
        }
        if finished.stdout_cut {
            return Err(NixError::Output {
                command: program,
                problem: format!("more than {MAX_STDOUT} bytes"),
            });
        }
        Ok(finished)
    }

    /// Queries the store's database with `nix-store`, and returns what it prints.
    pub(crate) async fn query(
        &self,
        args: Vec<OsString>,
        log: &BuildLog,
    ) -> Result<String, NixError> {
        let mut log = NixLog::new(log);
        let finished = self.run("nix-store", args, QUERY_TIMEOUT, &mut log).await?;
        if !finished.status.success() {
            return Err(NixError::Output {
                command: "nix-store",
                problem: format!("{}: {}", finished.status, log.detail()),
            });
        }
        Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
    }

    /// Evaluates a file of the Nix code and returns its answer as JSON. The request has the names
    /// in a field of its own; an error is attributed to one of `packages`.
    pub(crate) async fn instantiate(
        &self,
        file: &str,
        source: &ResolvedSource,
        architecture: Architecture,
        (field, names): (&str, Value),
        packages: &[String],
        log: &BuildLog,
    ) -> Result<Vec<u8>, NixError> {
        let access = self.access(source);
        let env = self.evaluation_environment(access).await;
        let mut is_retry = false;
        loop {
            let set = self.package_set(source, log).await?;
            let args = self.evaluation(file, &set, architecture, (field, names.clone()), access)?;
            let timeout = self.config.evaluate_timeout;
            let mut log = NixLog::new(log);
            let finished = self.run_in(env.clone(), EVALUATOR, args, timeout, &mut log);
            let finished = finished.await?;
            if finished.status.success() {
                return Ok(finished.stdout);
            }
            // Garbage collection may have removed the set since it was fetched.
            if is_retry || !set.is_gone() {
                return Err(evaluation_error(&log, packages));
            }
            is_retry = true;
        }
    }

    /// Returns the arguments of `nix-instantiate` to evaluate a file of the Nix code.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn evaluation(
        &self,
        file: &str,
        set: &PackageSet,
        architecture: Architecture,
        (field, names): (&str, Value),
        access: Access,
    ) -> Result<Vec<OsString>, NixError> {
        let request = serde_json::json!({
            "srcType": set.src_type,
            "srcArgs": set.src_args,
            "system": architecture.nix_system(),
            field: names,
        });
        let file = self.code_file(file)?;
        Ok(evaluation::arguments(&file, &request, Some(set), access))
    }

    /// Returns what the code of a package source may read.
    pub(crate) fn access(&self, source: &ResolvedSource) -> Access {
        match source.src_type {
            "git" => self.strictest_access(),
            _ if self.config.restrict_eval == Some(true) => Access::Restricted,
            _ => Access::AsConfigured,
        }
    }

    /// What the code of a git repository may read, which is never more than other code may.
    pub(crate) fn strictest_access(&self) -> Access {
        match self.config.restrict_eval {
            Some(false) => Access::AsConfigured,
            None | Some(true) => Access::Restricted,
        }
    }

    /// Returns a file of the Nix code.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn code_file(&self, name: &str) -> Result<PathBuf, NixError> {
        self.restore_embedded()?;
        Ok(self.entry.with_file_name(name))
    }

    /// Builds packages with `nix-store` and roots them. Returns whether all were built.
    pub(crate) async fn run_realise(
        &self,
        evaluation: &Evaluation,
        gc_roots: &Path,
        options: &[&str],
        log: &mut NixLog<'_>,
    ) -> Result<bool, NixError> {
        let timeout = self.config.realise_timeout;
        // Nix reads no larger number.
        let deadline = timeout.saturating_add(NIX_DEADLINE_MARGIN).as_secs();
        let deadline = deadline.min(i32::MAX.unsigned_abs().into());
        let mut args = strings(["--realise", "--log-format", "internal-json"]);
        args.extend(strings(["--timeout", &deadline.to_string()]));
        if let Some(jobs) = self.config.max_jobs {
            args.extend(strings(["--max-jobs", &jobs.to_string()]));
        }
        args.push("--add-root".into());
        args.push(gc_roots.join("0").into());
        args.push("--indirect".into());
        for package in &evaluation.packages {
            args.push(format!("{}!{}", package.derivation, package.output).into());
        }
        args.extend(options.iter().map(OsString::from));
        let finished = self.run("nix-store", args, timeout, log).await?;
        Ok(finished.status.success())
    }

    /// Writes the embedded files again if they were deleted.
    fn restore_embedded(&self) -> Result<(), NixError> {
        if self.config.nix_dir.is_some() || self.entry.exists() {
            return Ok(());
        }
        self.instance
            .make(write_embedded)
            .map_err(|source| NixError::Process {
                action: "write the built-in Nix code".to_owned(),
                source,
            })
    }

    /// Returns the requested package that needs `derivation`, or the name of the derivation if no
    /// such package is known.
    pub(crate) async fn package_of(&self, derivation: &str, evaluation: &Evaluation) -> String {
        let requested = |path: &str| {
            let mut packages = evaluation.packages.iter();
            let package = packages.find(|package| package.derivation == path)?;
            Some(package.name.clone())
        };
        if let Some(package) = requested(derivation) {
            return package;
        }
        let args = strings(["--query", "--referrers-closure", derivation]);
        let referrers = self.query(args, &BuildLog::default()).await;
        let referrers = referrers.unwrap_or_default();
        let package = referrers.lines().find_map(requested);
        package.unwrap_or_else(|| short_name(derivation).to_owned())
    }
}

/// The variables of Nix and git.
fn environment(config: &NixCliConfig) -> ChildEnvironment {
    let inherited = ChildEnvironment::inherited(&config.inherited_env)
        // Messages are parsed, and names may be any UTF-8.
        .with("LC_ALL", "C.UTF-8")
        .with("TERM", "dumb")
        // A server answers no questions.
        .with("GIT_TERMINAL_PROMPT", "0")
        .with_default("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
    let given = config.env.iter();
    given.fold(inherited, |environment, (name, value)| {
        environment.with(name, value)
    })
}

/// Where the files of the store are, as far as settings and environment name it. The preflight
/// reports if `nix.conf` names another.
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

pub(crate) fn strings<const N: usize>(args: [&str; N]) -> Vec<OsString> {
    args.into_iter().map(OsString::from).collect()
}
