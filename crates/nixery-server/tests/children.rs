//! What the programs that the server starts learn of its secrets. Another program stands in for
//! Nix, to record what it is given.

// The leave that clippy.toml gives to tests ends at their helper functions.
#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

/// A user without rights; on every Linux `nobody`.
const NOBODY: &str = "65534";
const KEY: &str = "wJalrXUtnFEMI/K7MDENG";

/// Starts the server with this program as its Nix, which must fail, so that the server ends.
fn serve(dir: &Path, nix: &str, environment: &[(&str, &str)]) -> Output {
    let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    open(dir);
    let server = dir.join("nixery-server");
    fs::copy(env!("CARGO_BIN_EXE_nixery-server"), &server).unwrap();
    let program = dir.join("nix-store");
    fs::write(
        &program,
        format!("#!/bin/sh\ncd '{}'\n{nix}\n", dir.display()),
    )
    .unwrap();
    open(&program);
    // Root could read everything in any case.
    let mut command = if dir.metadata().unwrap().uid() == 0 {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        command.arg(&server);
        command
    } else {
        Command::new(&server)
    };
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    command
        .env_clear()
        .env("PATH", path)
        .env("HOME", dir)
        .env("PORT", "0")
        .env("STORAGE_PATH", dir.join("store"))
        .env("NIXERY_PKGS_PATH", "/")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn children_get_no_secret_and_cannot_read_those_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let record = "env > environment\ncat /proc/$PPID/environ > parent 2> refused\nexit 1";
    let hostile = [
        ("AWS_SECRET_ACCESS_KEY", KEY),
        ("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEBYaD"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/etc/key.json"),
        ("NIXERY_TRAFFIC_SALT", "0123456789abcdef"),
        (
            "NIX_POPULARITY_URL",
            "https://me:hunter2hunter2@localhost:1/",
        ),
        ("NIXERY_LAYER_STRATEGY", "size"),
        ("DATABASE_PASSWORD", "correct horse"),
        ("NIX_CONFIG", "cores = 1"),
    ];
    let output = serve(dir.path(), record, &hostile);
    let text = String::from_utf8_lossy(&output.stderr);
    let read = |name: &str| {
        fs::read_to_string(dir.path().join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}: {text}"))
    };

    let environment = read("environment");
    let names: Vec<_> = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        // Set by the shell.
        .filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name))
        .collect();
    for name in &names {
        assert!(
            ["PATH", "HOME", "NIX_CONFIG", "LC_ALL", "TERM"].contains(name)
                || name.starts_with("GIT_"),
            "{name} is inherited"
        );
    }
    assert!(names.contains(&"NIX_CONFIG"), "{names:?}");
    assert_eq!(read("parent"), "");
    assert!(
        read("refused").contains("Permission denied"),
        "{}",
        read("refused")
    );
}

#[test]
fn a_secret_that_a_child_prints_is_not_logged() {
    let dir = tempfile::tempdir().unwrap();
    let print = "echo \"error: the key is <$AWS_SECRET_ACCESS_KEY>\" >&2\nexit 1";
    let environment = [
        ("AWS_SECRET_ACCESS_KEY", KEY),
        ("NIXERY_NIX_ENV", "AWS_*"),
        ("NIXERY_LOG", "trace"),
    ];
    let output = serve(dir.path(), print, &environment);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("the key is <[hidden]>"), "{text}");
    assert!(!text.contains(KEY), "{text}");
}
