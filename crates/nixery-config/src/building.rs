//! The settings of Nix.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::thread::available_parallelism;
use std::time::Duration;

use nixery_core::{ByteSize, Channels, MAX_NAME_LEN};
use nixery_nix::{DEFAULT_EVALUATE_MEMORY, NixStore, RefPatterns};

use crate::arguments::Section;
use crate::check::{BOOLEANS, Checker};
use crate::table::{
    CHANNELS, EVAL_INTERVAL, EVAL_MEMORY, EVAL_TIMEOUT, FAILURE_TTL, Group, HISTORY, LEASE,
    MAX_BUILDS, MAX_CLOSURE_SIZE, MAX_EVALUATIONS, MAX_IMAGE_SIZE, MAX_PACKAGES, MAX_WAITING,
    MAX_WAITING_PER_CLIENT, NIX_DIR, NIX_ENV, NIX_MAX_JOBS, NIX_STORE, NIX_TIMEOUT, NIX_WRAPPER,
    PKGS_ANY_COMMIT, PKGS_REFS, RESTRICT_EVAL, Setting,
};

/// Limit of times, against typing errors.
const WEEK: u64 = 7 * 24 * 60 * 60;
/// Limit of the wait for a server that may have stopped.
const MAX_LEASE_SECONDS: u64 = 60 * 60;
/// Limit of counts of processes and threads.
pub(crate) const MAX_COUNT: usize = 1024;

/// What is allowed as refs.
const REFS: &str = "patterns of full names of refs, such as refs/heads/main or refs/tags/v*";
/// The ways to restrict evaluation.
const RESTRICTIONS: &[(&str, Option<bool>)] =
    &[("auto", None), ("true", Some(true)), ("false", Some(false))];

/// Checked settings of running Nix.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NixSettings {
    /// Time limit for building the packages of one image.
    pub realise_timeout: Duration,
    /// Time limit for evaluating the packages of one image.
    pub evaluate_timeout: Duration,
    /// Limit of the address space of one evaluation, in bytes; `None` for no limit.
    pub evaluate_memory: Option<u64>,
    /// How long an image of a source that changes is served before it is evaluated again; `None`
    /// for the default of the source.
    pub eval_interval: Option<Duration>,
    /// Folder with the Nix files; `None` for those built in.
    pub nix_dir: Option<PathBuf>,
    /// The store; `None` for Nix's own configuration.
    pub store: Option<NixStore>,
    /// The program with its arguments that runs every command of Nix; empty for none.
    pub wrapper: Vec<String>,
    /// Names of more variables that Nix inherits. A `*` at the end stands for any text.
    pub inherited_env: Vec<String>,
    /// Channels that tags may select besides that of the package source.
    pub channels: Channels,
    /// Whether tags of git repositories may be versions of packages on the default branch.
    pub versions_of_git: bool,
    /// The refs of a git repository that images can be built from.
    pub refs: RefPatterns,
    /// Whether images can be built from commits that are in none of them.
    pub any_commit: bool,
    /// Whether the package source is a git repository; `false` where it is not known.
    pub needs_git: bool,
    /// Whether package sets are evaluated in restricted mode; `None` for git repositories only.
    pub restrict_eval: Option<bool>,
    /// `--max-jobs`; `None` for Nix's own configuration.
    pub max_jobs: Option<usize>,
    /// Limit of images whose packages are built at once.
    pub max_builds: usize,
    /// Limit of images that are evaluated at once.
    pub max_evaluations: usize,
    /// Limit of builds that run or wait.
    pub max_waiting: usize,
    /// Limit of those that one client has started.
    pub max_waiting_per_client: usize,
    /// Limit of packages that the name of an image lists; `None` for no limit.
    pub max_packages: Option<NonZeroUsize>,
    /// Limit of the size of all store paths of an image; `None` for no limit.
    pub max_closure_size: Option<ByteSize>,
    /// Limit of the size of the compressed layers of an image; `None` for no limit.
    pub max_image_size: Option<ByteSize>,
    /// How long a failure is repeated before the image is built again.
    pub failure_ttl: Duration,
    /// How long to wait for another server that builds an image, from the last renewal of its
    /// lease.
    pub lease_ttl: Duration,
    /// Number of builds that are remembered.
    pub history: usize,
}

impl Section for NixSettings {
    const GROUPS: &'static [Group] = &[Group::Git, Group::Nix];

    fn read(checker: &mut Checker<'_>) -> Option<Self> {
        let cores = cores();
        let store = checker.given(NIX_STORE).and_then(|(name, uri)| {
            let store = NixStore::parse(&uri);
            store
                .map_err(|error| checker.invalid(&name, &uri, error.allowed))
                .ok()
        });
        Some(Self {
            realise_timeout: checker.time(NIX_TIMEOUT, 1..=WEEK),
            evaluate_timeout: checker.time(EVAL_TIMEOUT, 1..=WEEK),
            evaluate_memory: match checker.optional_size(EVAL_MEMORY) {
                Some(0) => None,
                given => given.or(Some(DEFAULT_EVALUATE_MEMORY)),
            },
            eval_interval: checker.optional_time(EVAL_INTERVAL, 0..=WEEK),
            nix_dir: checker.valid_path(
                NIX_DIR,
                |folder| folder.join("prepare-image.nix").is_file(),
                "a folder with the files of nix/, prepare-image.nix among them",
            ),
            store,
            wrapper: checker
                .parsed(
                    NIX_WRAPPER,
                    wrapper,
                    "words separated by spaces, without quotes",
                )
                .unwrap_or_default(),
            inherited_env: checker
                .parsed(
                    NIX_ENV,
                    variables,
                    "names of variables separated by spaces; the last character of each may be `*`",
                )
                .unwrap_or_default(),
            versions_of_git: true,
            channels: list(checker, CHANNELS, "names of channels, such as nixos-25.11"),
            refs: list(checker, PKGS_REFS, REFS),
            any_commit: checker.choice(PKGS_ANY_COMMIT, BOOLEANS)?,
            needs_git: false,
            restrict_eval: checker.choice(RESTRICT_EVAL, RESTRICTIONS)?,
            max_jobs: checker.optional_number(NIX_MAX_JOBS, 1..=MAX_COUNT),
            max_builds: checker
                .optional_number(MAX_BUILDS, 1..=MAX_COUNT)
                .unwrap_or(cores.clamp(2, 8)),
            max_evaluations: checker
                .optional_number(MAX_EVALUATIONS, 1..=MAX_COUNT)
                .unwrap_or(cores.min(4)),
            max_waiting: checker.number(MAX_WAITING, 1..=100_000),
            max_waiting_per_client: checker.number(MAX_WAITING_PER_CLIENT, 1..=100_000),
            max_packages: NonZeroUsize::new(checker.number(MAX_PACKAGES, 0..=MAX_NAME_LEN)),
            max_closure_size: limit_of_size(checker, MAX_CLOSURE_SIZE),
            max_image_size: limit_of_size(checker, MAX_IMAGE_SIZE),
            failure_ttl: checker.time(FAILURE_TTL, 0..=WEEK),
            lease_ttl: checker.time(LEASE, 0..=MAX_LEASE_SECONDS),
            history: checker.number(HISTORY, 1..=10_000),
        })
    }
}

/// Returns a list, or the default if it is unset or invalid.
fn list<T>(checker: &mut Checker<'_>, setting: &'static Setting, allowed: &str) -> T
where
    T: FromStr<Err: Display> + Default,
{
    let parsed = checker.given(setting).and_then(|(name, text)| {
        text.parse()
            .map_err(|error| checker.invalid(&name, &text, format_args!("{allowed} ({error})")))
            .ok()
    });
    parsed.unwrap_or_default()
}

/// Returns a limit of a size, unless it is unset or 0.
fn limit_of_size(checker: &mut Checker<'_>, setting: &Setting) -> Option<ByteSize> {
    let limit = checker.optional_size(setting);
    limit.filter(|bytes| *bytes > 0).map(ByteSize)
}

/// Returns the words of a command. Quotes have no meaning, so they are not allowed.
fn wrapper(text: &str) -> Option<Vec<String>> {
    let words = text.split_whitespace().map(str::to_owned).collect();
    (!text.contains(['"', '\'', '\\'])).then_some(words)
}

/// Returns names of environment variables.
fn variables(text: &str) -> Option<Vec<String>> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_name = |name: &str| {
        let start = name.strip_suffix('*').unwrap_or(name);
        let first = start.bytes().next();
        first.is_some_and(|byte| !byte.is_ascii_digit()) && start.bytes().all(is_word)
    };
    let names = text.split(|c: char| c.is_whitespace() || c == ',');
    let names = names.filter(|name| !name.is_empty());
    names
        .map(|name| is_name(name).then(|| name.to_owned()))
        .collect()
}

/// Returns the number of cores of this machine.
pub(crate) fn cores() -> usize {
    available_parallelism().map_or(1, NonZeroUsize::get)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arguments;
    use nixery_builder::{
        DEFAULT_FAILURE_TTL, DEFAULT_LEASE_TTL, DEFAULT_MAX_WAITING, DEFAULT_MAX_WAITING_PER_CLIENT,
    };
    use rstest::rstest;

    #[rstest]
    #[case::timeout(
        NIX_TIMEOUT,
        "8d",
        "NIX_TIMEOUT (--nix-timeout) is \"8d\"; allowed: a time from 1s to 7days, such as 90s, 30m, 6h or 30d; a number alone means seconds"
    )]
    #[case::eval(EVAL_TIMEOUT, "0", "NIXERY_EVAL_TIMEOUT (--eval-timeout) is \"0\"")]
    #[case::interval(
        EVAL_INTERVAL,
        "often",
        "NIXERY_EVAL_INTERVAL (--eval-interval) is \"often\"; allowed: a time from 0s to 7days"
    )]
    #[case::folder(
        NIX_DIR,
        "/",
        "NIXERY_NIX_DIR (--nix-dir) is \"/\"; allowed: a folder with the files of nix/, prepare-image.nix among them"
    )]
    #[case::store(
        NIX_STORE,
        "ssh-ng://builder",
        "NIXERY_NIX_STORE (--nix-store) is \"ssh-ng://builder\"; allowed: `auto`, `daemon`,"
    )]
    #[case::memory(
        EVAL_MEMORY,
        "much",
        "NIXERY_EVAL_MEMORY (--eval-memory) is \"much\"; allowed: a size"
    )]
    #[case::wrapper(
        NIX_WRAPPER,
        "bwrap --setenv A 'b c'",
        "NIXERY_NIX_WRAPPER (--nix-wrapper) is \"bwrap --setenv A 'b c'\"; allowed: words separated by spaces, without quotes"
    )]
    #[case::variables(
        NIX_ENV,
        "AWS_* A-B",
        "NIXERY_NIX_ENV (--nix-env) is \"AWS_* A-B\"; allowed: names of variables"
    )]
    #[case::channels(
        CHANNELS,
        "nixos-25.11, latest",
        "NIXERY_CHANNELS (--channels) is \"nixos-25.11, latest\"; allowed: names of channels, such as nixos-25.11 (channel `latest` cannot be selected by a tag"
    )]
    #[case::every_variable(NIX_ENV, "*", "NIXERY_NIX_ENV")]
    #[case::refs(
        PKGS_REFS,
        "main",
        "NIXERY_PKGS_REFS (--pkgs-refs) is \"main\"; allowed: patterns of full names of refs, such as refs/heads/main"
    )]
    #[case::any_commit(PKGS_ANY_COMMIT, "yes", "NIXERY_PKGS_ANY_COMMIT")]
    #[case::restriction(
        RESTRICT_EVAL,
        "yes",
        "NIXERY_RESTRICT_EVAL (--restrict-eval) is \"yes\"; allowed: auto, true, false"
    )]
    #[case::jobs(NIX_MAX_JOBS, "all", "NIXERY_NIX_MAX_JOBS (--nix-max-jobs) is \"all\"")]
    #[case::builds(
        MAX_BUILDS,
        "0",
        "NIXERY_MAX_BUILDS (--max-builds) is \"0\"; allowed: a whole number from 1"
    )]
    #[case::evaluations(MAX_EVALUATIONS, "0", "NIXERY_MAX_EVALUATIONS")]
    #[case::waiting(
        MAX_WAITING,
        "none",
        "NIXERY_MAX_WAITING (--max-waiting) is \"none\"; allowed: a whole number from 1 to 100000"
    )]
    #[case::quota(MAX_WAITING_PER_CLIENT, "0", "NIXERY_MAX_WAITING_PER_CLIENT")]
    #[case::packages(
        MAX_PACKAGES,
        "many",
        "NIXERY_MAX_PACKAGES (--max-packages) is \"many\"; allowed: a whole number from 0 to 255"
    )]
    #[case::closure(
        MAX_CLOSURE_SIZE,
        "-1",
        "NIXERY_MAX_CLOSURE_SIZE (--max-closure-size) is \"-1\"; allowed: a size"
    )]
    #[case::image(
        MAX_IMAGE_SIZE,
        "5 apples",
        "NIXERY_MAX_IMAGE_SIZE (--max-image-size) is \"5 apples\"; allowed: a size"
    )]
    #[case::failures(FAILURE_TTL, "x", "NIXERY_FAILURE_TTL")]
    #[case::lease(
        LEASE,
        "1d",
        "NIXERY_LEASE_SECONDS (--lease-seconds) is \"1d\"; allowed: a time from 0s to 1h"
    )]
    #[case::history(HISTORY, "0", "NIXERY_HISTORY")]
    fn wrong_nix_settings_are_refused(
        #[case] setting: &Setting,
        #[case] value: &str,
        #[case] expected: &str,
    ) {
        let arguments = Arguments::<NixSettings>::default().with(setting, value);
        let message = arguments.settings().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn a_wrapper_and_variables_are_lists_of_words() {
        let nix = Arguments::<NixSettings>::default()
            .with(NIX_WRAPPER, "bwrap  --ro-bind / /\n--")
            .with(CHANNELS, "nixos-25.11,nixos-unstable")
            .with(NIX_ENV, "NIXPKGS_ALLOW_UNFREE, AWS_*")
            .with(EVAL_MEMORY, "0")
            .settings()
            .unwrap();
        assert_eq!(nix.wrapper, ["bwrap", "--ro-bind", "/", "/", "--"]);
        assert_eq!(nix.inherited_env, ["NIXPKGS_ALLOW_UNFREE", "AWS_*"]);
        assert_eq!(nix.evaluate_memory, None);
    }

    #[rstest]
    #[case("", None, None)]
    #[case("0", None, None)]
    #[case("20", NonZeroUsize::new(20), Some(ByteSize(20)))]
    fn the_needs_of_an_image_are_limited_on_request(
        #[case] value: &str,
        #[case] packages: Option<NonZeroUsize>,
        #[case] size: Option<ByteSize>,
    ) {
        let nix = Arguments::<NixSettings>::default()
            .with(MAX_PACKAGES, value)
            .with(MAX_CLOSURE_SIZE, value)
            .with(MAX_IMAGE_SIZE, value)
            .settings()
            .unwrap();
        assert_eq!(nix.max_packages, packages);
        assert_eq!(nix.max_closure_size, size);
        assert_eq!(nix.max_image_size, size);
    }

    #[test]
    fn the_defaults_are_generous_and_those_of_the_builder() {
        let nix = Arguments::<NixSettings>::default().settings().unwrap();
        assert_eq!(nix.realise_timeout, Duration::from_secs(1800));
        assert_eq!(nix.evaluate_timeout, Duration::from_secs(300));
        assert_eq!(nix.evaluate_memory, Some(16 << 30));
        assert_eq!((nix.wrapper.len(), nix.inherited_env.len()), (0, 0));
        assert_eq!(nix.max_jobs, None);
        assert_eq!(nix.refs.to_string(), "refs/heads/* refs/tags/*");
        assert!(!nix.any_commit);
        assert_eq!(nix.restrict_eval, None, "what suits the source");
        assert_eq!(nix.eval_interval, None, "what suits the source");
        assert_eq!(nix.max_waiting, DEFAULT_MAX_WAITING);
        assert_eq!(nix.max_waiting_per_client, DEFAULT_MAX_WAITING_PER_CLIENT);
        assert_eq!(nix.failure_ttl, DEFAULT_FAILURE_TTL);
        assert_eq!(nix.lease_ttl, DEFAULT_LEASE_TTL);
        assert_eq!(nix.history, 100);
    }
}
