//! Whole collections of stores that nobody else uses.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nixery_manifest::Digest;
use nixery_storage::{Capacity, Key, MemoryStorage, Space, Storage};
use rstest::rstest;
use tokio::time::{Instant, advance};

use crate::gc::{DropReason, GcError, GcMode, GcPolicy, collect, collect_until};
use crate::lease::{LEASES, Leases};
use crate::marks::put_mark;
use crate::record::{BUILDS, MANIFESTS};
use crate::testing::faulty::FaultyStorage;
use crate::testing::stepped::Stepped;
use crate::testing::world::{
    DAY, GRACE, Made, RETENTIONS, census, is_there, memory, put, sweep, unused_for,
};

#[tokio::test(start_paused = true)]
async fn a_stopped_collection_releases_its_lease() {
    let storage = memory();
    Made::new("git", &["a", "b"]).store(&*storage).await;
    let lease = Key::new(LEASES, Digest::of(b"gc"));
    let slow = FaultyStorage::slow(storage.clone(), Duration::from_millis(100), 1);
    let taken = async {
        while !is_there(&*storage, lease).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let policy = unused_for(DAY);
    let stopped = collect_until(slow, &policy, &RETENTIONS, GcMode::Sweep, |_| (), taken).await;
    assert!(matches!(stopped, Err(GcError::Stopped)), "{stopped:?}");
    assert!(!is_there(&*storage, lease).await);

    // A collection that waits for another one stops waiting.
    let other = Leases::new(storage.clone(), Duration::from_secs(15), true);
    let _other = other.acquire("gc").await.expect("works");
    let begun = Instant::now();
    let soon = tokio::time::sleep(Duration::from_secs(2));
    let all = collect_until(
        storage.clone(),
        &policy,
        &RETENTIONS,
        GcMode::Sweep,
        |_| (),
        soon,
    )
    .await;
    assert!(matches!(all, Err(GcError::Stopped)), "{all:?}");
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unused_image_is_dropped_and_its_blobs_are_deleted_after_the_grace_period() {
    let storage = memory();
    let (old, new) = (
        Made::new("old", &["shared", "a"]),
        Made::new("new", &["shared", "b"]),
    );
    old.store(&*storage).await;
    advance(2 * DAY).await;
    new.store(&*storage).await;
    let policy = unused_for(DAY);

    let dry = collect(
        storage.clone(),
        &policy,
        &RETENTIONS,
        GcMode::DryRun,
        |_| (),
    )
    .await
    .expect("works");
    assert_eq!((dry.dropped_images(), dry.images), (1, 2));
    assert!(
        is_there(&*storage, Key::new(MANIFESTS, old.key)).await,
        "a dry run only looks"
    );

    let first = sweep(&storage, &policy).await.expect("works");
    assert_eq!(first.dropped[0].reason, DropReason::Unused);
    assert_eq!(first.dropped[0].name, "git");
    assert_eq!(first.dropped, dry.dropped);
    assert!(!is_there(&*storage, Key::new(MANIFESTS, old.key)).await);
    assert!(
        old.is_whole(&*storage).await,
        "for those who are pulling it"
    );
    assert_eq!(first.freed_bytes, 0);
    assert_eq!(first.later_bytes, first.dropped[0].frees);

    let again = sweep(&storage, &policy).await.expect("works");
    assert_eq!((again.dropped_images(), again.deleted_blobs), (0, 0));

    advance(GRACE + Duration::from_secs(1)).await;
    let last = sweep(&storage, &policy).await.expect("works");
    assert_eq!(last.freed_bytes, first.later_bytes);
    assert_eq!((last.deleted_blobs, last.later_bytes), (3, 0));
    assert!(new.is_whole(&*storage).await);
    let census = census(&*storage).await;
    assert_eq!(
        (census["layers"], census["manifests"], census["builds"]),
        (4, 1, 2),
        "{census:?}"
    );
    assert_eq!((census["uses"], census["leases"]), (0, 0), "{census:?}");
}

/// The clock of this machine is decades ahead of the store's: it must not be used.
#[tokio::test(start_paused = true)]
async fn simultaneous_collections_use_the_clock_of_the_store() {
    let storage = memory();
    let policy = unused_for(DAY);
    let look = |storage| collect(storage, &policy, &RETENTIONS, GcMode::DryRun, |_| ());
    let expected = look(Stepped::new(storage.clone()))
        .await
        .expect("works")
        .now;
    for steps in 0..10 {
        let mut first = std::pin::pin!(look(Stepped::new(storage.clone())));
        for _ in 0..steps {
            assert!(futures::poll!(&mut first).is_pending());
        }
        let second = look(Stepped::new(storage.clone()));
        let (first, second) = futures::join!(first, second);
        for report in [first, second] {
            assert_eq!(report.expect("works").now, expected, "{steps} steps ahead");
        }
    }
}

/// The operator wants to know then what a collection would free.
#[tokio::test(start_paused = true)]
async fn a_full_store_allows_a_dry_run_and_no_sweep() {
    let storage = memory();
    Made::new("old", &["a"]).store(&*storage).await;
    let full = FaultyStorage::new(storage);
    full.full.store(true, Ordering::SeqCst);
    let policy = unused_for(DAY);
    let dry = collect(full.clone(), &policy, &RETENTIONS, GcMode::DryRun, |_| ()).await;
    // By this machine's clock, which is decades ahead.
    assert_eq!(dry.expect("looks").dropped_images(), 1);
    let error = collect(full, &policy, &RETENTIONS, GcMode::Sweep, |_| ()).await;
    let error = error.expect_err("no room for the lease");
    let source = std::error::Error::source(&error).expect("a reason");
    assert!(source.to_string().contains("no space left"), "{source}");
}

#[tokio::test(start_paused = true)]
async fn a_use_mark_keeps_an_image() {
    let storage = memory();
    let image = Made::new("image", &["a"]);
    image.store(&*storage).await;
    advance(2 * DAY).await;
    put_mark(&*storage, image.digest()).await.expect("marked");
    advance(DAY / 2).await;
    let policy = unused_for(DAY);
    assert_eq!(
        sweep(&storage, &policy)
            .await
            .expect("works")
            .dropped_images(),
        0
    );
    let by_age = GcPolicy {
        max_age: Some(DAY),
        ..unused_for(DAY)
    };
    let dropped = sweep(&storage, &by_age).await.expect("works").dropped;
    assert_eq!(dropped[0].reason, DropReason::TooOld);
}

/// What is to be deleted after the grace period counts as free, so a second collection drops
/// nothing more.
#[tokio::test(start_paused = true)]
async fn images_keep_to_their_share_of_the_file_system() {
    let storage = memory();
    let images = ["a", "b", "c", "d"].map(|name| Made::new(name, &[&name.repeat(10_000)]));
    for image in &images {
        image.store(&*storage).await;
        advance(DAY).await;
    }
    let disk = FaultyStorage::new(Arc::<MemoryStorage>::clone(&storage));
    let policy = GcPolicy {
        max_share_percent: Some(80),
        grace: GRACE,
        ..GcPolicy::default()
    };
    let sweep = || {
        let storage = Arc::<FaultyStorage>::clone(&disk);
        collect(storage, &policy, &[], GcMode::Sweep, |_| ())
    };
    let report = sweep().await.expect("works");
    assert_eq!(report.dropped_images(), 0, "a store without a file system");

    // 40 kB are stored and 5 kB free: 36 kB, or three images, are 80 %.
    let capacity = |available| Capacity {
        total: 100_000,
        available,
    };
    let space = |bytes, files| Space {
        bytes: capacity(bytes),
        files: Some(capacity(files)),
    };
    *disk.space.lock().expect("not poisoned") = Some(space(5_000, 100));
    for drops in [1, 0] {
        let report = sweep().await.expect("works");
        assert_eq!(report.dropped_images(), drops);
        let oldest = Key::new(MANIFESTS, images[0].key);
        assert!(report.dropped.iter().all(|image| image.key == oldest));
    }
    advance(2 * GRACE).await;
    sweep().await.expect("deletes the blobs");
    // The three images have nine blobs, and no further file can be made: two images are left.
    *disk.space.lock().expect("not poisoned") = Some(space(100_000, 0));
    let report = sweep().await.expect("works");
    let dropped: Vec<_> = report.dropped.iter().map(|image| image.key).collect();
    assert_eq!(dropped, [Key::new(MANIFESTS, images[1].key)], "{report:?}");
    assert_eq!(report.dropped[0].reason, DropReason::TooMuch);
}

/// Kubernetes pins digests, and pulls them from new nodes when the tag is long forgotten.
#[tokio::test(start_paused = true)]
async fn a_manifest_that_is_still_served_by_digest_keeps_its_layers() {
    let storage = memory();
    let image = Made::new("image", &["a", "b"]);
    image.store(&*storage).await;
    storage
        .delete(&Key::new(MANIFESTS, image.key))
        .await
        .expect("deleted");
    for _ in 0..5 {
        advance(GRACE * 3 / 4).await;
        put_mark(&*storage, image.digest()).await.expect("marked");
        let report = sweep(&storage, &unused_for(DAY)).await.expect("works");
        assert_eq!(report.spared_blobs, 0, "they are not even in the plan");
        assert!(image.is_whole(&*storage).await);
    }
    advance(2 * GRACE).await;
    sweep(&storage, &unused_for(DAY)).await.expect("works");
    assert_eq!(census(&*storage).await["layers"], 0);
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_image_is_dropped() {
    let storage = memory();
    let image = Made::new("image", &["a", "b"]);
    image.store(&*storage).await;
    storage
        .delete(&Key::blob(Digest::of(b"a")))
        .await
        .expect("deleted");
    assert_eq!(
        sweep(&storage, &unused_for(9 * DAY))
            .await
            .expect("works")
            .dropped_images(),
        0,
        "too young"
    );
    advance(DAY).await;
    let report = sweep(&storage, &unused_for(9 * DAY)).await.expect("works");
    assert_eq!(report.dropped[0].reason, DropReason::Incomplete);
    assert_eq!(census(&*storage).await["manifests"], 0);
}

#[rstest]
#[case::newer(r#"{"version":3,"other":"shape"}"#, true, false)]
#[case::older_and_of_a_newer_architecture(
    r#"{"version":1,"architecture":"riscv64","oci":{"digest":"sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},"config":{"digest":"sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},"layers":[]}"#,
    true,
    true
)]
#[case::cut_off(r#"{"version":1,"oci"#, false, true)]
#[case::empty("", false, true)]
#[case::no_object("[1]", false, true)]
#[tokio::test(start_paused = true)]
async fn entries_of_other_programs(
    #[case] text: &'static str,
    #[case] stays: bool,
    #[case] collects: bool,
) {
    let storage = memory();
    let key = Key::new(MANIFESTS, Digest::of(b"key"));
    put(&*storage, key, text).await;
    put(&*storage, Key::blob(Digest::of(b"a")), "a").await;
    put(&*storage, Key::blob(Digest::of(b"orphan")), "orphan").await;
    sweep(&storage, &unused_for(9 * DAY)).await.expect("works");
    assert!(is_there(&*storage, key).await, "it is young");
    advance(DAY).await;
    let report = sweep(&storage, &unused_for(9 * DAY)).await.expect("works");
    assert_eq!(is_there(&*storage, key).await, stays);
    assert_eq!(report.newer_entries, u64::from(!collects));
    let orphan = is_there(&*storage, Key::blob(Digest::of(b"orphan"))).await;
    assert_eq!(orphan, !collects);
    assert_eq!(
        is_there(&*storage, Key::blob(Digest::of(b"a"))).await,
        stays
    );
}

/// The original keeps manifests under SHA-1 keys, and their copies among the blobs.
#[tokio::test(start_paused = true)]
async fn images_of_the_original_are_images() {
    let storage = memory();
    let image = Made::new("image", &["a"]);
    image.store(&*storage).await;
    storage
        .delete(&Key::new(MANIFESTS, image.key))
        .await
        .expect("deleted");
    let legacy = Key::legacy(MANIFESTS, [7; 20]);
    put(&*storage, legacy, image.manifest.clone()).await;
    let entry = format!(
        r#"{{"size":1,"digest":"{}","mediaType":"x"}}"#,
        Digest::of(b"gone")
    );
    put(&*storage, Key::legacy(BUILDS, [8; 20]), entry).await;
    advance(2 * DAY).await;
    let report = sweep(&storage, &unused_for(9 * DAY)).await.expect("works");
    assert_eq!((report.images, report.dropped_images()), (1, 0));
    assert!(image.is_whole(&*storage).await);
    assert!(
        !is_there(&*storage, Key::legacy(BUILDS, [8; 20])).await,
        "its blob does not exist"
    );
    let report = sweep(&storage, &unused_for(DAY)).await.expect("works");
    assert_eq!(report.dropped_images(), 1);
    advance(DAY).await;
    sweep(&storage, &unused_for(DAY)).await.expect("works");
    assert_eq!(census(&*storage).await.values().sum::<usize>(), 0);
}

#[tokio::test(start_paused = true)]
async fn useless_objects_are_deleted() {
    let storage = memory();
    put_mark(&*storage, Digest::of(b"gone"))
        .await
        .expect("marked");
    put(&*storage, Key::new(LEASES, Digest::of(b"some task")), "{}").await;
    put(&*storage, Key::new(BUILDS, Digest::of(b"key")), "no JSON").await;
    advance(GRACE / 2).await;
    sweep(&storage, &unused_for(DAY)).await.expect("works");
    assert_eq!(census(&*storage).await.values().sum::<usize>(), 3);
    advance(2 * DAY).await;
    let report = sweep(&storage, &unused_for(DAY)).await.expect("works");
    assert_eq!(report.tidied, 3);
    assert_eq!(census(&*storage).await.values().sum::<usize>(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_too_large_loses_the_least_recently_used_image() {
    let storage = memory();
    let layer = |name: &str| name.repeat(1000);
    for name in ["a", "b", "c"] {
        Made::new(name, &[&layer(name)]).store(&*storage).await;
        advance(DAY).await;
    }
    let a = Made::new("a", &[&layer("a")]);
    put_mark(&*storage, a.digest()).await.expect("marked");
    advance(DAY).await;
    let policy = GcPolicy {
        max_size: Some(3000),
        grace: GRACE,
        ..GcPolicy::default()
    };
    let report = sweep(&storage, &policy).await.expect("works");
    assert_eq!(report.dropped.len(), 1, "{:?}", report.dropped);
    assert!(!is_there(&*storage, Key::new(MANIFESTS, Digest::of(b"b"))).await);
    assert!(report.needed_before > 3000 && report.needed_after <= 3000);
}
