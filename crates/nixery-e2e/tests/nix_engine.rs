//! Nix distributes the work: remote builders, binary caches, a daemon, and a store in another
//! place.

use nixery_e2e::clients::{skopeo_digest, skopeo_pull};
use nixery_e2e::command::run;
use nixery_e2e::{Registry, RegistryOptions, demo_set, wait_until};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A package set with one package that no store has, and the demo set for the rest of an image.
fn fresh_package(folder: &TempDir) -> (PathBuf, String) {
    let packages = folder.path().join("packages");
    std::fs::create_dir(&packages).expect("a new folder");
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_nanos();
    let name = format!("engine-{time}-{}", std::process::id());
    let code = format!(
        r#"{{ system ? builtins.currentSystem, ... }}:
let demo = import {demo} {{ inherit system; }}; in
demo // {{
  fresh = derivation {{
    name = "{name}";
    system = builtins.currentSystem;
    builder = "${{demo.bashInteractive}}/bin/bash";
    PATH = "${{demo.coreutils}}/bin";
    args = [ "-euc" "mkdir -p $out/share; echo {name} > $out/share/{name};" ];
  }};
}}
"#,
        demo = demo_set().display()
    );
    std::fs::write(packages.join("default.nix"), code).expect("a new file");
    (packages, name)
}

/// `NIX_CONFIG` of this test run with more lines; the last line of a name counts.
fn nix_config(lines: &str) -> String {
    format!(
        "{}\n{lines}",
        std::env::var("NIX_CONFIG").unwrap_or_default()
    )
}

/// A registry on a package set, with one variable more.
fn serve(packages: PathBuf, variable: &str, value: &str) -> Registry {
    let options = RegistryOptions {
        packages,
        ..RegistryOptions::demo()
    };
    Registry::start(options.env(variable, value))
}

fn nix(store: &str, arguments: &[&str]) -> String {
    let features = ["--extra-experimental-features", "nix-command"];
    run(Command::new("nix")
        .args(features)
        .args(arguments)
        .args(["--store", store]))
    .success()
}

/// The path of that name in a store, and whether the store itself built it: not so if it was copied
/// from another.
fn path_in(store: &str, name: &str) -> Option<(String, bool)> {
    let all: Value =
        serde_json::from_str(&nix(store, &["path-info", "--all", "--json"])).expect("JSON");
    // A list in old versions of Nix, an object in new ones.
    let mut paths = match &all {
        Value::Array(list) => list
            .iter()
            .map(|info| (info["path"].as_str().expect("a path").to_owned(), info))
            .collect::<Vec<_>>(),
        Value::Object(map) => map
            .iter()
            .map(|(path, info)| (path.clone(), info))
            .collect(),
        other => panic!("neither a list nor an object: {other}"),
    };
    paths.retain(|(path, _)| path.ends_with(name));
    assert!(paths.len() < 2, "{paths:?}");
    let (path, info) = paths.pop()?;
    Some((path, info["ultimate"] == true))
}

/// Pulls the image of the fresh package, which must hold its file.
fn pull_fresh(registry: &Registry, name: &str) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let image = skopeo_pull(&registry.reference("fresh"), folder.path());
    let tree = image.unpack();
    let file = tree.join("share").join(name);
    let target = std::fs::read_link(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    let inside = tree.join(target.strip_prefix("/").expect("an absolute link"));
    let text = std::fs::read_to_string(&inside).expect("the file is in a layer");
    assert_eq!(text.trim(), name);
}

#[test]
#[ignore = "needs Nix with a sandbox, and skopeo: run make test"]
fn a_remote_builder_builds() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (packages, name) = fresh_package(&folder);
    // A store of its own in another folder: Nix treats it as it treats a machine behind ssh-ng.
    let builder = format!("local?root={}", folder.path().join("builder").display());
    let config = nix_config(&format!(
        "max-jobs = 0\nbuilders = {builder} {}-linux - 2 1",
        std::env::consts::ARCH
    ));
    let registry = serve(packages, "NIX_CONFIG", &config);
    pull_fresh(&registry, &name);

    let there = path_in(&builder, &name).expect("the builder has what it built");
    let here = path_in("auto", &name).expect("the registry's store has it, too");
    assert_eq!((there.1, here.1), (true, false), "{there:?}, {here:?}");
    registry.verify();
    writable(folder.path());
}

#[test]
#[ignore = "needs Nix with a sandbox, and skopeo: run make test"]
fn a_binary_cache_saves_the_build() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (packages, name) = fresh_package(&folder);
    // Built in another store, then put into a cache.
    let other = format!("local?root={}", folder.path().join("other").display());
    let cache = format!("file://{}", folder.path().join("cache").display());
    let expression = format!("(import {} {{ }}).fresh", packages.display());
    let derivation = run(Command::new("nix-instantiate").args([
        "--expr",
        &expression,
        "--store",
        &other,
        "--add-root",
        folder.path().join("derivation").to_str().expect("UTF-8"),
    ]))
    .success();
    let derivation = std::fs::read_link(derivation.trim()).expect("a GC root");
    let built = run(Command::new("nix-store")
        .arg("--realise")
        .arg(&derivation)
        .args(["--store", &other]))
    .success();
    nix(
        &other,
        &["copy", "--no-check-sigs", "--to", &cache, built.trim()],
    );
    assert_eq!(path_in("auto", &name), None);

    let config = nix_config(&format!("substituters = {cache}\nrequire-sigs = false"));
    let registry = serve(packages, "NIX_CONFIG", &config);
    pull_fresh(&registry, &name);
    let here = path_in("auto", &name).expect("it is in the registry's store");
    assert_eq!(here, (built.trim().to_owned(), false), "fetched, not built");
    registry.verify();
    writable(folder.path());
}

#[test]
#[ignore = "needs Nix with a sandbox, and skopeo: run make test"]
fn a_store_in_another_folder_gives_the_same_image() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let root = folder.path().join("root");
    let store = format!("local?root={}", root.display());
    let elsewhere =
        Registry::start(RegistryOptions::demo().env("NIXERY_NIX_STORE", store.as_str()));
    let here = Registry::on_demo_set();
    assert_eq!(
        skopeo_digest(&elsewhere.reference("hello")),
        skopeo_digest(&here.reference("hello"))
    );
    let (path, _) = path_in(&store, "-hello-2.10").expect("hello was built in that store");
    assert!(root.join(&path[1..]).join("bin/hello").exists());
    elsewhere.verify();
    writable(folder.path());
}

#[test]
#[ignore = "needs Nix: run make test"]
fn a_store_in_another_folder_must_be_named() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let config = nix_config(&format!(
        "store = local?root={}",
        folder.path().join("root").display()
    ));
    let ran = run(Command::new(nixery_e2e::program("nixery-server"))
        .env("PORT", "0")
        .env("NIXERY_PKGS_PATH", demo_set())
        .env("STORAGE_PATH", folder.path().join("storage"))
        .env("NIX_CONFIG", config));
    let said = ran.failure();
    assert!(
        said.contains("set NIXERY_NIX_STORE (--nix-store) to the store"),
        "{said}"
    );
    writable(folder.path());
}

/// A Nix daemon on a socket of its own, killed when dropped.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(socket: &Path, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log).expect("a new file");
        let child = Command::new("nix-daemon")
            .env("NIX_DAEMON_SOCKET_PATH", socket)
            .env_remove("NIX_REMOTE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("nix-daemon is part of Nix");
        wait_until("the daemon listens", || socket.exists());
        Self { child, log }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs Nix and skopeo: run make test"]
fn a_daemon_builds() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (packages, name) = fresh_package(&folder);
    let socket = folder.path().join("socket");
    let daemon = Daemon::start(&socket, folder.path().join("daemon.log"));
    let registry = serve(
        packages,
        "NIX_REMOTE",
        &format!("unix://{}", socket.display()),
    );
    pull_fresh(&registry, &name);
    let log = std::fs::read_to_string(&daemon.log).expect("the daemon's log");
    assert!(log.contains("accepted connection"), "{log}");
    assert_eq!(path_in("auto", &name).map(|(_, built)| built), Some(true));
}

/// Lets the scratch folder be removed: a Nix store in it is read-only.
fn writable(folder: &Path) {
    run(Command::new("chmod").args(["-R", "u+w"]).arg(folder)).success();
}
