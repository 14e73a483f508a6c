//! Equal input gives equal bytes: on another host's store, with another Nix, on another number of threads.

use nixery_e2e::command::run;
use nixery_e2e::{checkout, demo_set, program, test_set};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// What two images must have in common to be the same bytes.
fn digests(image: &Value) -> Vec<String> {
    let digest = |value: &Value| value.as_str().expect("a digest").to_owned();
    let layers = image["layers"].as_array().expect("layers").iter();
    let mut all: Vec<_> = layers.map(|layer| digest(&layer["digest"])).collect();
    all.extend(["digest", "dockerDigest", "configDigest"].map(|name| digest(&image[name])));
    all
}

/// `nixery build`, which must pack everything anew, as its JSON tells it.
fn build(
    mut command: Command,
    image: &str,
    set: &Path,
    storage: &Path,
    threads: &str,
    compression: &str,
) -> Value {
    command.args([
        "build",
        image,
        "--quiet",
        "--json",
        "--output",
        "store",
        "--pack-threads",
        threads,
    ]);
    command.args(["--compression", compression]);
    command
        .arg("--pkgs-path")
        .arg(set)
        .arg("--storage-path")
        .arg(storage);
    let image: Value = serde_json::from_str(&run(&mut command).success()).expect("JSON");
    assert_eq!(image["fromCache"], false);
    image
}

#[test]
#[ignore = "needs Nix and debootstrap, makes a second Nix: run make test"]
fn a_store_realised_elsewhere_gives_the_same_digests() {
    let second_nix = || {
        let mut command = Command::new(checkout().join("scripts/second-nix"));
        command.arg(checkout().join("target/demo/second-nix"));
        command
    };
    run(&mut second_nix()).success();
    let nixery = program("nixery");
    for (set, image) in [
        (demo_set(), "shell/git/htop"),
        (test_set(), "odd-names/many-files/wide/modes"),
    ] {
        let here = tempfile::tempdir().expect("a scratch folder");
        let there = tempfile::tempdir().expect("a scratch folder");
        let mine = build(Command::new(&nixery), image, &set, here.path(), "1", "gzip");

        let mut command = second_nix();
        command
            .args(["run", "--bind"])
            .arg(nixery.parent().expect("a folder"));
        command.arg("--bind-rw").arg(there.path()).arg(&nixery);
        let theirs = build(command, image, &set, there.path(), "2", "gzip");
        assert_eq!(digests(&mine), digests(&theirs), "{image}");
    }
}

#[test]
#[ignore = "needs Nix: run make test"]
fn the_number_of_threads_does_not_show() {
    let nixery = program("nixery");
    for compression in ["gzip", "zstd"] {
        let builds = ["1", "2", "5"].map(|threads| {
            let storage = tempfile::tempdir().expect("a scratch folder");
            let mut command = Command::new(&nixery);
            command.env_remove("NIXERY_PACK_THREADS");
            build(
                command,
                "shell/jq",
                &demo_set(),
                storage.path(),
                threads,
                compression,
            )["layers"]
                .clone()
        });
        assert_eq!(builds[0], builds[1], "{compression}");
        assert_eq!(builds[0], builds[2], "{compression}");
    }
}
