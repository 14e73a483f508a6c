//! The contracts of [`Storage`], as functions that every backend's tests call.
//!
//! Each function tests one contract and panics, saying what was broken, where a backend does not
//! keep it. They use keys of their own, so they run against a store in use, and clean up.
//!
//! ```
//! use nixery_storage::{MemoryStorage, conformance};
//! # #[tokio::main] async fn main() {
//! conformance::all(&MemoryStorage::new()).await;
//! # }
//! ```

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use nixery_manifest::Digest;
use tempfile::NamedTempFile;

use crate::{ByteRange, Key, KeyKind, PutMode, PutOutcome, Storage, StorageError};

/// Larger than any backend's chunk, and not a multiple of one.
const LARGE: usize = 1_500_007;

/// All contracts, one after another.
pub async fn all(storage: &dyn Storage) {
    put_file_roundtrip(storage).await;
    put_file_is_idempotent(storage).await;
    put_file_replaces_another_size(storage).await;
    put_file_without_spool_stores_nothing(storage).await;
    put_roundtrip(storage).await;
    put_replace_replaces(storage).await;
    put_create_new_never_replaces(storage).await;
    empty_objects(storage).await;
    missing_objects(storage).await;
    ranges_are_exact(storage).await;
    unsatisfiable_ranges_are_refused(storage).await;
    bodies_come_in_bounded_chunks(storage).await;
    readers_survive_replacement(storage).await;
    get_bytes_keeps_its_limit(storage).await;
    stat_tells_size_and_age(storage).await;
    list_is_complete(storage).await;
    kinds_are_apart(storage).await;
    delete_deletes(storage).await;
    concurrent_writers_agree(storage, storage).await;
    one_creator_wins(storage, storage).await;
    signing_works_or_is_declined(storage).await;
    check_passes(storage).await;
}

/// What `put_file` stores, `get` yields; the spool file is still there.
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

/// A truncated blob heals when it is stored again.
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

/// A spool file that cannot be read is the caller's error, and leaves no object.
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

/// What `put` stores, `get` yields, for each kind of key.
pub async fn put_roundtrip(storage: &dyn Storage) {
    let (Key::Blob(digest), bytes) = blob("put_roundtrip", 100_000) else {
        return;
    };
    for key in [Key::Blob(digest), Key::Manifest(digest), Key::Build(digest)] {
        put(storage, &key, bytes.clone()).await;
        assert_eq!(read(storage, &key).await, bytes, "{key}");
        delete(storage, &key).await;
    }
}

/// `put` with `Replace` replaces, also with an object of the same size.
pub async fn put_replace_replaces(storage: &dyn Storage) {
    let key = cache_key("put_replace_replaces");
    for bytes in ["first", "other", "a longer one", ""] {
        put(storage, &key, bytes.into()).await;
        assert_eq!(read(storage, &key).await, bytes);
    }
    delete(storage, &key).await;
}

/// `put` with `CreateNew` stores once, and then leaves the object alone until it is deleted.
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

/// Objects of no bytes are objects.
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

/// Asking for what is not there is no error.
pub async fn missing_objects(storage: &dyn Storage) {
    for key in [blob("missing_objects", 1).0, cache_key("missing_objects")] {
        assert!(storage.get(&key, None).await.expect("get").is_none());
        let range = Some(ByteRange::new(0, 1));
        assert!(storage.get(&key, range).await.expect("get").is_none());
        assert!(storage.get_bytes(&key, 1).await.expect("get").is_none());
        assert_eq!(storage.stat(&key).await.expect("stat"), None);
        assert!(!storage.delete(&key).await.expect("delete"));
    }
}

/// A range yields its bytes and no other; its end is clamped to the object's.
pub async fn ranges_are_exact(storage: &dyn Storage) {
    let (key, bytes) = blob("ranges_are_exact", LARGE);
    storage
        .put_file(&key, spool(&bytes).path())
        .await
        .expect("put_file");
    let size = LARGE as u64;
    for (start, end) in [
        (0, 1),
        (0, size),
        (1, size),
        (size - 1, size),
        (300_000, 900_001),
        (0, size + 1),
        (size - 1, u64::MAX),
    ] {
        let range = Some(ByteRange::new(start, end));
        let reader = storage
            .get(&key, range)
            .await
            .expect("get")
            .expect("exists");
        let exact = ByteRange::new(start, end.min(size));
        assert_eq!(reader.range, exact);
        assert_eq!(reader.stat.size, size, "the size is the whole object's");
        let body = reader.bytes().await.expect("body");
        assert!(
            body == bytes[exact.start as usize..exact.end as usize],
            "bytes {start}..{end} differ"
        );
    }
    delete(storage, &key).await;
}

/// A range without a byte of the object is an error that tells the size.
pub async fn unsatisfiable_ranges_are_refused(storage: &dyn Storage) {
    let key = cache_key("unsatisfiable_ranges_are_refused");
    for (content, start, end) in [
        ("ten bytes.", 10, 11),
        ("ten bytes.", 11, 20),
        ("ten bytes.", 5, 5),
        ("ten bytes.", 6, 5),
        ("ten bytes.", u64::MAX, u64::MAX),
        ("", 0, 1),
    ] {
        put(storage, &key, content.into()).await;
        let result = storage.get(&key, Some(ByteRange::new(start, end))).await;
        let refused = matches!(
            result,
            Err(StorageError::RangeNotSatisfiable { size, .. }) if size == content.len() as u64
        );
        assert!(
            refused,
            "bytes {start}..{end} of {} gave {result:?}",
            content.len()
        );
    }
    delete(storage, &key).await;
}

/// No chunk of a large object is larger than 1 MiB: memory does not grow with the object.
pub async fn bodies_come_in_bounded_chunks(storage: &dyn Storage) {
    let (key, bytes) = blob("bodies_come_in_bounded_chunks", 4 * LARGE);
    storage
        .put_file(&key, spool(&bytes).path())
        .await
        .expect("put_file");
    let mut reader = storage.get(&key, None).await.expect("get").expect("exists");
    let mut at = 0;
    while let Some(chunk) = reader.body.next().await {
        let chunk = chunk.expect("a chunk");
        assert!(
            !chunk.is_empty() && chunk.len() <= 1 << 20,
            "{} bytes",
            chunk.len()
        );
        assert!(bytes[at..].starts_with(&chunk), "wrong bytes at {at}");
        at += chunk.len();
    }
    assert_eq!(at, bytes.len());
    delete(storage, &key).await;
}

/// A reader yields the bytes it was opened on or fails; never a mixture, never fewer.
pub async fn readers_survive_replacement(storage: &dyn Storage) {
    let key = cache_key("readers_survive_replacement");
    let (_, old) = blob("the old bytes", LARGE);
    put(storage, &key, old.clone()).await;
    let mut reader = storage.get(&key, None).await.expect("get").expect("exists");
    let first = reader.body.next().await.expect("a chunk").expect("bytes");
    put(storage, &key, "new".into()).await;
    let rest: Result<Vec<Bytes>, _> = reader.body.try_collect().await;
    if let Ok(rest) = rest {
        assert!(
            [&first[..], &rest.concat()[..]].concat() == old[..],
            "a mixture"
        );
    }
    assert_eq!(read(storage, &key).await, "new");
    delete(storage, &key).await;
}

/// `get_bytes` reads up to its limit and refuses what is larger.
pub async fn get_bytes_keeps_its_limit(storage: &dyn Storage) {
    let (key, bytes) = blob("get_bytes_keeps_its_limit", LARGE);
    put(storage, &key, bytes.clone()).await;
    let size = LARGE as u64;
    let whole = storage.get_bytes(&key, size).await.expect("get_bytes");
    assert!(whole.is_some_and(|whole| whole == bytes));
    let error = storage
        .get_bytes(&key, size - 1)
        .await
        .expect_err("too large");
    assert!(
        matches!(error, StorageError::TooLarge { size: s, limit, .. } if s == size && limit == size - 1),
        "{error:?}"
    );
    delete(storage, &key).await;
}

/// `stat` tells the size, and where it tells an age it is a sensible one.
pub async fn stat_tells_size_and_age(storage: &dyn Storage) {
    let (key, bytes) = blob("stat_tells_size_and_age", 12_345);
    put(storage, &key, bytes).await;
    let stat = storage.stat(&key).await.expect("stat").expect("exists");
    assert_eq!(stat.size, 12_345);
    if let Some(modified) = stat.modified {
        let age = SystemTime::now()
            .duration_since(modified)
            .unwrap_or_default();
        assert!(age < Duration::from_secs(600), "stored {age:?} ago");
    }
    let reader = storage.get(&key, None).await.expect("get").expect("exists");
    assert_eq!(reader.stat, stat, "get and stat agree");
    delete(storage, &key).await;
}

/// `list` names every object of its kind once, with its size. More than a page of them.
pub async fn list_is_complete(storage: &dyn Storage) {
    // More than the 256 entries that the filesystem reads at once, and cheap enough for the rest.
    let keys: BTreeSet<_> = (0..300)
        .map(|i| cache_key(&format!("list_is_complete {i}")))
        .collect();
    for chunk in keys.iter().collect::<Vec<_>>().chunks(16) {
        join_all(chunk.iter().map(|key| put(storage, key, "12345".into()))).await;
    }
    let listed = list(storage, KeyKind::Build).await;
    for key in &keys {
        let entries: Vec<_> = listed.iter().filter(|e| e.key == Some(*key)).collect();
        assert_eq!(entries.len(), 1, "{key} listed {} times", entries.len());
        assert_eq!(entries[0].path, key.path());
        assert_eq!(entries[0].stat.size, 5);
    }
    for key in &keys {
        delete(storage, key).await;
    }
    let listed = list(storage, KeyKind::Build).await;
    assert!(
        !listed
            .iter()
            .any(|e| e.key.is_some_and(|key| keys.contains(&key)))
    );
}

/// One digest names three different objects in the three folders.
pub async fn kinds_are_apart(storage: &dyn Storage) {
    let digest = digest("kinds_are_apart");
    let keys = [Key::Blob(digest), Key::Manifest(digest), Key::Build(digest)];
    for key in &keys {
        put(storage, key, key.path().into()).await;
    }
    for key in &keys {
        assert_eq!(read(storage, key).await, key.path());
        let listed = list(storage, key.kind()).await;
        assert!(listed.iter().any(|entry| entry.key == Some(*key)));
        assert!(
            listed
                .iter()
                .all(|entry| entry.key.is_none_or(|k| k.kind() == key.kind()))
        );
    }
    delete(storage, &keys[0]).await;
    assert!(storage.stat(&keys[1]).await.expect("stat").is_some());
    delete(storage, &keys[1]).await;
    delete(storage, &keys[2]).await;
}

/// `delete` deletes, and says whether there was something.
pub async fn delete_deletes(storage: &dyn Storage) {
    let key = cache_key("delete_deletes");
    put(storage, &key, "x".into()).await;
    assert!(storage.delete(&key).await.expect("delete"));
    assert!(!storage.delete(&key).await.expect("delete"));
    assert_eq!(storage.stat(&key).await.expect("stat"), None);
}

/// Writers of one blob at once, over two handles on one store, all succeed, and readers see
/// nothing or the whole.
pub async fn concurrent_writers_agree(one: &dyn Storage, other: &dyn Storage) {
    let (key, bytes) = blob("concurrent_writers_agree", LARGE);
    let spools: Vec<_> = (0..8).map(|_| spool(&bytes)).collect();
    let writers = join_all(spools.iter().enumerate().map(|(i, spool)| {
        let storage = if i % 2 == 0 { one } else { other };
        storage.put_file(&key, spool.path())
    }));
    let readers = join_all((0..8).map(|i| {
        let (key, bytes) = (&key, &bytes);
        let storage = if i % 2 == 0 { other } else { one };
        async move {
            for _ in 0..10 {
                if let Some(reader) = storage.get(key, None).await.expect("get") {
                    assert!(
                        reader.bytes().await.expect("body") == bytes,
                        "a part was seen"
                    );
                }
            }
        }
    }));
    let (written, _) = futures::future::join(writers, readers).await;
    for result in written {
        result.expect("every writer succeeds");
    }
    assert!(read(other, &key).await == bytes);
    delete(one, &key).await;
}

/// Of many that create one key at once, over two handles on one store, exactly one wins, and its
/// bytes are there.
pub async fn one_creator_wins(one: &dyn Storage, other: &dyn Storage) {
    for round in 0..10 {
        let key = cache_key(&format!("one_creator_wins {round}"));
        let outcomes = join_all((0..8).map(|i| {
            let storage = if i % 2 == 0 { one } else { other };
            storage.put(&key, format!("writer {i}").into(), PutMode::CreateNew)
        }))
        .await;
        let winners: Vec<_> = outcomes
            .into_iter()
            .map(|outcome| outcome.expect("losing is no error"))
            .enumerate()
            .filter(|(_, outcome)| *outcome == PutOutcome::Stored)
            .collect();
        assert_eq!(winners.len(), 1, "winners: {winners:?}");
        assert_eq!(read(one, &key).await, format!("writer {}", winners[0].0));
        delete(other, &key).await;
    }
}

/// `presign_get` gives an HTTP URL or declines.
pub async fn signing_works_or_is_declined(storage: &dyn Storage) {
    let key = cache_key("signing_works_or_is_declined");
    let signed = storage.presign_get(&key, Duration::from_secs(60)).await;
    if let Some(url) = signed.expect("presign_get") {
        assert!(url.starts_with("http"), "{url}");
        assert!(url.contains(&key.name()), "{url}");
    }
}

/// `check` passes on a store that works.
pub async fn check_passes(storage: &dyn Storage) {
    storage.check().await.expect("check");
}

/// A blob of `size` bytes that no other contract uses.
fn blob(contract: &str, size: usize) -> (Key, Bytes) {
    let seed = digest(contract);
    let mut bytes = Vec::with_capacity(size + 32);
    let mut block = seed;
    while bytes.len() < size {
        bytes.extend_from_slice(block.as_bytes());
        block = Digest::of(block.as_bytes());
    }
    bytes.truncate(size);
    (Key::Blob(Digest::of(&bytes)), bytes.into())
}

fn cache_key(contract: &str) -> Key {
    Key::Build(digest(contract))
}

fn digest(contract: &str) -> Digest {
    Digest::of(format!("conformance: {contract}").as_bytes())
}

fn spool(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a spool file");
    file.write_all(bytes).expect("a spool file");
    file
}

async fn put(storage: &dyn Storage, key: &Key, bytes: Bytes) {
    let outcome = storage
        .put(key, bytes, PutMode::Replace)
        .await
        .expect("put");
    assert_eq!(outcome, PutOutcome::Stored);
}

async fn read(storage: &dyn Storage, key: &Key) -> Bytes {
    let reader = storage.get(key, None).await.expect("get").expect("exists");
    assert_eq!(reader.range, ByteRange::new(0, reader.stat.size));
    reader.bytes().await.expect("body")
}

async fn list(storage: &dyn Storage, kind: KeyKind) -> Vec<crate::Entry> {
    let listing = storage.list(kind).await.expect("list");
    listing.try_collect().await.expect("entries")
}

async fn delete(storage: &dyn Storage, key: &Key) {
    assert!(
        storage.delete(key).await.expect("delete"),
        "{key} was not there"
    );
}
