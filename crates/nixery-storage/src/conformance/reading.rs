//! Contracts of reading: exactly the requested bytes.

use futures::StreamExt;

use super::{LARGE, blob, cache_key, delete, put, spool};
use crate::{ByteRange, Storage, StorageError};

/// Reading, looking up or deleting a missing object is not an error.
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

/// A range yields exactly its bytes. Its end is clamped to the object's size.
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

/// A range without a byte of the object is an error that states the object's size.
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
            "a chunk of {} bytes, where 1 to {} are allowed",
            chunk.len(),
            1 << 20
        );
        assert!(
            bytes[at..].starts_with(&chunk),
            "the bytes from {at} on are wrong"
        );
        at += chunk.len();
    }
    assert_eq!(at, bytes.len(), "bytes in all chunks");
    delete(storage, &key).await;
}

/// `get_bytes` reads objects up to its limit, and rejects larger ones.
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
