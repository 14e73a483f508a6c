//! The builder over real Nix, with a package set of `/bin/sh` derivations.
//!
//! Needs `nix-bin` (2.8 or later). As root without a `nixbld` group, and without a network:
//! `NIX_CONFIG=$'build-users-group =\nsandbox = false\nsubstituters ='`. `make test` sees to it.
#![allow(clippy::panic)] // Helpers of tests fail tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nixery_builder::{
    BuildError, BuildHandle, Builder, BuilderConfig, Finding, Image, ImageRequest, Nix, NixCli,
    NixCliConfig, Phase,
};
use nixery_core::{ImageName, PackageSource, Tag};
use nixery_storage::MemoryStorage;
use rstest::rstest;
use tempfile::TempDir;

/// Packages that need nothing but a shell. `nonce` makes them new to the store in each run.
const PACKAGES: &str = r#"
{ system ? builtins.currentSystem, ... }:
let
  nonce = "@nonce@";
  sh = name: script: derivation {
    inherit name system nonce;
    builder = "/bin/sh";
    args = [ "-c" "export PATH=/bin:/usr/bin; ${script}" ];
  };
in rec {
  cacert = sh "cacert-1" "mkdir -p $out/etc/ssl/certs; echo none > $out/etc/ssl/certs/ca-bundle.crt";
  iana-etc = sh "iana-etc-1" "mkdir -p $out/etc; echo > $out/etc/protocols";
  libfoo = sh "libfoo-1.0" "mkdir -p $out/lib; echo $nonce > $out/lib/libfoo.so";
  foo = sh "foo-1.0" "mkdir -p $out/bin; echo ${libfoo} > $out/bin/foo; chmod +x $out/bin/foo";
  multi = derivation {
    name = "multi-1.0"; inherit system nonce; outputs = [ "out" "lib" ]; builder = "/bin/sh";
    args = [ "-c" "export PATH=/bin:/usr/bin; mkdir -p $out/bin $lib/lib; echo $lib > $out/bin/multi; echo $nonce > $lib/lib/multi" ];
  };
  multiLib = multi.lib;
  single = sh "single.txt" "echo $nonce > $out";
  set = { inherit foo; };
  func = x: x;
  throws = throw "this package is marked broken in /srv/secret/default.nix";
  broken = sh "broken-dependency-2.1" "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do echo line $i; done; printf 'n\\000ul \\377\\n' >&2; exit 7";
  needsBroken = sh "needs-broken-1.0" "echo ${broken} > $out";
  needsNeedsBroken = sh "needs-needs-broken-1.0" "echo ${needsBroken} > $out";
  fifo = sh "fifo-1.0" "mkdir $out; mkfifo $out/pipe";
  noisy = sh "noisy-1.0" "i=0; while [ $i -lt 3000 ]; do printf '%01000d\\n' 0; printf '%01000d\\n' 0 >&2; i=$((i+1)); done; mkdir $out";
  slow = sh "slow-1.0" "echo waiting; echo $$ > @dir@/pid; sleep 600; mkdir $out";
  gated = sh "gated-1.0" "while [ ! -e @dir@/open ]; do sleep 0.05; done; mkdir -p $out/bin; echo ${foo} > $out/bin/gated";
  ifd = sh "ifd-${builtins.readFile (sh "for-evaluation" "echo x > $out")}" "mkdir $out";
}
"#;

struct Setup {
    dir: TempDir,
    builder: Builder,
}

impl Setup {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut NixCliConfig)) -> Self {
        Self::of(change, |set| PackageSource::path(set).expect("valid")).await
    }

    async fn of(
        change: impl FnOnce(&mut NixCliConfig),
        source: impl FnOnce(&Path) -> PackageSource,
    ) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let set = dir.path().join("set");
        std::fs::create_dir(&set).expect("mkdir");
        let nonce = dir
            .path()
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let packages = PACKAGES
            .replace("@nonce@", &nonce)
            .replace("@dir@", &dir.path().to_string_lossy());
        std::fs::write(set.join("default.nix"), packages).expect("write");

        let spool = dir.path().join("spool");
        let mut nix = NixCliConfig::new(&spool);
        change(&mut nix);
        let nix = NixCli::new(nix).expect("spool is usable");
        let mut config = BuilderConfig::new(source(&set), &spool);
        config.failure_ttl = Duration::ZERO;
        let storage = Arc::new(MemoryStorage::new());
        let builder = Builder::new(config, Arc::new(nix), storage)
            .await
            .expect("opens");
        Self { dir, builder }
    }

    fn request(&self, name: &str) -> BuildHandle {
        self.request_at(name, "latest")
    }

    fn request_at(&self, name: &str, tag: &str) -> BuildHandle {
        let name = ImageName::parse(name).expect("valid");
        let tag = Tag::parse(tag).expect("valid");
        self.builder.request(ImageRequest { name, tag })
    }

    async fn build(&self, name: &str) -> Arc<Image> {
        let handle = self.request(name);
        let result = handle.wait().await;
        result.unwrap_or_else(|error| panic!("{error}\n{}", handle.log().text()))
    }

    async fn fail(&self, name: &str) -> Arc<BuildError> {
        self.request(name).wait().await.expect_err("fails")
    }

    async fn file(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        let start = Instant::now();
        loop {
            match std::fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ if start.elapsed() > Duration::from_secs(60) => panic!("no {}", path.display()),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

fn paths(image: &Image) -> Vec<&str> {
    let paths = image.layers.iter().flat_map(|layer| &layer.paths);
    let mut names: Vec<_> = paths.map(|path| path.name()).collect();
    names.sort_unstable();
    names
}

#[rstest]
#[case::with_its_dependency("foo", &["cacert-1", "foo-1.0", "iana-etc-1", "libfoo-1.0"])]
#[case::other_output_is_a_reference("multi", &["cacert-1", "iana-etc-1", "multi-1.0", "multi-1.0-lib"])]
#[case::case_insensitive_and_only_that_output("multilib", &["cacert-1", "iana-etc-1", "multi-1.0-lib"])]
#[case::nested("set.foo", &["cacert-1", "foo-1.0", "iana-etc-1", "libfoo-1.0"])]
#[case::a_file("single", &["cacert-1", "iana-etc-1", "single.txt"])]
#[case::floods_both_pipes("noisy", &["cacert-1", "iana-etc-1", "noisy-1.0"])]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn builds(#[case] name: &str, #[case] expected: &[&str]) {
    let setup = Setup::new().await;
    let image = setup.build(name).await;
    assert_eq!(paths(&image), expected);
    let again = setup.build(name).await;
    assert!(again.stats.from_cache);
    assert_eq!(again.oci, image.oci);
}

#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn all_missing_packages_are_named() {
    let error = Setup::new().await.fail("nope/foo/set.nothing/throws").await;
    match &*error {
        BuildError::NotFound { packages } => assert_eq!(packages, &["nope", "set.nothing"]),
        error => panic!("{error:?}"),
    }
}

#[rstest]
#[case("set", "a set")]
#[case("func", "a function")]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn what_is_no_package_is_said_to_be_none(#[case] name: &str, #[case] kind: &str) {
    match &*Setup::new().await.fail(name).await {
        BuildError::NotDerivation { package, found } => {
            assert_eq!((package.as_str(), found.as_str()), (name, kind));
        }
        error => panic!("{error:?}"),
    }
}

#[rstest]
#[case("throws", "this package is marked broken in …/default.nix")]
#[case("ifd", "allow-import-from-derivation")]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn evaluation_errors_name_the_package(#[case] name: &str, #[case] text: &str) {
    let error = Setup::new().await.fail(&format!("foo/{name}")).await;
    match &*error {
        BuildError::Evaluation {
            package: Some(package),
            message,
        } => {
            assert_eq!(package, name);
            assert!(message.contains(text), "{message}");
        }
        error => panic!("{error:?}"),
    }
    assert!(!error.to_string().contains("/srv"), "{error}");
}

#[rstest]
#[case::itself("broken")]
#[case::dependency("needsbroken")]
#[case::dependency_of_a_dependency("needsneedsbroken")]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn build_failures_name_package_derivation_and_log(#[case] name: &str) {
    let setup = Setup::new().await;
    let error = setup.fail(&format!("foo/{name}")).await;
    match &*error {
        BuildError::Failed {
            package,
            derivation,
            reason,
            log_tail,
        } => {
            assert_eq!(package, name);
            assert!(
                derivation.ends_with("-broken-dependency-2.1.drv"),
                "{derivation}"
            );
            assert_eq!(reason, "builder-exited-7");
            assert_eq!(log_tail.len(), 20);
            assert_eq!(log_tail[18..], ["line 25", "nul \u{fffd}"]);
        }
        error => panic!("{error:?}"),
    }
    assert_eq!(error.slug(), format!("{name}:builder-exited-7"));
    let id = setup.builder.recent()[0].id;
    let log = setup.builder.log(&id).expect("is remembered");
    assert!(log.contains("broken-dependency-2.1> line 1\n"), "{log}");
}

#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn what_nix_refuses_of_an_output_is_said() {
    match &*Setup::new().await.fail("fifo").await {
        BuildError::Failed {
            package,
            reason,
            log_tail,
            ..
        } => {
            assert_eq!(
                (package.as_str(), reason.as_str()),
                ("fifo", "output-refused")
            );
            assert!(
                log_tail
                    .join(" ")
                    .contains("/pipe' has an unsupported type"),
                "{log_tail:?}"
            );
        }
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn a_time_out_stops_the_builder_too() {
    let setup = Setup::with(|nix| nix.realise_timeout = Duration::from_secs(4)).await;
    let handle = setup.request("slow");
    let pid = setup.file("pid").await;
    let builder = PathBuf::from(format!("/proc/{pid}"));
    assert!(builder.exists());
    match &*handle.wait().await.expect_err("times out") {
        BuildError::TimedOut {
            phase: Phase::Realise,
            after,
            log_tail,
        } => {
            assert_eq!(*after, Duration::from_secs(4));
            assert!(
                log_tail
                    .last()
                    .is_some_and(|line| line == "slow-1.0> waiting"),
                "{log_tail:?}"
            );
        }
        error => panic!("{error:?}"),
    }
    gone(&builder).await;
}

async fn gone(process: &Path) {
    let start = Instant::now();
    while std::fs::read(process.join("cmdline")).is_ok_and(|line| !line.is_empty()) {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{} still lives",
            process.display()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// While a build runs, what it has realised is held; once it has ended, nothing is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Nix: run make test"]
async fn gc_roots_end_with_the_build() {
    let setup = Setup::new().await;
    let image = setup.build("foo").await;
    let foo = image
        .layers
        .iter()
        .flat_map(|layer| &layer.paths)
        .find(|path| path.name() == "foo-1.0");
    let foo = foo.expect("in the image").as_str().to_owned();
    let roots = |path: &str| {
        let out = std::process::Command::new("nix-store")
            .args(["--query", "--roots", path])
            .output();
        String::from_utf8(out.expect("nix-store runs").stdout).expect("UTF-8")
    };
    let spool = setup
        .dir
        .path()
        .join("spool")
        .to_string_lossy()
        .into_owned();
    assert!(!roots(&foo).contains(&spool), "{}", roots(&foo));

    let handle = setup.request("gated/foo");
    let mut progress = handle.progress();
    progress
        .wait_for(|progress| progress.phase == Phase::Realise)
        .await
        .expect("runs");
    std::fs::write(setup.dir.path().join("open"), "").expect("write");
    // Sampled while the build goes through its phases: rooted once realised.
    let mut seen = false;
    while handle.result().is_none() {
        seen |= roots(&foo).contains(&spool);
    }
    handle.wait().await.expect("builds");
    assert!(seen, "was not rooted while the image was built");
    assert!(!roots(&foo).contains(&spool), "{}", roots(&foo));
}

#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn preflight_finds_nothing_where_nix_works() {
    let dir = tempfile::tempdir().expect("temp dir");
    let nix = NixCli::new(NixCliConfig::new(dir.path())).expect("spool is usable");
    assert_eq!(nix.preflight().await, []);
}

#[rstest]
#[case::no_nix(("PATH", "/nonexistent"), "Nix is not installed", "apt-get install nix-bin")]
#[case::no_daemon(("NIX_REMOTE", "daemon"), "cannot connect to socket", "nix-daemon")]
#[case::no_group(("NIX_CONFIG", "build-users-group = nonexistent"), "'nonexistent'", "build-users-group =")]
#[case::no_access(("NIX_STATE_DIR", "/proc/nothing"), "creating directory", "make /nix writable")]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn preflight_says_what_is_wrong_and_what_to_do(
    #[case] env: (&str, &str),
    #[case] problem: &str,
    #[case] remedy: &str,
) {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut config = NixCliConfig::new(dir.path());
    config.env.push((env.0.to_owned(), env.1.to_owned()));
    let findings = NixCli::new(config)
        .expect("spool is usable")
        .preflight()
        .await;
    let [
        Finding {
            problem: found,
            remedy: advice,
            fatal: true,
        },
    ] = &findings[..]
    else {
        panic!("{findings:?}")
    };
    assert!(
        found.contains(problem) && advice.contains(remedy),
        "{findings:?}"
    );
}

/// Runs git in `dir` and returns what it prints.
fn git(dir: &Path, args: &[&str]) -> String {
    let git = std::process::Command::new("git")
        .args(["-c", "user.name=Test", "-c", "user.email=test@example.org"])
        .args(args)
        .current_dir(dir)
        .output()
        .expect("git runs");
    assert!(
        git.status.success(),
        "{}",
        String::from_utf8_lossy(&git.stderr)
    );
    String::from_utf8(git.stdout)
        .expect("UTF-8")
        .trim()
        .to_owned()
}

#[tokio::test]
#[ignore = "needs Nix and git: run make test"]
async fn tags_are_branches_and_commits_of_a_git_source() {
    let source = |set: &Path| {
        git(set, &["init", "-q", "--initial-branch=trunk"]);
        git(set, &["add", "."]);
        git(set, &["commit", "-q", "-m", "First"]);
        PackageSource::git(&format!("file://{}", set.display())).expect("valid")
    };
    let setup = Setup::of(|_| {}, source).await;
    let set = setup.dir.path().join("set");
    let first = git(&set, &["rev-parse", "HEAD"]);
    let file = set.join("default.nix");
    let text = std::fs::read_to_string(&file).expect("reads");
    std::fs::write(&file, text.replace("foo-1.0", "foo-2.0")).expect("writes");
    git(&set, &["commit", "-q", "-a", "-m", "Second"]);

    let names = async |tag: &str| {
        let handle = setup.request_at("foo", tag);
        let image = handle.wait().await;
        let image = image.unwrap_or_else(|error| panic!("{tag}: {error}\n{}", handle.log().text()));
        (paths(&image).contains(&"foo-2.0"), image.stats.immutable)
    };
    assert_eq!(names("latest").await, (true, false));
    assert_eq!(names("trunk").await, (true, false));
    assert_eq!(names(&first).await, (false, true));

    match &*setup
        .request_at("foo", "no-such-branch")
        .wait()
        .await
        .expect_err("fails")
    {
        BuildError::Source { message } => assert!(message.contains("no-such-branch"), "{message}"),
        error => panic!("{error:?}"),
    }
}
