//! What every command has in common, and what build and serve refuse before Nix is asked.

mod common;

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
#[case(&["popcount", "--help"])]
#[case(&["verify", "--help"])]
#[case(&["serve", "--help"])]
fn help_has_examples(#[case] arguments: &[&str]) {
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
#[case(&["serve", "--port", "80800"], "PORT (--port)")]
#[case(&["frobnicate"], "frobnicate")]
fn wrong_arguments_are_named_and_exit_with_2(#[case] arguments: &[&str], #[case] problem: &str) {
    let place = Place::new();
    place.run(arguments).failed(2, problem);
    let left = std::fs::read_dir(place.path(""))
        .expect("a directory")
        .count();
    assert_eq!(left, 0, "nothing is made when the arguments are wrong");
}

#[rstest]
#[case("oci:full", "full holds files but no OCI layout")]
#[case("docker-archive:full", "full is a directory")]
#[case("docker-archive:missing/x.tar", "there is no directory missing")]
fn a_destination_is_checked_before_the_build(#[case] output: &str, #[case] problem: &str) {
    let place = Place::new();
    std::fs::create_dir(place.path("full")).expect("a directory");
    place.write("full/file", "");
    place
        .run(&["build", "git", "--output", output])
        .failed(1, problem);
}
