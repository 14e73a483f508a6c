//! What `nixery build` writes is what the tools for files read: the registry's image, byte for
//! byte.

use nixery_e2e::clients::{Podman, skopeo_pull};
use nixery_e2e::command::{Ran, run};
use nixery_e2e::{Layout, NixCalls, Registry, demo_set, program};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// `nixery build` with a store below the folder, in which it also runs.
fn build(folder: &Path, arguments: &[&str]) -> Ran {
    run(&mut build_command(folder, arguments))
}

fn build_command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("nixery"));
    command
        .arg("build")
        .args(arguments)
        .arg("--pkgs-path")
        .arg(demo_set())
        .arg("--storage-path")
        .arg(folder.join("store"))
        .current_dir(folder);
    command
}

/// Nix's start alone takes longer than anything else about a small image.
#[test]
#[ignore = "needs Nix: run make test"]
fn nix_is_called_no_more_often_than_an_image_needs() {
    let (folder, calls) = (tempfile::tempdir().unwrap(), NixCalls::new());
    let build = || {
        let mut command = build_command(folder.path(), &["hello", "--output", "store"]);
        run(command.env("PATH", calls.path())).success();
    };
    build();
    for call in ["nix-instantiate", "nix-store --realise", "path-info"] {
        assert_eq!(calls.count(call), 1, "{call}");
    }
    assert_eq!(calls.count(""), 3);
    // A path may have changed: evaluation tells that it has not.
    build();
    assert_eq!((calls.count("nix-instantiate"), calls.count("")), (2, 4));
}

fn skopeo(arguments: &[&str]) -> Ran {
    run(Command::new("skopeo")
        .arg("--insecure-policy")
        .args(arguments))
}

#[test]
#[ignore = "needs Nix, skopeo, podman and runc: run make test"]
fn the_default_output_is_an_archive_that_podman_loads_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let said = build(folder.path(), &["shell/git/htop"]).success();
    assert!(said.contains("podman load -i shell-git-htop.tar"), "{said}");

    let podman = Podman::new();
    let loaded = podman
        .load(&folder.path().join("shell-git-htop.tar"))
        .success();
    assert!(loaded.contains("shell/git/htop:latest"), "{loaded}");
    let shell = ["bash", "-c", "git --version"];
    let said = podman
        .run("localhost/shell/git/htop:latest", "0", &shell)
        .success();
    assert!(said.starts_with("git version"), "{said}");
}

#[test]
#[ignore = "needs Nix and skopeo: run make test"]
fn archives_of_both_compressions_convert() {
    let folder = tempfile::tempdir().unwrap();
    for compression in ["gzip", "zstd"] {
        let output = format!("docker-archive:{compression}.tar:example.org/hello:1");
        build(
            folder.path(),
            &["hello", "--compression", compression, "--output", &output],
        )
        .success();
        let archive = format!(
            "docker-archive:{}/{compression}.tar",
            folder.path().display()
        );
        let inspected: Value =
            serde_json::from_str(&skopeo(&["inspect", "--config", &archive]).success())
                .expect("JSON");
        assert_eq!(inspected["architecture"], "amd64");
        let layout = Layout::at(&folder.path().join(compression));
        let target = format!("oci:{}:latest", layout.path().display());
        // Copying checks every diff ID.
        skopeo(&["copy", "--quiet", &archive, &target]).success();
        let root = layout.unpack();
        assert!(root.join("nix/store").is_dir());
    }
}

#[test]
#[ignore = "needs Nix, skopeo and umoci: run make test"]
fn a_layout_holds_the_image_that_the_registry_serves() {
    let folder = tempfile::tempdir().unwrap();
    let said = build(
        folder.path(),
        &["git/htop", "--output", "oci:image", "--quiet", "--json"],
    )
    .success();
    let report: Value = serde_json::from_str(&said).expect("JSON");
    let built = Layout::at(&folder.path().join("image"));
    assert_eq!(report["digest"], built.manifest_digest());

    let pulled = skopeo_pull(
        &Registry::on_demo_set().reference("git/htop"),
        folder.path(),
    );
    assert_eq!(built.layer_digests(), pulled.layer_digests());
    assert_eq!(built.config(), pulled.config());
    built.unpack();
    let verified = run(Command::new(program("nixery"))
        .args(["verify", "--quiet", "--storage-path"])
        .arg(folder.path().join("store")));
    assert!(verified.success().ends_with("all sound\n"));
}

#[test]
#[ignore = "needs Nix: run make test"]
fn packages_that_are_missing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let said = build(folder.path(), &["git/nope/nada"]).failure();
    assert!(said.contains("`nada`") && said.contains("`nope`"), "{said}");
    assert!(!said.contains("git`"), "{said}");
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "only the store is there"
    );
}
