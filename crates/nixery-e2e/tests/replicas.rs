//! Several servers on one bucket: one build for all, and none that hangs when its builder dies.

use nixery_e2e::engines::{Bucket, SeaweedFs};
use nixery_e2e::{NixCalls, Registry, RegistryOptions, http, pull_checked, wait_until};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a dead server's builds wait for before another takes them over.
const LEASE: Duration = Duration::from_secs(4);

fn replicas(folder: &TempDir, bucket: &Bucket, calls: &NixCalls) -> [Registry; 2] {
    let options = RegistryOptions::salted(folder)
        .on(bucket)
        .env("PATH", &calls.path())
        .env("NIXERY_LEASE_SECONDS", &LEASE.as_secs().to_string());
    [Registry::start(options.clone()), Registry::start(options)]
}

#[test]
#[ignore = "needs Nix and SeaweedFS: run make test"]
fn forty_pulls_of_four_new_images_over_two_servers_are_four_builds() {
    let engine = SeaweedFs::shared();
    let (folder, bucket, calls) = (
        tempfile::tempdir().unwrap(),
        engine.bucket(),
        NixCalls::new(),
    );
    let servers = replicas(&folder, &bucket, &calls);
    let before = calls.count("--realise");
    let images = [
        "fresh-1/slow-3",
        "fresh-2/slow-5",
        "fresh-3/hello",
        "fresh-4",
    ];
    let pulls: Vec<(&str, String)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..40)
            .map(|number| {
                // Each image from each server, five times.
                let (image, server) = (images[number % 4], &servers[number / 4 % 2]);
                scope.spawn(move || (image, pull_checked(server, image)))
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    assert_eq!(calls.count("--realise") - before, 4, "Nix builds");
    let mut digests: BTreeMap<&str, &str> = BTreeMap::new();
    for (image, digest) in &pulls {
        assert_eq!(
            digests.entry(image).or_insert(digest),
            digest,
            "{image} is not the same everywhere"
        );
    }
    assert_eq!(digests.len(), 4);
    servers[0].verify();
}

/// How a server stops to work on what it began.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// As by `kill -9`. The other server, on the same machine, can see it.
    Killed,
    /// It stands still: all that the other server can see is that the lease is not renewed.
    Frozen,
}

/// One server begins an image and stops in mid-build; the other, asked for the same image, makes
/// it.
fn the_other_server_takes_over(end: End) {
    const IMAGE: &str = "fresh-5/slow-10";
    const BUILD: Duration = Duration::from_secs(10);
    let engine = SeaweedFs::shared();
    let (folder, bucket, calls) = (
        tempfile::tempdir().unwrap(),
        engine.bucket(),
        NixCalls::new(),
    );
    let [mut first, second] = replicas(&folder, &bucket, &calls);
    let before = calls.count("--realise");
    let mut client = Command::new("curl")
        .args(["-sL", &first.manifest_url(IMAGE)])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the first server builds", || {
        calls.count("--realise") > before
    });

    let digest = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pull_checked(&second, IMAGE));
        wait_until("the second server waits for the first", || {
            let page = http::get(&second.url("/")).text();
            page.contains("for another server")
        });
        assert_eq!(calls.count("--realise") - before, 1);
        match end {
            End::Killed => first.kill(),
            End::Frozen => first.signal("STOP"),
        }
        let stopped = Instant::now();
        let digest = waiting.join().unwrap();
        let limit = LEASE + BUILD + Duration::from_secs(10);
        assert!(stopped.elapsed() < limit, "took {:?}", stopped.elapsed());
        digest
    });
    assert_eq!(
        calls.count("--realise") - before,
        2,
        "one for each server that began"
    );

    // What one server made, another serves without Nix building anything.
    match end {
        End::Killed => first.kill_and_restart(),
        End::Frozen => first.signal("CONT"),
    }
    let before = calls.count("--realise");
    assert_eq!(pull_checked(&first, IMAGE), digest);
    assert_eq!(calls.count("--realise") - before, 0);
    client.wait().unwrap();
    second.verify();
}

#[test]
#[ignore = "needs Nix and SeaweedFS: run make test"]
fn a_server_killed_while_it_builds_is_replaced() {
    the_other_server_takes_over(End::Killed);
}

#[test]
#[ignore = "needs Nix and SeaweedFS: run make test"]
fn a_server_that_hangs_while_it_builds_is_replaced_after_the_lease_time() {
    the_other_server_takes_over(End::Frozen);
}
