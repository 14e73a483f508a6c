//! Several builders on one store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nixery_state::lease::LEASES;
use nixery_state::testing::faulty::FaultyStorage;
use nixery_storage::{FilesystemStorage, MemoryStorage, Storage};
use rstest::rstest;
use tokio::time::{Instant, sleep};

use super::{build, fail};
use crate::config::{BuilderConfig, DEFAULT_LEASE_TTL};
use crate::handle::BuildHandle;
use crate::progress::Phase;
use crate::testing::{CountingStorage, Fixture, pinned, request};

/// How much longer a server may take that waits for another one.
const A_LITTLE: Duration = Duration::from_secs(2);

async fn fixture(storage: &Arc<dyn Storage>, change: impl FnOnce(&mut BuilderConfig)) -> Fixture {
    let storage = CountingStorage::over(Arc::clone(storage));
    Fixture::over(Arc::new(storage), change).await
}

async fn reaches(handle: &BuildHandle, phase: Phase) {
    let mut progress = handle.progress();
    let reached = progress.wait_for(|progress| progress.phase == phase).await;
    reached.expect("runs");
}

/// Starts an image that is being built until its Nix gets a permit.
async fn begin(fixture: &Fixture, name: &str) -> BuildHandle {
    fixture.nix.gate.forget_permits(usize::MAX);
    let handle = fixture.builder.start(request(name));
    reaches(&handle, Phase::Realise).await;
    handle
}

fn moving(_: &mut BuilderConfig) {}

#[rstest]
#[case::moving(moving, 1)]
// The second server does not even evaluate.
#[case::pinned(pinned, 0)]
#[tokio::test(start_paused = true)]
async fn two_builders_build_an_image_once(
    #[case] source: fn(&mut BuilderConfig),
    #[case] evaluations: usize,
) {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let narrow = |config: &mut BuilderConfig| {
        source(config);
        (config.max_evaluations, config.max_builds) = (1, 1);
    };
    let (here, there) = (
        fixture(&storage, narrow).await,
        fixture(&storage, narrow).await,
    );
    let first = begin(&here, "git").await;
    let second = there.builder.start(request("git"));
    reaches(&second, Phase::Waiting).await;
    // Other images are built meanwhile: a waiting build holds no permit.
    build(&there, "hello").await;

    sleep(Duration::from_secs(3600)).await;
    assert_eq!(second.progress().borrow().phase, Phase::Waiting);
    here.nix.gate.add_permits(1);
    let begun = Instant::now();
    let built = first.wait().await.expect("builds");
    let found = second.wait().await.expect("finds it");
    assert!(begun.elapsed() < A_LITTLE);
    assert!(found.stats.from_cache && !built.stats.from_cache);
    assert_eq!(found.oci, built.oci);
    assert!(
        second
            .log()
            .text()
            .contains("another server is building this image")
    );
    assert_eq!(there.realisations(), 1, "the other image");
    assert_eq!(there.evaluations(), 1 + evaluations);
}

#[tokio::test(start_paused = true)]
async fn another_builder_takes_over_within_the_lease_time() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let lifeline = FaultyStorage::new(Arc::clone(&storage));
    let mortal: Arc<dyn Storage> = Arc::<FaultyStorage>::clone(&lifeline);
    let (here, there) = (
        fixture(&mortal, moving).await,
        fixture(&storage, moving).await,
    );
    let _first = begin(&here, "git").await;
    let second = there.builder.start(request("git"));
    reaches(&second, Phase::Waiting).await;

    lifeline.dead.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let image = second.wait().await.expect("builds");
    assert!(begun.elapsed() < DEFAULT_LEASE_TTL + A_LITTLE);
    assert!(!image.stats.from_cache);
    assert_eq!(there.realisations(), 1);
    assert!(second.log().text().contains("building it here"));
}

#[tokio::test(start_paused = true)]
async fn others_start_at_once_when_a_builder_is_stopped() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let (here, there) = (
        fixture(&storage, moving).await,
        fixture(&storage, moving).await,
    );
    let _first = begin(&here, "git").await;
    let second = there.builder.start(request("git"));
    reaches(&second, Phase::Waiting).await;
    here.builder.release_leases().await;
    let begun = Instant::now();
    second.wait().await.expect("builds");
    assert!(begun.elapsed() < A_LITTLE);
}

#[tokio::test(start_paused = true)]
async fn a_failed_build_is_tried_by_one_server_after_the_other() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let benches = [
        fixture(&storage, moving).await,
        fixture(&storage, moving).await,
        fixture(&storage, moving).await,
    ];
    for fixture in &benches {
        fixture.nix.gate.forget_permits(usize::MAX);
    }
    let handles = benches
        .iter()
        .map(|fixture| fixture.builder.start(request("broken")));
    let handles: Vec<_> = handles.collect();
    for tried in 1..=benches.len() {
        sleep(Duration::from_secs(60)).await;
        let realisations: usize = benches.iter().map(Fixture::realisations).sum();
        assert_eq!(realisations, tried, "no two at once");
        for fixture in benches.iter().filter(|fixture| fixture.realisations() == 1) {
            fixture.nix.gate.add_permits(1);
        }
    }
    for handle in handles {
        handle.wait().await.expect_err("fails everywhere");
    }
}

#[tokio::test(start_paused = true)]
async fn builds_succeed_if_leases_cannot_be_taken() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let faulty = FaultyStorage::new(Arc::clone(&storage));
    let shared: Arc<dyn Storage> = Arc::<FaultyStorage>::clone(&faulty);
    let (here, there) = (
        fixture(&shared, moving).await,
        fixture(&shared, moving).await,
    );
    faulty.leases_fail.store(true, Ordering::SeqCst);
    let alone = build(&here, "git").await;
    assert!(!alone.stats.from_cache);

    // The leases fail while one server builds and the other waits: the image may be built twice.
    faulty.leases_fail.store(false, Ordering::SeqCst);
    let first = begin(&here, "hello").await;
    let second = there.builder.start(request("hello"));
    reaches(&second, Phase::Waiting).await;
    faulty.leases_fail.store(true, Ordering::SeqCst);
    let image = second.wait().await.expect("builds");
    here.nix.gate.add_permits(1);
    assert_eq!(first.wait().await.expect("builds").oci, image.oci);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_create_exclusively_has_no_leases() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let plain = FaultyStorage::new(Arc::clone(&storage));
    plain.not_exclusive.store(true, Ordering::SeqCst);
    let plain: Arc<dyn Storage> = plain;
    let (here, there) = (fixture(&plain, moving).await, fixture(&plain, moving).await);
    let first = begin(&here, "git").await;
    build(&there, "git").await;
    here.nix.gate.add_permits(1);
    first.wait().await.expect("builds");
}

#[tokio::test(start_paused = true)]
async fn with_a_lease_time_of_zero_servers_do_not_wait() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let off = |config: &mut BuilderConfig| config.lease_ttl = Duration::ZERO;
    let (here, there) = (fixture(&storage, off).await, fixture(&storage, off).await);
    let first = begin(&here, "git").await;
    build(&there, "git").await;
    here.nix.gate.add_permits(1);
    first.wait().await.expect("builds");
}

/// An idle server builds an image that is queued at a busy one.
#[tokio::test(start_paused = true)]
async fn a_queued_image_is_not_reserved() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let narrow = |config: &mut BuilderConfig| config.max_builds = 1;
    let (here, there) = (
        fixture(&storage, narrow).await,
        fixture(&storage, narrow).await,
    );
    let long = begin(&here, "long").await;
    let queued = here.builder.start(request("git"));
    sleep(Duration::from_secs(60)).await;
    assert!(!build(&there, "git").await.stats.from_cache);
    here.nix.gate.add_permits(1);
    long.wait().await.expect("builds");
    assert!(queued.wait().await.expect("finds it").stats.from_cache);
}

/// In real time and with real files, two servers build many images, each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_a_file_system_two_builders_share_the_work() {
    let folder = tempfile::tempdir().expect("temp dir");
    let open =
        || -> Arc<dyn Storage> { Arc::new(FilesystemStorage::open(folder.path()).expect("opens")) };
    let (here, there) = (
        fixture(&open(), moving).await,
        fixture(&open(), moving).await,
    );
    let names = ["a", "b", "c", "d"];
    let handles: Vec<_> = (0..40)
        .map(|n| {
            let fixture = if n % 2 == 0 { &here } else { &there };
            (n / 2 % 4, fixture.builder.start(request(names[n / 2 % 4])))
        })
        .collect();
    let mut digests = std::collections::BTreeSet::new();
    for (name, handle) in handles {
        let image = handle.wait().await.expect("builds");
        digests.insert((name, image.oci.digest));
    }
    assert_eq!(digests.len(), names.len());
    assert_eq!(here.realisations() + there.realisations(), names.len());
    here.builder.drain().await;
    there.builder.drain().await;
    let leases = open().list(LEASES).await;
    let left = futures::StreamExt::count(leases.expect("lists")).await;
    assert_eq!(left, 0, "given back");
    fail(&here, "missing").await;
}
