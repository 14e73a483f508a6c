//! Garbage collection while images are built and pulled, and collectors that are killed.

use nixery_e2e::command::run;
use nixery_e2e::engines::{Bucket, FakeGcs, SeaweedFs};
use nixery_e2e::{Registry, RegistryOptions, program, pull_checked};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What is younger, or was used within it, stays. Far more than a pull takes here.
const GRACE: Duration = Duration::from_secs(10);
const GRACE_SETTING: (&str, &str) = ("NIXERY_GC_GRACE", "10s");

fn options(folder: &tempfile::TempDir, bucket: &Bucket) -> RegistryOptions {
    RegistryOptions::salted(folder)
        .on(bucket)
        .env(GRACE_SETTING.0, GRACE_SETTING.1)
}

/// All that outlives the request it was written for.
const KINDS: [&str; 4] = ["layers/", "manifests/", "builds/", "uses/"];

/// Objects of a kind, `layers/` for instance.
fn count(bucket: &Bucket, kind: &str) -> usize {
    bucket
        .list()
        .iter()
        .filter(|name| name.starts_with(kind))
        .count()
}

#[test]
#[ignore = "needs Nix and SeaweedFS, takes 60 s: run make test"]
fn pulls_and_builds_go_on_while_a_collector_drops_all_it_may() {
    let engine = SeaweedFs::shared();
    let (folder, bucket) = (tempfile::tempdir().unwrap(), engine.bucket());
    let options = options(&folder, &bucket);
    let servers = [Registry::start(options.clone()), Registry::start(options)];
    let over = AtomicBool::new(false);
    let (collections, pulls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let collect = || servers[0].nixery(&["gc", "--max-unused", "1s"]);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                collect().success();
                collections.fetch_add(1, Ordering::SeqCst);
            }
        });
        let clients: Vec<_> = (0..3)
            .map(|client| {
                let (servers, pulls) = (&servers, &pulls);
                scope.spawn(move || {
                    let end = Instant::now() + 3 * GRACE;
                    let mut round = client;
                    while Instant::now() < end {
                        // One image that is always in use, and others that come, go, and come
                        // again.
                        let server = &servers[round % 2];
                        pull_checked(server, "fresh-1/hello");
                        pull_checked(server, &format!("fresh-{}/hello", round % 12 + 2));
                        pulls.fetch_add(2, Ordering::SeqCst);
                        round += 1;
                    }
                })
            })
            .collect();
        let clients: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        over.store(true, Ordering::SeqCst);
        collector.join().unwrap();
        assert!(clients.iter().all(Result::is_ok), "a pull broke");
    });
    println!("{pulls:?} pulls, {collections:?} collections");
    servers[0].verify();

    // The policy says that all of it goes, now that nobody asks for anything.
    let deadline = Instant::now() + 12 * GRACE;
    while KINDS.iter().any(|kind| count(&bucket, kind) > 0) {
        assert!(
            Instant::now() < deadline,
            "still there: {:?}",
            bucket.list()
        );
        std::thread::sleep(Duration::from_secs(1));
        collect().success();
    }
    pull_checked(&servers[1], "fresh-1/hello");
    servers[1].verify();
}

#[test]
#[ignore = "needs Nix and SeaweedFS: run make test"]
fn what_the_policy_keeps_stays() {
    let engine = SeaweedFs::shared();
    let (folder, bucket) = (tempfile::tempdir().unwrap(), engine.bucket());
    let registry = Registry::start(options(&folder, &bucket).env(GRACE_SETTING.0, "1s"));
    pull_checked(&registry, "fresh-1/hello");
    let before = bucket.list();
    std::thread::sleep(Duration::from_secs(3));
    registry.nixery(&["gc", "--max-unused", "1h"]).success();
    let after = bucket.list();
    let kept = |names: &[String], kind: &str| -> Vec<String> {
        names
            .iter()
            .filter(|name| name.starts_with(kind))
            .cloned()
            .collect()
    };
    for kind in ["layers/", "manifests/", "builds/"] {
        assert_eq!(kept(&before, kind), kept(&after, kind), "{kind}");
    }
    // A dry run says what it would drop and drops nothing.
    let said = registry.nixery(&["gc", "--max-unused", "1s", "--dry-run"]);
    assert!(!said.success().is_empty());
    assert_eq!(kept(&bucket.list(), "layers/"), kept(&before, "layers/"));
    registry.verify();
}

#[test]
#[ignore = "needs Nix and SeaweedFS, takes 30 s: run make test"]
fn a_collector_killed_at_any_moment_does_no_harm() {
    const MOMENTS: u32 = 6;
    let engine = SeaweedFs::shared();
    let (folder, bucket) = (tempfile::tempdir().unwrap(), engine.bucket());
    let options = options(&folder, &bucket).env(GRACE_SETTING.0, "1s");
    let registry = Registry::start(options.clone());
    for number in 1..=6 {
        pull_checked(&registry, &format!("fresh-{number}/hello"));
    }
    let mut interrupted = 0;
    for moment in 1..=MOMENTS {
        std::thread::sleep(Duration::from_millis(1500));
        let mut collector = Command::new(program("nixery"))
            .args(["gc", "--max-unused", "1s"])
            .envs(
                options
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(40) * moment * moment);
        let _ = collector.kill();
        interrupted += u32::from(collector.wait().unwrap().signal() == Some(9));
        registry.verify();
        // Nothing is promised that is not there.
        pull_checked(&registry, &format!("fresh-{moment}/hello"));
    }
    assert!(interrupted >= 2, "hardly any collector was interrupted");
    // The next collector is not stopped by the dead ones, once their lease has run out.
    let deadline = Instant::now() + Duration::from_secs(120);
    while count(&bucket, "layers/") > 0 {
        assert!(
            Instant::now() < deadline,
            "still there: {:?}",
            bucket.list()
        );
        std::thread::sleep(Duration::from_secs(1));
        registry.nixery(&["gc", "--max-unused", "1s"]).success();
    }
}

/// The emulator is one: nothing keeps two collectors apart there.
#[test]
#[ignore = "needs fake-gcs-server: run make test"]
fn a_store_that_does_not_create_exclusively_is_warned_of() {
    let engine = FakeGcs::shared();
    let bucket = engine.bucket();
    let collect = |more: &[&str]| {
        let mut command = Command::new(program("nixery"));
        command.args(["gc", "--max-unused", "30d"]).args(more);
        let ran = run(command.envs(bucket.environment()));
        let warned = ran.stderr.contains("cannot create objects exclusively");
        ran.success();
        warned
    };
    assert!(collect(&[]));
    assert!(!collect(&["--dry-run"]), "nothing is deleted");
    assert_eq!(bucket.list(), Vec::<String>::new(), "nothing is left");
}
