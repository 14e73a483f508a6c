//! Contracts of writing: whole objects or none.

use bytes::Bytes;

use super::{ENTRIES, LARGE, OTHER_ENTRIES, blob, cache_key, delete, digest, put, read, spool};
use crate::{ByteRange, Key, PutMode, PutOutcome, Storage, StorageError};

/// `get` returns what `put_file` stored. The spool file is kept.
pub async fn put_file_roundtrip(storage: &dyn Storage) {
    for size in [1, 4096, 256 * 1024, 256 * 1024 + 1, LARGE] {
        let (key, bytes) = blob("put_file_roundtrip", size);
        let spool = spool(&bytes);
        storage
            .put_file(&key, spool.path())
            .await
            .expect("put_file");
        assert_eq!(read(storage, &key).await, bytes, "{size} bytes");
        assert_eq!(
            std::fs::read(spool.path()).expect("the spool stays the caller's"),
            bytes
        );
        drop(spool);
        assert_eq!(
            read(storage, &key).await,
            bytes,
            "deleting the spool must not touch the object"
        );
        delete(storage, &key).await;
    }
}

/// Files that a backend uploads in parts are stored whole.
pub async fn large_files_roundtrip(storage: &dyn Storage) {
    let (key, bytes) = blob("large_files_roundtrip", (20 << 20) + 7);
    let spool = spool(&bytes);
    storage
        .put_file(&key, spool.path())
        .await
        .expect("put_file");
    let stat = storage.stat(&key).await.expect("stat").expect("exists");
    assert_eq!(stat.size, bytes.len() as u64);
    assert!(read(storage, &key).await == bytes);
    delete(storage, &key).await;
}

/// Storing a blob again succeeds and changes nothing.
pub async fn put_file_is_idempotent(storage: &dyn Storage) {
    let (key, bytes) = blob("put_file_is_idempotent", 1000);
    let first = spool(&bytes);
    for _ in 0..2 {
        storage
            .put_file(&key, first.path())
            .await
            .expect("put_file");
    }
    let second = spool(&bytes);
    storage
        .put_file(&key, second.path())
        .await
        .expect("put_file");
    assert_eq!(read(storage, &key).await, bytes);
    delete(storage, &key).await;
}

/// Storing a blob again repairs a truncated one.
pub async fn put_file_replaces_another_size(storage: &dyn Storage) {
    let (key, bytes) = blob("put_file_replaces_another_size", LARGE);
    put(storage, &key, bytes.slice(..1000)).await;
    storage
        .put_file(&key, spool(&bytes).path())
        .await
        .expect("put_file");
    assert_eq!(read(storage, &key).await, bytes);
    delete(storage, &key).await;
}

/// A spool file that cannot be read is a [`StorageError::Spool`], and stores no object.
pub async fn put_file_without_spool_stores_nothing(storage: &dyn Storage) {
    let (key, _) = blob("put_file_without_spool_stores_nothing", 1);
    let directory = tempfile::tempdir().expect("a directory");
    for path in [directory.path().join("missing"), directory.path().into()] {
        let error = storage
            .put_file(&key, &path)
            .await
            .expect_err("no such spool");
        assert!(matches!(error, StorageError::Spool { .. }), "{error:?}");
    }
    assert_eq!(storage.stat(&key).await.expect("stat"), None);
}

/// `get` returns what `put` stored, in every folder.
pub async fn put_roundtrip(storage: &dyn Storage) {
    let (blob, bytes) = blob("put_roundtrip", 100_000);
    let digest = digest("put_roundtrip");
    for key in [
        blob,
        Key::new(ENTRIES, digest),
        Key::new(OTHER_ENTRIES, digest),
    ] {
        put(storage, &key, bytes.clone()).await;
        assert_eq!(read(storage, &key).await, bytes, "{key}");
        delete(storage, &key).await;
    }
}

/// `put` with `Replace` replaces an object, also by one of the same size.
pub async fn put_replace_replaces(storage: &dyn Storage) {
    let key = cache_key("put_replace_replaces");
    for bytes in ["first", "other", "a longer one", ""] {
        put(storage, &key, bytes.into()).await;
        assert_eq!(read(storage, &key).await, bytes);
    }
    delete(storage, &key).await;
}

/// `put` with `CreateNew` stores an object once, and does not replace it until it is deleted.
pub async fn put_create_new_never_replaces(storage: &dyn Storage) {
    let key = cache_key("put_create_new_never_replaces");
    let create = |bytes: &'static str| storage.put(&key, bytes.into(), PutMode::CreateNew);
    assert_eq!(create("first").await.expect("put"), PutOutcome::Stored);
    assert_eq!(
        create("second").await.expect("put"),
        PutOutcome::AlreadyExists
    );
    assert_eq!(read(storage, &key).await, "first");
    delete(storage, &key).await;
    assert_eq!(create("third").await.expect("put"), PutOutcome::Stored);
    assert_eq!(read(storage, &key).await, "third");
    delete(storage, &key).await;
}

/// Empty objects are stored.
pub async fn empty_objects(storage: &dyn Storage) {
    let key = cache_key("empty_objects");
    for from_file in [false, true] {
        if from_file {
            storage
                .put_file(&key, spool(b"").path())
                .await
                .expect("put_file");
        } else {
            put(storage, &key, Bytes::new()).await;
        }
        let reader = storage.get(&key, None).await.expect("get").expect("exists");
        assert_eq!((reader.stat.size, reader.range), (0, ByteRange::new(0, 0)));
        assert!(reader.bytes().await.expect("body").is_empty());
        delete(storage, &key).await;
    }
}
