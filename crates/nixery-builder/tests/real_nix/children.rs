//! What package sets and builders can do to the process that runs Nix: read its environment, use up
//! its memory, and write to Nix's log.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nixery_builder::BuildError;
use nixery_core::{ByteSize, PackageSource};
use nixery_nix::{NixCliConfig, NixError, PackageError};
use rstest::rstest;

use crate::setup::Setup;

/// Makes a wrapper of a shell script, whose arguments are the command.
fn script(dir: &Path, text: &str) -> Vec<String> {
    let path = dir.join("wrapper");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    vec![path.to_str().expect("UTF-8").to_owned()]
}

/// A builder with a wrapper that is made for the folder of the package set.
async fn wrapped(wrapper: impl FnOnce(&Path) -> Vec<String>) -> Setup {
    let change = |config: &mut NixCliConfig| {
        let dir = config.spool_dir.parent().expect("a temporary folder");
        config.wrapper = wrapper(dir);
    };
    Setup::of(change, |set| PackageSource::path(set).expect("valid")).await
}

/// `cargo test` sets the variable.
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn evaluation_sees_no_environment_but_what_nix_needs() {
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let error = Setup::new().await.fail("curious").await;
    let error = error.to_string();
    assert!(error.contains("the environment has <>"), "{error}");

    let named = |nix: &mut NixCliConfig| nix.inherited_env = vec!["CARGO_MANIFEST_*".to_owned()];
    let error = Setup::with(named).await.fail("curious").await;
    let error = error.to_string();
    assert!(error.contains("nixery-builder>"), "{error}");
}

#[rstest]
#[case::itself("liar")]
#[case::a_dependency("needsliar")]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn a_builder_cannot_write_messages_of_nix(#[case] name: &str) {
    let setup = Setup::new().await;
    let handle = setup.request(name);
    match &*handle.wait().await.expect_err("fails") {
        BuildError::Package(PackageError::Failed {
            package,
            derivation,
            reason,
            ..
        }) => {
            assert!(derivation.ends_with("-liar-1.0.drv"), "{derivation}");
            assert_eq!(
                (package.as_str(), reason.as_str()),
                (name, "builder-exited-1")
            );
        }
        error => panic!("{error:?}"),
    }
    // Other builders may run at the same time, so the log cannot always name this one.
    let log = handle.log().text();
    for lie in [
        "-victim-1.0.drv' failed with exit code 9",
        "building lies",
        "a line of the download",
    ] {
        let line = log.lines().find(|line| line.ends_with(lie));
        let author = line.and_then(|line| line.split_once("> "));
        assert!(
            author.is_some_and(|(author, _)| ["liar-1.0", "a builder"].contains(&author)),
            "{log}"
        );
    }
}

#[rstest]
#[case::killed(
    "kill -KILL $$",
    "was killed by SIGKILL, probably because the server has too little memory"
)]
#[case::as_a_wrapper_reports_it("exit 137", "was killed by SIGKILL")]
#[case::aborted("kill -ABRT $$", "was killed by SIGABRT")]
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn a_killed_evaluation_is_not_the_fault_of_the_package(
    #[case] end: &str,
    #[case] expected: &str,
) {
    let text = format!("case \"$*\" in *prepare-image*) {end} ;; esac\nexec \"$@\"");
    let error = wrapped(|dir| script(dir, &text)).await.fail("foo").await;
    let BuildError::Unavailable(NixError::Killed { command, .. }) = &*error else {
        panic!("{error:?}")
    };
    assert_eq!(*command, "nix-instantiate");
    assert!(error.to_string().contains(expected), "{error}");
}

#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn the_memory_of_an_evaluation_is_limited() {
    let setup = Setup::with(|nix| nix.evaluate_memory = Some(1 << 30)).await;
    let error = setup.fail("greedy").await;
    assert!(
        matches!(&*error, BuildError::EvaluationMemory { limit: ByteSize(bytes) } if *bytes == 1 << 30),
        "{error:?}"
    );
    // What needs less is evaluated.
    setup.build("foo").await;
}

#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn every_command_of_nix_runs_in_the_wrapper() {
    let log = |dir: &Path| script(dir, "echo \"$1\" >> \"${0%/*}/programs\"\nexec \"$@\"");
    let setup = wrapped(log).await;
    setup.build("foo").await;
    let programs = std::fs::read_to_string(setup.dir.path().join("programs")).expect("written");
    let programs: BTreeSet<_> = programs.lines().collect();
    assert_eq!(programs, ["nix", "nix-instantiate", "nix-store"].into());
}

/// The server's git runs programs that the configuration of a mirror names.
#[tokio::test]
#[ignore = "needs Nix, git and bubblewrap: run make test"]
async fn in_bubblewrap_builders_cannot_change_mirrors() {
    let change = |config: &mut NixCliConfig| {
        let dir = config.spool_dir.parent().expect("a temporary folder");
        config.wrapper = documented_bubblewrap(dir);
    };
    let enclosed = Setup::of(change, crate::git::repository).await;
    enclosed.build("foo").await;
    enclosed.build("defaces").await;
    let free = Setup::of(|_| {}, crate::git::repository).await;
    free.fail("defaces").await;
}

/// The command for bubblewrap in `docs/nix.md`, for these folders.
fn documented_bubblewrap(dir: &Path) -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/nix.md");
    let docs = std::fs::read_to_string(docs).expect("docs/nix.md");
    let (_, command) = docs
        .split_once("NIXERY_NIX_WRAPPER='bwrap ")
        .expect("the recipe");
    let (command, _) = command.split_once('\'').expect("the end of the recipe");
    let path = |name| dir.join(name).to_str().expect("UTF-8").to_owned();
    let command = command
        .replace("/var/lib/nixery/spool", &path("spool"))
        .replace("/srv/packages", &path("set"));
    let words = command.split_whitespace().map(str::to_owned);
    ["bwrap".to_owned()].into_iter().chain(words).collect()
}

#[tokio::test]
#[ignore = "needs Nix and bubblewrap: run make test"]
async fn in_bubblewrap_packages_build_and_cannot_read_other_files() {
    let private = |setup: &Setup| {
        std::fs::write(setup.dir.path().join("private"), "confidential").expect("write");
    };
    let free = Setup::new().await;
    private(&free);
    free.build("reader").await;

    let enclosed = wrapped(documented_bubblewrap).await;
    private(&enclosed);
    enclosed.build("foo").await;
    match &*enclosed.fail("reader").await {
        BuildError::Package(PackageError::Evaluation { message, .. }) => {
            assert!(message.contains("No such file"), "{message}");
        }
        error => panic!("{error:?}"),
    }
}
