//! How Nix is run.

use super::value::{ConfigErrors, Setting, given, given_path};
use nixery_builder::{DEFAULT_FAILURE_TTL, DEFAULT_LEASE_TTL, DEFAULT_MAX_WAITING, NixStore};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

const NIX_TIMEOUT: Setting = Setting::new("NIX_TIMEOUT", "--nix-timeout");
const EVAL_TIMEOUT: Setting = Setting::new("NIXERY_EVAL_TIMEOUT", "--eval-timeout");
const EVAL_INTERVAL: Setting = Setting::new("NIXERY_EVAL_INTERVAL", "--eval-interval");
const NIX_DIR: Setting = Setting::new("NIXERY_NIX_DIR", "--nix-dir");
const NIX_STORE: Setting = Setting::new("NIXERY_NIX_STORE", "--nix-store");
const NIX_MAX_JOBS: Setting = Setting::new("NIXERY_NIX_MAX_JOBS", "--nix-max-jobs");
const MAX_BUILDS: Setting = Setting::new("NIXERY_MAX_BUILDS", "--max-builds");
const MAX_EVALUATIONS: Setting = Setting::new("NIXERY_MAX_EVALUATIONS", "--max-evaluations");
const MAX_WAITING: Setting = Setting::new("NIXERY_MAX_WAITING", "--max-waiting");
const FAILURE_TTL: Setting = Setting::new("NIXERY_FAILURE_TTL", "--failure-ttl");
const LEASE: Setting = Setting::new("NIXERY_LEASE_SECONDS", "--lease-seconds");
const HISTORY: Setting = Setting::new("NIXERY_HISTORY", "--history");

/// A package set from cold, download included, evaluates in less.
const DEFAULT_EVAL_SECONDS: u64 = 300;
/// Most clients have given up long before; what is built until then is kept by Nix.
const DEFAULT_NIX_SECONDS: u64 = 1800;
/// An upper bound for times that a typing error would otherwise turn into years.
const WEEK: u64 = 7 * 24 * 60 * 60;
/// Nobody should wait longer for a server that is gone.
const LONGEST_LEASE: u64 = 60 * 60;
/// An upper bound for counts of processes and threads.
pub(super) const MANY: usize = 1024;

/// Flags and variables of running Nix.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Nix")]
pub struct NixArgs {
    /// Most time that building one image's packages may take, in seconds [default: 1800]
    #[arg(long, env = "NIX_TIMEOUT", value_name = "SECONDS")]
    pub nix_timeout: Option<String>,

    /// Most time that evaluating one image's packages may take, in seconds [default: 300]
    #[arg(long, env = "NIXERY_EVAL_TIMEOUT", value_name = "SECONDS")]
    pub eval_timeout: Option<String>,

    /// How long an image of a channel, a branch or a local path answers before the packages are
    /// evaluated anew, in the background, in seconds; 0 to evaluate them for each request
    /// [default: 60, 0 for a local path]
    #[arg(long, env = "NIXERY_EVAL_INTERVAL", value_name = "SECONDS")]
    pub eval_interval: Option<String>,

    /// Folder with the files of `nix/` (`prepare-image.nix` and those beside it) to use instead of the
    /// built-in ones
    #[arg(long, env = "NIXERY_NIX_DIR", value_name = "FOLDER")]
    pub nix_dir: Option<OsString>,

    /// Nix store to build in and pack from: `daemon`, or `local?root=/mnt/nix` for one below another
    /// folder [default: what `NIX_REMOTE` and nix.conf say]
    #[arg(long, env = "NIXERY_NIX_STORE", value_name = "STORE")]
    pub nix_store: Option<String>,

    /// Derivations Nix builds at once for one image [default: what nix.conf says]
    #[arg(long, env = "NIXERY_NIX_MAX_JOBS", value_name = "COUNT")]
    pub nix_max_jobs: Option<String>,

    /// Images whose packages are built at once; others wait [default: the cores, from 2 to 8]
    #[arg(long, env = "NIXERY_MAX_BUILDS", value_name = "COUNT")]
    pub max_builds: Option<String>,

    /// Images evaluated at once; each may take a gigabyte of memory [default: the cores, at most 4]
    #[arg(long, env = "NIXERY_MAX_EVALUATIONS", value_name = "COUNT")]
    pub max_evaluations: Option<String>,

    /// Builds that run or wait; further images are answered with 429 [default: 1000]
    #[arg(long, env = "NIXERY_MAX_WAITING", value_name = "COUNT")]
    pub max_waiting: Option<String>,

    /// How long a failed build answers again without being tried again, in seconds [default: 10]
    #[arg(long, env = "NIXERY_FAILURE_TTL", value_name = "SECONDS")]
    pub failure_ttl: Option<String>,

    /// How long another server on the same store that builds an image is waited for after its last
    /// sign of life, in seconds; 0 for not at all [default: 15]
    #[arg(long, env = "NIXERY_LEASE_SECONDS", value_name = "SECONDS")]
    pub lease_seconds: Option<String>,

    /// Builds remembered with their logs [default: 100]
    #[arg(long, env = "NIXERY_HISTORY", value_name = "COUNT")]
    pub history: Option<String>,
}

/// Checked settings of running Nix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NixSettings {
    /// Time for one realisation.
    pub realise_timeout: Duration,
    /// Time for one evaluation.
    pub evaluate_timeout: Duration,
    /// How long an image of a source that moves answers before it is evaluated anew; `None` for
    /// what suits the source.
    pub eval_interval: Option<Duration>,
    /// Folder with the Nix files; `None` for those built in.
    pub nix_dir: Option<PathBuf>,
    /// The store; `None` for Nix's own configuration.
    pub store: Option<NixStore>,
    /// `--max-jobs`; `None` for Nix's own configuration.
    pub max_jobs: Option<usize>,
    /// Realisations at once.
    pub max_builds: usize,
    /// Evaluations at once.
    pub max_evaluations: usize,
    /// Builds that run or wait.
    pub max_waiting: usize,
    /// How long a failure answers again.
    pub failure_ttl: Duration,
    /// How long another server that builds an image is waited for without a sign of life.
    pub lease_ttl: Duration,
    /// Builds remembered.
    pub history: usize,
}

impl NixArgs {
    /// Checks the settings.
    ///
    /// # Errors
    /// Every value that is not allowed.
    pub fn settings(&self) -> Result<NixSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let cores = cores();
        let nix_dir = given_path(self.nix_dir.as_ref());
        if let Some(folder) = &nix_dir
            && !folder.join("prepare-image.nix").is_file()
        {
            let allowed = "a folder with the files of nix/, prepare-image.nix among them";
            errors.invalid(NIX_DIR, &folder.display().to_string(), allowed);
        }
        let store = given(self.nix_store.as_deref()).and_then(|uri| {
            NixStore::parse(uri)
                .map_err(|allowed| errors.invalid(NIX_STORE, uri, allowed.to_string()))
                .ok()
        });
        let max_jobs = given(self.nix_max_jobs.as_deref())
            .map(|text| errors.number(NIX_MAX_JOBS, Some(text), 1, 1..=MANY));
        let eval_interval = given(self.eval_interval.as_deref())
            .map(|text| errors.seconds(EVAL_INTERVAL, Some(text), 0, 0..=WEEK));
        let settings = NixSettings {
            eval_interval,
            realise_timeout: errors.seconds(
                NIX_TIMEOUT,
                self.nix_timeout.as_deref(),
                DEFAULT_NIX_SECONDS,
                1..=WEEK,
            ),
            evaluate_timeout: errors.seconds(
                EVAL_TIMEOUT,
                self.eval_timeout.as_deref(),
                DEFAULT_EVAL_SECONDS,
                1..=WEEK,
            ),
            nix_dir,
            store,
            max_jobs,
            max_builds: errors.number(
                MAX_BUILDS,
                self.max_builds.as_deref(),
                cores.clamp(2, 8),
                1..=MANY,
            ),
            max_evaluations: errors.number(
                MAX_EVALUATIONS,
                self.max_evaluations.as_deref(),
                cores.min(4),
                1..=MANY,
            ),
            max_waiting: errors.number(
                MAX_WAITING,
                self.max_waiting.as_deref(),
                DEFAULT_MAX_WAITING,
                1..=100_000,
            ),
            failure_ttl: errors.seconds(
                FAILURE_TTL,
                self.failure_ttl.as_deref(),
                DEFAULT_FAILURE_TTL.as_secs(),
                0..=WEEK,
            ),
            lease_ttl: errors.seconds(
                LEASE,
                self.lease_seconds.as_deref(),
                DEFAULT_LEASE_TTL.as_secs(),
                0..=LONGEST_LEASE,
            ),
            history: errors.number(HISTORY, self.history.as_deref(), 100, 1..=10_000),
        };
        errors.finish(settings)
    }
}

/// The cores of this machine.
pub(super) fn cores() -> usize {
    available_parallelism().map_or(1, NonZeroUsize::get)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::timeout(|a: &mut NixArgs| a.nix_timeout = Some("1h".into()), "NIX_TIMEOUT (--nix-timeout) is \"1h\"; allowed: a whole number from 1 to 604800 (seconds)")]
    #[case::eval(|a: &mut NixArgs| a.eval_timeout = Some("0".into()), "NIXERY_EVAL_TIMEOUT (--eval-timeout) is \"0\"")]
    #[case::interval(|a: &mut NixArgs| a.eval_interval = Some("1m".into()), "NIXERY_EVAL_INTERVAL (--eval-interval) is \"1m\"; allowed: a whole number from 0 to 604800 (seconds)")]
    #[case::folder(|a: &mut NixArgs| a.nix_dir = Some("/".into()), "NIXERY_NIX_DIR (--nix-dir) is \"/\"; allowed: a folder with the files of nix/, prepare-image.nix among them")]
    #[case::store(|a: &mut NixArgs| a.nix_store = Some("ssh-ng://builder".into()), "NIXERY_NIX_STORE (--nix-store) is \"ssh-ng://builder\"; allowed: `auto`, `daemon`,")]
    #[case::jobs(|a: &mut NixArgs| a.nix_max_jobs = Some("all".into()), "NIXERY_NIX_MAX_JOBS (--nix-max-jobs) is \"all\"")]
    #[case::builds(|a: &mut NixArgs| a.max_builds = Some("0".into()), "NIXERY_MAX_BUILDS (--max-builds) is \"0\"; allowed: a whole number from 1")]
    #[case::evaluations(|a: &mut NixArgs| a.max_evaluations = Some("0".into()), "NIXERY_MAX_EVALUATIONS")]
    #[case::waiting(|a: &mut NixArgs| a.max_waiting = Some("none".into()), "NIXERY_MAX_WAITING (--max-waiting) is \"none\"; allowed: a whole number from 1 to 100000")]
    #[case::failures(|a: &mut NixArgs| a.failure_ttl = Some("x".into()), "NIXERY_FAILURE_TTL")]
    #[case::lease(|a: &mut NixArgs| a.lease_seconds = Some("1d".into()), "NIXERY_LEASE_SECONDS (--lease-seconds) is \"1d\"; allowed: a whole number from 0 to 3600 (seconds)")]
    #[case::history(|a: &mut NixArgs| a.history = Some("0".into()), "NIXERY_HISTORY")]
    fn wrong_nix_settings_are_refused(#[case] set: fn(&mut NixArgs), #[case] expected: &str) {
        let mut arguments = NixArgs::default();
        set(&mut arguments);
        let message = arguments.settings().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn the_default_is_a_generous_time() {
        let nix = NixArgs::default().settings().unwrap();
        assert_eq!(nix.realise_timeout, Duration::from_secs(1800));
        assert_eq!(nix.max_jobs, None);
        assert_eq!(nix.eval_interval, None, "what suits the source");
    }
}
