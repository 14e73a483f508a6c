//! Equal input gives equal bytes: on another host's store, with another Nix, on another number of
//! threads.

use nixery_e2e::build::{Built, build};
use nixery_e2e::command::run;
use nixery_e2e::{checkout, demo_set, program, test_set};
use std::path::Path;
use std::process::Command;

/// An image whose layers are all packed anew.
fn pack(
    command: Command,
    image: &str,
    set: &Path,
    storage: &Path,
    threads: &str,
    compression: &str,
) -> Built {
    let flags = ["--pack-threads", threads, "--compression", compression];
    let built = build(command, image, set, storage, &flags);
    assert!(!built.is_from_cache());
    built
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
        let mine = pack(Command::new(&nixery), image, &set, here.path(), "1", "gzip");

        let mut command = second_nix();
        command
            .args(["run", "--bind"])
            .arg(nixery.parent().expect("a folder"));
        command.arg("--bind-rw").arg(there.path()).arg(&nixery);
        let theirs = pack(command, image, &set, there.path(), "2", "gzip");
        assert_eq!(mine.digests(), theirs.digests(), "{image}");
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
            pack(
                command,
                "shell/jq",
                &demo_set(),
                storage.path(),
                threads,
                compression,
            )
            .layers()
        });
        assert_eq!(builds[0], builds[1], "{compression}");
        assert_eq!(builds[0], builds[2], "{compression}");
    }
}
