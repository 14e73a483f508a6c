//! Packages that meet in the root layer.

use nixery_e2e::clients::skopeo_pull;
use nixery_e2e::http;
use nixery_e2e::{Registry, RegistryOptions};
use std::path::Path;

/// The log of the build of an image that was not built before, as the registry serves it to a
/// terminal.
fn build_log(registry: &Registry) -> String {
    let page = http::get(&registry.url("/")).text();
    let id = page
        .split("/builds/")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap();
    http::get(&registry.url(&format!("/builds/{id}"))).text()
}

#[test]
#[ignore = "needs Nix and skopeo: run make test"]
fn what_is_left_out_is_told_in_the_log() {
    let registry = Registry::start(RegistryOptions::awkward());
    assert_eq!(
        registry
            .manifest("conflict-a/conflict-b/file-output")
            .status,
        200
    );
    let log = build_log(&registry);
    let conflict = log
        .lines()
        .find(|line| line.contains("root layer: bin/conflict is"))
        .unwrap_or_else(|| panic!("{log}"));
    assert!(
        conflict.contains("conflict-a-1.0") && conflict.contains("left out"),
        "{conflict}"
    );
    assert!(
        log.contains("file-output-1.0 is not a directory and not a program"),
        "{log}"
    );
}

#[test]
#[ignore = "needs Nix, skopeo and umoci: run make test"]
fn directories_merge_and_the_first_package_wins() {
    let registry = Registry::start(RegistryOptions::awkward());
    let folder = tempfile::tempdir().unwrap();
    let image = "conflict-a/conflict-b/meets-a-directory/meets-b-link/meets-c-file/own-etc";
    let root = skopeo_pull(&registry.reference(image), folder.path()).unpack();
    // Links lead to the store by absolute paths, so they are read as the image will see them.
    let read = |path: &str| {
        let target =
            std::fs::read_link(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        std::fs::read_to_string(root.join(target.strip_prefix("/").unwrap())).unwrap()
    };
    assert_eq!(read("bin/conflict"), "a\n");
    assert_eq!(read("share/a/file"), "a\n");
    assert_eq!(read("share/b/file"), "b\n");
    assert_eq!(read("share/meeting/from-directory"), "directory\n");
    assert_eq!(read("share/meeting/from-link"), "link\n");
    assert!(read("etc/passwd").contains("from a package"));
    assert!(root.join("etc/group").is_file());
    assert!(Path::new(&root.join("tmp")).is_dir());
}
