//! What every command has in common, and what build and serve refuse before Nix is asked.

mod common;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use common::Place;
use rstest::rstest;

#[test]
fn the_version_is_the_crates() {
    let version = Place::new().run(&["--version"]).ok();
    assert_eq!(version, format!("nixery {}\n", env!("CARGO_PKG_VERSION")));
}

#[rstest]
#[case(&["--help"])]
#[case(&["build", "--help"])]
#[case(&["layers", "--help"])]
#[case(&["verify", "--help"])]
fn help_has_examples(#[case] arguments: &[&str]) {
    assert_examples(arguments);
}

fn assert_examples(arguments: &[&str]) {
    let help = Place::new().run(arguments).ok();
    let examples = help.split_once("Examples:\n").expect("examples").1;
    assert!(examples.contains("nixery "), "{help}");
}

#[rstest]
#[case(&["build"], "NAME[:TAG]")]
#[case(&["build", "Git"], "Git")]
#[case(&["build", "git:"], "tag")]
#[case(&["build", "git", "--output", "tape:x"], "expected docker-archive:FILE")]
#[case(&["build", "git", "--quiet", "--verbose"], "cannot be used with")]
#[case(&["build", "git", "--layer-budget", "0"], "NIXERY_LAYER_BUDGET (--layer-budget)")]
#[case(&["build", "git", "--pkgs-path", "missing"], "NIXERY_PKGS_PATH (--pkgs-path)")]
#[case(&["build", "git", "--compression", "lzma"], "NIXERY_COMPRESSION (--compression)")]
#[case(&["frobnicate"], "frobnicate")]
fn wrong_arguments_are_named_and_exit_with_2(#[case] arguments: &[&str], #[case] problem: &str) {
    let place = Place::new();
    place.run(arguments).failed(2, problem);
    let left = std::fs::read_dir(place.path(""))
        .expect("a directory")
        .count();
    assert_eq!(left, 0, "nothing is made when the arguments are wrong");
}

#[cfg(feature = "serve")]
#[test]
fn serve_has_examples_and_names_wrong_settings() {
    assert_examples(&["serve", "--help"]);
    let run = Place::new().run(&["serve", "--port", "80800"]);
    run.failed(2, "PORT (--port)");
}

#[cfg(feature = "lab")]
#[rstest]
#[case(&["lab", "--help"])]
#[case(&["lab", "plan", "build", "--help"])]
#[case(&["lab", "popcount", "--help"])]
#[case(&["lab", "replay", "--help"])]
fn the_laboratorys_help_has_examples(#[case] arguments: &[&str]) {
    assert_examples(arguments);
}

#[rstest]
#[case(&["plan", "build", "x"], "tip: the command is `nixery lab plan`")]
#[case(&["popcount", "x"], "tip: the command is `nixery lab popcount`")]
#[case(&["layers", "replay", "x"], "tip: the command is `nixery lab replay`")]
fn the_new_name_of_a_moved_command_is_suggested(#[case] arguments: &[&str], #[case] tip: &str) {
    Place::new().run(arguments).failed(2, tip);
}

#[rstest]
#[case("oci:full", "full holds files but no OCI layout")]
#[case("docker-archive:full", "cannot write full: it is a directory")]
#[case(
    "docker-archive:missing/x.tar",
    "cannot write missing/x.tar: there is no directory missing. Fix: create it"
)]
fn a_destination_is_checked_before_the_build(#[case] output: &str, #[case] problem: &str) {
    let place = Place::new();
    std::fs::create_dir(place.path("full")).expect("a directory");
    place.write("full/file", "");
    place
        .run(&["build", "git", "--output", output])
        .failed(1, problem);
}

#[test]
fn the_flags_of_verify_are_not_those_of_the_store() {
    let help = Place::new().run(&["verify", "--help"]).ok();
    let (own, store) = help.split_once("\nBlob store:\n").expect("a heading");
    assert!(
        own.contains("--delete-corrupt") && own.contains("--json"),
        "{help}"
    );
    assert!(store.contains("--storage-path"), "{help}");
}

#[test]
fn a_command_that_reads_standard_input_can_be_stopped() {
    let mut child = Place::new()
        .command(&["layers", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs");
    // More than a pipe holds: once it is written, the command reads.
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(&[b' '; 1 << 20]).expect("a reader");
    // Not SIGINT, which is ignored in whatever a shell's script starts in the background, as this
    // test may be.
    let sent = std::process::Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(sent.is_ok_and(|status| status.success()));
    // Standard input stays open: only the signal can end it.
    let (sender, ended) = std::sync::mpsc::channel();
    let process = child.id();
    std::thread::spawn(move || sender.send(child.wait()));
    let status = ended.recv_timeout(std::time::Duration::from_secs(20));
    if status.is_err() {
        let _ = std::process::Command::new("kill")
            .args(["-KILL", &process.to_string()])
            .status();
    }
    let status = status.expect("it ends").expect("its status");
    assert!(
        status.signal() == Some(15) || status.code() == Some(143),
        "{status}"
    );
    drop(stdin);
}

#[test]
fn nobody_needs_to_read_the_errors() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = Place::new()
        .command(&["layers", "missing.json"])
        .stderr(writer)
        .status()
        .expect("it runs");
    assert_eq!(status.code(), Some(1));
}
