//! Package sets in git repositories, some of whose commits come from strangers.

use nixery_e2e::command::{Ran, run};
use nixery_e2e::{Registry, RegistryOptions, checkout, http, program};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const SECRET: &str = "a-secret-of-the-server";

/// A package set that needs no shell, and shows what it can read.
const PACKAGES: &str = r#"{ ... }:
let
  empty = name: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "builtin:buildenv";
    derivations = "";
    manifest = "/";
  };
  secret = builtins.getEnv "AWS_SECRET_ACCESS_KEY";
in {
  cacert = empty "cacert-1";
  iana-etc = empty "iana-etc-1";
  hello = empty "hello-1";
  environment = empty "environment-${secret}-";
  throws = throw "the secret is ${secret}";
  shadow = empty "shadow-${builtins.substring 0 0 (builtins.readFile "/etc/shadow")}";
}
"#;

/// A repository with a branch, `trunk`, and a change that somebody proposes.
struct Repository {
    folder: TempDir,
    proposed: String,
}

impl Repository {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let set = folder.path().join("set");
        std::fs::create_dir(&set).expect("a new folder");
        std::fs::write(set.join("default.nix"), PACKAGES).expect("a new file");
        git(&set, &["init", "-q", "--initial-branch=trunk"]);
        git(&set, &["add", "."]);
        git(&set, &["commit", "-q", "-m", "First"]);
        git(&set, &["checkout", "-q", "--detach"]);
        std::fs::write(
            set.join("default.nix"),
            PACKAGES.replace("hello-1", "evil-1"),
        )
        .expect("a file");
        git(&set, &["commit", "-q", "-a", "-m", "Proposed"]);
        git(&set, &["update-ref", "refs/pull/1/head", "HEAD"]);
        let proposed = git(&set, &["rev-parse", "HEAD"]);
        git(&set, &["checkout", "-q", "trunk"]);
        Self { folder, proposed }
    }

    fn url(&self) -> String {
        format!("file://{}/set", self.folder.path().display())
    }
}

fn git(set: &Path, arguments: &[&str]) -> String {
    let ran = run(Command::new("git")
        .args(["-c", "user.name=Test", "-c", "user.email=test@example.org"])
        .args(arguments)
        .current_dir(set));
    ran.success().trim().to_owned()
}

fn serve(repository: &str) -> Registry {
    let options = RegistryOptions {
        packages: PathBuf::new(),
        ..RegistryOptions::demo()
    };
    let options = options
        .env("NIXERY_PKGS_REPO", repository)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("NIXERY_LOG", "debug");
    Registry::start(options)
}

#[track_caller]
fn manifest(registry: &Registry, image: &str, tag: &str) -> http::Response {
    http::get_following(&registry.url(&format!("/v2/{image}/manifests/{tag}")))
}

#[test]
#[ignore = "needs Nix and git: run make test"]
fn strangers_cannot_have_their_commits_evaluated() {
    let repository = Repository::new();
    let registry = serve(&repository.url());
    assert_eq!(http::get(&registry.url("/readyz")).status, 200);
    for tag in ["trunk", "latest"] {
        let answer = manifest(&registry, "hello", tag);
        assert_eq!(answer.status, 200, "{tag}: {}", answer.text());
    }
    let proposed = repository.proposed.as_str();
    for tag in [
        proposed,
        "HEAD",
        "FETCH_HEAD",
        "refs",
        // Few digits may be a version.
        &proposed[..39],
        "nope",
    ] {
        let answer = manifest(&registry, "environment", tag);
        assert_eq!(answer.status, 404, "{tag}: {}", answer.text());
        let error = &answer.json()["errors"][0];
        assert_eq!(error["code"], "MANIFEST_UNKNOWN");
        let message = error["message"].as_str().expect("a text");
        assert!(
            message.contains("`trunk`") && message.contains(tag),
            "{message}"
        );
    }
    // What the branch has is evaluated without the environment and files of the server.
    let answer = manifest(&registry, "environment", "trunk");
    assert_eq!(answer.status, 200, "{}", answer.text());
    for image in ["throws", "shadow"] {
        let answer = manifest(&registry, image, "trunk");
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(!answer.text().contains(SECRET), "{}", answer.text());
    }
    let page = http::get(&registry.url("/")).text();
    assert!(!page.contains(SECRET) && !registry.log().contains(SECRET));
}

#[test]
#[ignore = "needs Nix and git: run make test"]
fn the_credentials_of_a_repository_are_not_logged() {
    // Nothing listens there.
    let registry = serve("http://me:hunter2@127.0.0.1:1/packages.git");
    let answer = manifest(&registry, "hello", "main");
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(
        answer.text().contains("http://127.0.0.1:1/packages.git"),
        "{}",
        answer.text()
    );
    let log = registry.log();
    assert!(log.contains("running git"), "{log}");
    let page = http::get(&registry.url("/")).text();
    for text in [log, page, answer.text()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// Runs `nixery build` on the repository.
fn build(mut nixery: Command, repository: &Repository, image: &str) -> Ran {
    run(nixery
        .args(["build", image, "--quiet", "--output", "store"])
        .args(["--pkgs-repo", &repository.url()])
        .arg("--storage-path")
        .arg(repository.folder.path().join("storage")))
}

#[track_caller]
fn assert_restricted(nixery: impl Fn() -> Command, repository: &Repository) {
    for image in ["hello", "hello:trunk", "environment:trunk"] {
        build(nixery(), repository, image).success();
    }
    let said = build(nixery(), repository, "shadow:trunk").failure();
    assert!(said.contains("forbidden in restricted mode"), "{said}");
    let proposed = format!("hello:{}", repository.proposed);
    let said = build(nixery(), repository, &proposed).failure();
    assert!(said.contains("`trunk`"), "{said}");
}

#[test]
#[ignore = "needs Nix and git: run make test"]
fn a_repository_is_evaluated_in_restricted_mode() {
    let nixery = || Command::new(program("nixery"));
    assert_restricted(nixery, &Repository::new());
}

#[test]
#[ignore = "needs Nix and debootstrap, makes a second Nix: run make test"]
fn a_repository_is_evaluated_in_restricted_mode_by_a_newer_nix() {
    let repository = Repository::new();
    let nixery = program("nixery");
    let in_second_nix = || {
        let mut command = Command::new(checkout().join("scripts/second-nix"));
        command
            .arg(checkout().join("target/demo/second-nix"))
            .args(["run", "--bind"])
            .arg(nixery.parent().expect("a folder"))
            .arg("--bind-rw")
            .arg(repository.folder.path())
            .arg(&nixery);
        command
    };
    assert_restricted(in_second_nix, &repository);
}
