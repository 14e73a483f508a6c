//! What a client unpacks is what the Nix store holds, byte for byte, for every store path of an
//! image.

use nixery_e2e::clients::skopeo_pull;
use nixery_e2e::{Registry, RegistryOptions, tree};
use std::path::Path;

/// Pulls, unpacks and compares every store path of an image with the store's own.
fn assert_unpacks_as_stored(registry: &Registry, image: &str) {
    let folder = tempfile::tempdir().unwrap();
    let root = skopeo_pull(&registry.reference(image), folder.path()).unpack();
    let mut compared = 0;
    for entry in std::fs::read_dir(root.join("nix/store")).unwrap() {
        let name = entry.unwrap().file_name();
        tree::assert_same(
            &root.join("nix/store").join(&name),
            &Path::new("/nix/store").join(&name),
        );
        compared += 1;
    }
    assert!(compared > 0, "{image} holds no store path");
}

#[test]
#[ignore = "needs Nix, skopeo and umoci: run make test"]
fn a_working_shell_unpacks_as_stored() {
    assert_unpacks_as_stored(&Registry::on_demo_set(), "shell/git/htop");
}

#[test]
#[ignore = "needs Nix, skopeo and umoci: run make test"]
fn awkward_files_unpack_as_stored() {
    let registry = Registry::start(RegistryOptions::awkward());
    for image in [
        "odd-names",
        "empty-directories",
        "hard-links",
        "modes",
        "many-files",
        "big-file",
        "file-output",
        "executable-output",
        "link-output",
        "several-outputs",
        "circular-links",
    ] {
        assert_unpacks_as_stored(&registry, image);
    }
    registry.verify();
}
