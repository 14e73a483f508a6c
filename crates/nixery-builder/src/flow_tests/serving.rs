//! Blobs as clients get them from stores that lie.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use nixery_manifest::Digest;
use nixery_state::lease::LEASES;
use nixery_state::testing::faulty::FaultyStorage;
use nixery_storage::{ByteRange, FilesystemStorage, Key, MemoryStorage, PutMode, Storage};
use tokio::time::sleep;

use super::build;
use crate::serve::OpenBlobError;
use crate::testing::{CountingStorage, Fixture, request};

/// How the pull of a blob ends.
#[derive(Debug, PartialEq, Eq)]
enum Pull {
    /// All promised bytes came.
    Whole(Bytes),
    /// The body broke off.
    Broken,
    /// The client got an error instead of a body.
    Refused,
    Missing,
}

async fn pull(fixture: &Fixture, digest: Digest, range: Option<ByteRange>) -> Pull {
    let blob = match fixture.builder.open_blob(digest).await {
        Ok(Some(blob)) => blob,
        Ok(None) => return Pull::Missing,
        Err(_) => return Pull::Refused,
    };
    let mut body = match blob.read(range).await {
        Ok(Some(body)) => body,
        Ok(None) => return Pull::Missing,
        Err(OpenBlobError::Storage(error)) => panic!("the store does not fail: {error}"),
        Err(_) => return Pull::Refused,
    };
    let mut bytes = Vec::new();
    while let Some(chunk) = body.body.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(_) => return Pull::Broken,
        }
    }
    assert_eq!(bytes.len() as u64, body.range.len());
    Pull::Whole(bytes.into())
}

fn blob(size: usize) -> (Digest, Bytes) {
    let bytes: Vec<u8> = (0..size).map(|at| (at / 253 % 256) as u8).collect();
    (Digest::of(&bytes), bytes.into())
}

async fn put(storage: &dyn Storage, bytes: &Bytes) {
    let key = Key::blob(Digest::of(bytes));
    let put = storage.put(&key, bytes.clone(), PutMode::Replace);
    let _ = put.await.expect("put");
}

/// A fixture over a filesystem store.
async fn over_files(folder: &Path) -> Fixture {
    let storage = Arc::new(FilesystemStorage::open(folder).expect("a store"));
    Fixture::over(Arc::new(CountingStorage::over(storage)), |_| {}).await
}

/// Changes one bit in place.
fn flip(folder: &Path, digest: Digest, at: u64) {
    let path = folder.join(Key::blob(digest).path());
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
    let file = fs::File::options().read(true).write(true).open(&path);
    let (file, mut byte) = (file.expect("opens"), [0]);
    file.read_exact_at(&mut byte, at).expect("reads");
    file.write_all_at(&[byte[0] ^ 1], at).expect("writes");
    file.sync_all().expect("syncs");
}

/// Before, a bit that changed after the first reading was sent for the life of the process.
#[tokio::test]
async fn a_bit_that_changes_in_a_verified_file_is_never_sent_to_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = over_files(folder.path()).await;
    for size in [1000, 300_000, 900_000] {
        let (digest, bytes) = blob(size);
        let last = size as u64 - 1;
        let ranges = [
            None,
            Some(ByteRange::new(0, 10)),
            Some(ByteRange::new(last, last + 1)),
        ];
        for flipped in [0, last / 2, last] {
            for range in ranges {
                put(&*fixture.storage, &bytes).await;
                let whole = range.unwrap_or(ByteRange::new(0, size as u64));
                let wanted = bytes.slice(whole.start as usize..whole.end as usize);
                for _ in 0..2 {
                    let sound = pull(&fixture, digest, range).await;
                    assert_eq!(sound, Pull::Whole(wanted.clone()), "{range:?} of {size}");
                }
                // The kernel's clock of files ticks every few milliseconds.
                tokio::time::sleep(Duration::from_millis(15)).await;
                flip(folder.path(), digest, flipped);
                // A client that holds the first bytes of a large blob sees it break off.
                let damaged = pull(&fixture, digest, range).await;
                let expected = match range {
                    None if size > 256 * 1024 => Pull::Broken,
                    _ => Pull::Refused,
                };
                assert_eq!(damaged, expected, "{range:?} of {size}, {flipped}");
                // It is deleted in the background.
                while fixture
                    .builder
                    .open_blob(digest)
                    .await
                    .expect("works")
                    .is_some()
                {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                assert_eq!(pull(&fixture, digest, range).await, Pull::Missing);
            }
        }
    }
}

/// Memory and disks lose bits without a trace in the metadata.
#[tokio::test(start_paused = true)]
async fn a_file_is_verified_again_after_an_hour() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = over_files(folder.path()).await;
    let (digest, bytes) = blob(900_000);
    put(&*fixture.storage, &bytes).await;
    let blobs = &fixture.builder.engine().blobs;
    let stat = async || {
        let stat = fixture.storage.stat(&Key::blob(digest)).await;
        stat.expect("works").expect("is there")
    };
    assert_eq!(
        pull(&fixture, digest, None).await,
        Pull::Whole(bytes.clone())
    );
    assert!(blobs.is_verified(&digest, &stat().await));
    tokio::time::advance(crate::blobs::VERIFIED_FOR).await;
    assert!(!blobs.is_verified(&digest, &stat().await));
    assert_eq!(pull(&fixture, digest, None).await, Pull::Whole(bytes));
    assert!(blobs.is_verified(&digest, &stat().await));
}

/// Before, 48 of 417 pulls got wrong bytes to the end.
#[tokio::test]
async fn no_pull_through_a_store_that_flips_bits_gets_a_wrong_blob() {
    let memory = Arc::new(MemoryStorage::new());
    let store = FaultyStorage::slow(memory.clone(), Duration::ZERO, 20_240_229);
    let storage = Arc::new(CountingStorage::over(store.clone()));
    let fixture = Fixture::over(storage, |_| {}).await;
    let blobs = [1000, 200_000, 300_000, 900_000].map(blob);
    for (_, bytes) in &blobs {
        put(&*memory, bytes).await;
    }
    store.flips_percent.store(12, Ordering::SeqCst);
    let (mut whole, mut other) = (0, 0);
    for round in 0..440 {
        let (digest, bytes) = &blobs[round % blobs.len()];
        let start = (round * 7919) % (bytes.len() - 1);
        let range = (round % 3 == 0).then(|| ByteRange::new(start as u64, bytes.len() as u64));
        match pull(&fixture, *digest, range).await {
            Pull::Whole(received) => {
                let wanted = range.map_or(0, |range| range.start as usize);
                assert_eq!(received, bytes.slice(wanted..), "wrong bytes to the end");
                whole += 1;
            }
            Pull::Missing => panic!("an undamaged blob was deleted"),
            Pull::Broken | Pull::Refused => other += 1,
        }
    }
    let flipped = store.flipped.load(Ordering::SeqCst);
    assert!(flipped > 40, "{flipped} readings had a wrong bit");
    // Nearly all damage is repaired before the client sees it.
    assert!(other * 20 < whole, "{whole} pulls were whole, {other} not");
}

/// A client gives up before a large blob is verified in a slow store, and asks again.
#[tokio::test(start_paused = true)]
async fn a_part_of_a_blob_that_takes_long_to_verify_is_for_later() {
    let memory = Arc::new(MemoryStorage::new());
    let store = FaultyStorage::slow(memory.clone(), Duration::from_secs(1000), 7);
    let fixture = Fixture::over(Arc::new(CountingStorage::over(store)), |_| {}).await;
    let (digest, bytes) = blob(900_000);
    put(&*memory, &bytes).await;
    let open = fixture.builder.open_blob(digest).await;
    let open = open.expect("works").expect("is there");
    let part = Some(ByteRange::new(500_000, 500_010));
    let begun = tokio::time::Instant::now();
    let error = open.read(part).await.expect_err("is not verified");
    assert!(
        matches!(error, OpenBlobError::NotVerified { .. }),
        "{error}"
    );
    assert_eq!(begun.elapsed().as_secs(), 20);
    // The reading goes on without the client.
    tokio::time::sleep(Duration::from_secs(5000)).await;
    let sound = pull(&fixture, digest, part).await;
    assert_eq!(sound, Pull::Whole(bytes.slice(500_000..500_010)));
}

/// A layer that is asked for as a manifest costs its first bytes, not its digest. Before, 3,800
/// such requests held up a cached manifest for 19 s.
#[tokio::test]
async fn a_layer_that_is_asked_for_as_a_manifest_is_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = over_files(folder.path()).await;
    let (layer, bytes) = blob(3_000_000);
    let (large, more) = blob(5_000_000);
    put(&*fixture.storage, &bytes).await;
    put(&*fixture.storage, &more).await;
    let before = fixture.storage.bytes_read.load(Ordering::SeqCst);
    for digest in [layer, large] {
        for _ in 0..100 {
            let found = fixture.builder.manifest_by_digest(&digest).await;
            assert_eq!(found.expect("works"), None);
        }
    }
    let read = fixture.storage.bytes_read.load(Ordering::SeqCst) - before;
    assert!(read <= 200 * 64 * 1024, "{read}");
}

/// A read-only store serves what it has.
#[tokio::test]
async fn a_read_only_store_is_served_from() {
    let memory = Arc::new(MemoryStorage::new());
    let image = {
        let fixture = Fixture::over(Arc::new(CountingStorage::over(memory.clone())), |_| {}).await;
        build(&fixture, "git").await
    };
    let store = FaultyStorage::new(memory);
    store.read_only.store(true, Ordering::SeqCst);
    store.check().await.expect("it can be read");
    let storage = Arc::new(CountingStorage::over(store));
    let fixture = Fixture::over(storage, |config| {
        config.eval_interval = Duration::from_secs(60)
    })
    .await;
    let found = build(&fixture, "git").await;
    assert_eq!(
        (found.oci.digest, found.stats.from_cache),
        (image.oci.digest, true)
    );
    assert!(
        fixture
            .builder
            .warm_image(&request("git"))
            .await
            .expect("a tag")
            .is_some()
    );
    let manifest = fixture.builder.manifest_by_digest(&image.oci.digest).await;
    assert_eq!(manifest.expect("works").as_ref(), Some(&image.oci));
    for layer in &image.layers {
        let pulled = pull(&fixture, layer.digest, None).await;
        assert!(matches!(pulled, Pull::Whole(_)), "{pulled:?}");
    }
    let handle = fixture.builder.start(request("htop"));
    let error = handle.wait().await.expect_err("cannot be stored");
    assert_eq!(error.kind(), "storage-failed");
    // Nothing was built for it.
    assert_eq!(fixture.realisations(), 0);
}

/// Nobody asks for the readiness of a server without a load balancer.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_writable_again_is_built_for_after_ten_seconds() {
    let store = FaultyStorage::new(Arc::new(MemoryStorage::new()));
    store.read_only.store(true, Ordering::SeqCst);
    store.check().await.expect("it can be read");
    let fixture = Fixture::over(Arc::new(CountingStorage::over(store.clone())), |_| {}).await;
    let refused = async || {
        let handle = fixture.builder.start(request("git"));
        let error = handle.wait().await.expect_err("cannot be stored");
        assert_eq!(error.kind(), "storage-failed");
    };
    refused().await;
    store.read_only.store(false, Ordering::SeqCst);
    refused().await;
    assert_eq!(fixture.realisations(), 0);
    sleep(Duration::from_secs(10)).await;
    build(&fixture, "git").await;
    let has_lease = store
        .stored
        .borrow()
        .iter()
        .any(|key| key.folder() == LEASES);
    assert!(has_lease, "as in a store that was writable at first");
}
