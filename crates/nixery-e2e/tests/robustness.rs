//! One build for many clients, clients that vanish, and a server that is killed at any moment.

use nixery_e2e::{NixCalls, Registry, RegistryOptions, http, wait_until};
use std::process::{Command, Stdio};
use std::time::Instant;

#[test]
#[ignore = "needs Nix: run make test"]
fn fifty_clients_cause_one_build() {
    let folder = tempfile::tempdir().unwrap();
    let calls = NixCalls::new();
    let registry = Registry::start(RegistryOptions::salted(&folder).env("PATH", &calls.path()));
    let before = calls.count("--realise");
    let digests: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    let answer = registry.manifest("slow-5");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answer.header("docker-content-digest").unwrap().to_owned()
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
    assert_eq!(calls.count("--realise") - before, 1);
}

#[test]
#[ignore = "needs Nix: run make test"]
fn a_client_that_vanishes_leaves_the_build_running() {
    let folder = tempfile::tempdir().unwrap();
    let calls = NixCalls::new();
    let registry = Registry::start(RegistryOptions::salted(&folder).env("PATH", &calls.path()));
    let before = calls.count("--realise");
    let url = registry.manifest_url("slow-5");
    let mut client = Command::new("curl")
        .args(["-s", &url])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the build runs", || calls.count("--realise") > before);
    client.kill().unwrap();
    client.wait().unwrap();

    let answer = registry.manifest("slow-5");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        calls.count("--realise") - before,
        1,
        "the second request joined the build"
    );
}

#[test]
#[ignore = "needs Nix: run make test"]
fn killed_at_ten_moments_the_store_stays_sound() {
    let folder = tempfile::tempdir().unwrap();
    let mut registry = Registry::start(RegistryOptions::salted(&folder));
    // How long a whole build takes, so that the kills fall all over it.
    let started = Instant::now();
    let reference = registry.manifest("many-files/big-file/slow-1");
    assert_eq!(reference.status, 200, "{}", reference.text());
    let whole = started.elapsed();

    for moment in 1..=10_u32 {
        // Each round starts from an empty store, so that there is something to interrupt.
        registry.kill();
        std::fs::remove_dir_all(registry.storage()).unwrap();
        registry.kill_and_restart();
        let url = registry.manifest_url("many-files/big-file/slow-1");
        let mut client = Command::new("curl")
            .args(["-sL", &url])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * moment / 11);
        registry.kill();
        client.wait().unwrap();
        registry.verify();

        registry.kill_and_restart();
        let answer = registry.manifest("many-files/big-file/slow-1");
        assert_eq!(answer.status, 200, "after kill {moment}: {}", answer.text());
        assert_eq!(answer.body, reference.body, "after kill {moment}");
        registry.verify();
        assert_nothing_left_in_spool(&registry);
    }
}

/// No half-written file is under a final name (verify saw to that) nor left over in the spool.
fn assert_nothing_left_in_spool(registry: &Registry) {
    let mut left = Vec::new();
    let mut open = vec![registry.storage()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let final_name = ["layers", "manifests", "builds"]
                .iter()
                .any(|kind| folder.ends_with(kind));
            if entry.file_type().unwrap().is_dir() {
                open.push(path);
            } else if !final_name
                && entry.metadata().map(|metadata| metadata.len()).unwrap_or(0) > 1 << 20
            {
                left.push(path);
            }
        }
    }
    assert!(left.is_empty(), "left over: {left:?}");
}

#[test]
#[ignore = "needs Nix: run make test"]
fn a_truncated_blob_is_never_served_and_heals() {
    let mut registry = Registry::on_demo_set();
    let manifest = registry.manifest("hello").json();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let blob = registry
        .storage()
        .join("layers")
        .join(digest.trim_start_matches("sha256:"));
    let whole = std::fs::read(&blob).unwrap();
    std::fs::write(&blob, &whole[..whole.len() / 2]).unwrap();

    let url = registry.url(&format!("/v2/hello/blobs/{digest}"));
    assert_ne!(http::get(&url).status, 200, "half a blob was served");
    // After a restart nothing is remembered; the next manifest request notices and repairs.
    registry.kill_and_restart();
    assert_eq!(registry.manifest("hello").json(), manifest);
    let answer = http::get(&url);
    assert_eq!(answer.status, 200);
    assert!(answer.body == whole, "the repaired blob differs");
}
