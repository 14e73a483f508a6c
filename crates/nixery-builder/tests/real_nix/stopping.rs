//! Package builders end when they take too long, and when the process that started them is killed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nixery_builder::{BuildError, Phase};

use crate::setup::{Setup, line_of};

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

/// The directory of the builder that a helper process starts; unset in an ordinary run.
const BY_HELPER: &str = "NIXERY_TEST_SLOW_BUILD";

/// Starts a build that takes ten minutes, and waits to be killed.
#[tokio::test]
#[ignore = "needs Nix: run make test"]
async fn helper_builds_until_killed() {
    let Some(note) = std::env::var_os(BY_HELPER) else {
        return;
    };
    let setup = Setup::with(|nix| nix.realise_timeout = Duration::from_secs(3)).await;
    let handle = setup.request("slow");
    let pid = setup.file("pid").await;
    std::fs::write(note, format!("{pid}\n")).expect("write");
    let _ = handle.wait().await;
}

/// A killed process cannot stop the builders that it has started. They still end by the deadline,
/// as Nix knows it.
#[test]
#[ignore = "needs Nix: run make test"]
fn builders_of_a_killed_process_end_by_the_deadline() {
    let dir = tempfile::tempdir().expect("temp dir");
    let note = dir.path().join("pid");
    let mut helper = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "stopping::helper_builds_until_killed",
            "--ignored",
        ])
        .env(BY_HELPER, &note)
        .env("TMPDIR", dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.expect("a runtime");
    let pid = runtime.block_on(line_of(&note));
    helper.kill().expect("runs");
    helper.wait().expect("is a child");
    let builder = PathBuf::from(format!("/proc/{pid}"));
    assert!(builder.exists(), "killed along: this test tests nothing");
    runtime.block_on(gone(&builder));
}
