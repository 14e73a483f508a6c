//! What `deploy/` says holds: its settings exist, its pods' settings are valid, and Nix works as it
//! works there.

use nixery_e2e::command::run;
use nixery_e2e::{checkout, demo_set, program};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// All settings, as the reference page lists them, which is made from the code.
fn settings() -> BTreeSet<String> {
    let page = checkout().join("docs/configuration.md");
    let page = std::fs::read_to_string(page).expect("text");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let names: BTreeSet<_> = rows
        .filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect();
    assert!(names.contains("NIXERY_CHANNEL"), "{names:?}");
    names
}

/// Names that look like settings of the registry: `NIXERY_…`, and those of the original.
fn named_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    words
        .map(|word| word.trim_end_matches('_'))
        .filter(|word| {
            word.starts_with("NIXERY_")
                || ["GCS_BUCKET", "STORAGE_PATH", "NIX_TIMEOUT", "PORT"].contains(word)
                || word.starts_with("NIX_POPULARITY")
        })
        .map(str::to_owned)
        .collect()
}

fn texts_below(folder: &Path, all: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder of the project") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            texts_below(&path, all);
        } else {
            writeln!(all, "{}", std::fs::read_to_string(&path).expect("text")).expect("memory");
        }
    }
}

#[test]
#[ignore = "runs the programs: run make test"]
fn every_setting_exists_and_is_in_the_units_file() {
    let known = settings();
    let mut text = String::new();
    texts_below(&checkout().join("deploy"), &mut text);
    for document in [
        "docs/deployment.md",
        "docs/nix.md",
        "docs/security.md",
        "SECURITY.md",
    ] {
        text += &std::fs::read_to_string(checkout().join(document)).expect("text");
    }
    let unknown: Vec<_> = named_in(&text).difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "no such settings: {unknown:?}");

    let file = std::fs::read_to_string(checkout().join("deploy/systemd/nixery.env")).expect("text");
    let missing: Vec<_> = known.difference(&named_in(&file)).cloned().collect();
    let elsewhere = ["GOOGLE_APPLICATION_CREDENTIALS", "WEB_DIR"];
    let missing: Vec<_> = missing
        .iter()
        .filter(|name| !name.starts_with("AWS_") && !elsewhere.contains(&name.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "not in deploy/systemd/nixery.env: {missing:?}"
    );
}

#[test]
#[ignore = "needs what scripts/lint leaves in target/deploy: run make test"]
fn every_overlays_settings_are_valid() {
    for overlay in ["filesystem", "gcs", "s3"] {
        let file = checkout().join(format!("target/deploy/{overlay}.json"));
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{file:?}: {error}; run scripts/lint-deploy"));
        let containers: Map<String, Value> = serde_json::from_str(&text).expect("JSON");
        let settings = containers["StatefulSet nixery"].as_object().expect("a map");
        let set = |command: &mut Command| {
            command.env_clear();
            for (name, value) in settings {
                command.env(name, value.as_str().expect("text"));
            }
        };
        let mut command = Command::new(program("nixery-server"));
        set(&mut command);
        run(command.arg("--check-config")).success();
        // And would not be if they were wrong.
        let said = run(command.env("NIXERY_SHUTDOWN_GRACE", "soon")).failure();
        assert!(said.contains("NIXERY_SHUTDOWN_GRACE"), "{said}");
    }
}

/// Copies a program to where any user may run it.
fn for_everybody(name: &str, folder: &Path) {
    let copy = folder.join(name);
    std::fs::copy(program(name), &copy).expect("a new file");
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).expect("our own file");
}

/// As in the pods of `deploy/kubernetes`: a user without any right, a volume of that user's at
/// `/nix`, no sandbox.
#[test]
#[ignore = "needs Nix and root, for a mount: run make test"]
fn a_user_without_rights_builds_in_a_volume_at_nix() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own folder");
    for_everybody("nixery", path);
    let script = r#"
        set -eu
        mkdir volume data set tmp
        chown 1000:1000 volume data tmp
        mount --bind "$1" set
        mount --bind volume /nix
        exec setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
            env HOME="$PWD/data" TMPDIR="$PWD/tmp" USER=nixery NIX_REMOTE= NIX_CONFIG="$2" \
            ./nixery build hello --quiet --json --output store --pkgs-path "$PWD/set" --storage-path "$PWD/data/store"
    "#;
    let printed = run(Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "-",
        ])
        .arg(demo_set())
        .arg("build-users-group =\nsandbox = false\nsubstituters =")
        .current_dir(path))
    .success();
    let image: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(image["fromCache"], false);
    assert!(path.join("volume/nix").symlink_metadata().is_err());
    assert!(path.join("volume/store").is_dir() && path.join("volume/var/nix/db").is_dir());
    run(Command::new("chmod").args(["-R", "u+w"]).arg(path)).success();
}

#[test]
#[ignore = "needs Nix: run make test"]
fn a_volume_is_seeded_once_and_whole() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path();
    // What nixpkgs' closureInfo makes of a package, here of the demo set's hello.
    let script = r#"
        set -eu
        out=$(nix-store --realise $(nix-instantiate --expr "(import $1 { }).hello" --add-root "$PWD/drv") --add-root "$PWD/out")
        mkdir closure volume
        nix-store --query --requisites "$out" >closure/store-paths
        xargs nix-store --dump-db <closure/store-paths >closure/registration
    "#;
    run(Command::new("sh")
        .args(["-euc", script, "-"])
        .arg(demo_set())
        .current_dir(path))
    .success();
    let paths = std::fs::read_to_string(path.join("closure/store-paths")).expect("a list");
    let count = paths.lines().count();
    let hello = paths
        .lines()
        .find(|path| path.ends_with("-hello-2.10"))
        .expect("hello");

    let seed = || {
        run(Command::new(checkout().join("nix/seed-store"))
            .args(["closure", "volume"])
            .current_dir(path))
        .success()
    };
    let said = |added: usize| format!("seed-store: {added} store paths added");
    assert!(seed().starts_with(&said(count)));
    assert!(seed().starts_with(&said(0)));
    // One that was cut off leaves half a path under another name.
    let volume = path.join("volume");
    run(Command::new("sh").current_dir(path).args([
        "-euc",
        r#"chmod u+w "volume$1"; mv "volume$1" "volume/nix/store/.seed-${1##*/}"; rm -rf "volume/nix/store/.seed-${1##*/}/bin""#,
        "-",
        hello,
    ]))
    .success();
    assert!(seed().starts_with(&said(1)));

    let store = format!("local?root={}", volume.display());
    run(Command::new("nix-store").args(["--verify", "--check-contents", "--store", &store]))
        .success();
    // It is not garbage.
    run(Command::new("nix-store").args(["--gc", "--store", &store])).success();
    assert!(volume.join(&hello[1..]).join("bin/hello").exists());
    run(Command::new("chmod").args(["-R", "u+w"]).arg(path)).success();
}
