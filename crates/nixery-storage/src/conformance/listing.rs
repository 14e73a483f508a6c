//! Contracts of everything but bytes: sizes, listings, deletion, URLs.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use futures::future::join_all;
use nixery_manifest::Digest;

use super::{ENTRIES, OTHER_ENTRIES, blob, cache_key, delete, digest, list, put, read};
use crate::{Key, Storage};

/// `stat` reports the size, and a plausible age or none.
pub async fn stat_reports_size_and_age(storage: &dyn Storage) {
    let (key, bytes) = blob("stat_reports_size_and_age", 12_345);
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

/// `list` reports every object of a folder once, with its size, also beyond one page.
pub async fn list_is_complete(storage: &dyn Storage) {
    // More than the 256 entries that the filesystem backend reads at once.
    let keys: BTreeSet<_> = (0..300)
        .map(|i| cache_key(&format!("list_is_complete {i}")))
        .collect();
    for chunk in keys.iter().collect::<Vec<_>>().chunks(16) {
        join_all(chunk.iter().map(|key| put(storage, key, "12345".into()))).await;
    }
    let listed = list(storage, ENTRIES).await;
    for key in &keys {
        let entries: Vec<_> = listed.iter().filter(|e| e.key == Some(*key)).collect();
        assert_eq!(entries.len(), 1, "{key} listed {} times", entries.len());
        assert_eq!(entries[0].path, key.path());
        assert_eq!(entries[0].stat.size, 5);
    }
    for key in &keys {
        delete(storage, key).await;
    }
    let listed = list(storage, ENTRIES).await;
    assert!(
        !listed
            .iter()
            .any(|e| e.key.is_some_and(|key| keys.contains(&key)))
    );
}

/// `list_prefix` reports every object of a folder whose name begins with the prefix, and no other.
pub async fn list_prefix_selects(storage: &dyn Storage) {
    let name = |name: &str| Digest::from_hex(name).expect("a digest");
    let [one, same, other] =
        ["aab0", "aab1", "aa00"].map(|begin| Key::new(ENTRIES, name(&format!("{begin:0<64}"))));
    let elsewhere = Key::new(OTHER_ENTRIES, name(&format!("{:0<64}", "aab2")));
    for key in [&one, &same, &other, &elsewhere] {
        put(storage, key, "1".into()).await;
    }
    for (prefix, expected) in [
        ("aab", vec![one, same]),
        ("aab1", vec![same]),
        ("aabc", Vec::new()),
        (&same.name(), vec![same]),
    ] {
        let listing = storage.list_prefix(ENTRIES, prefix).await.expect("list");
        let listing: Vec<_> = listing.try_collect().await.expect("entries");
        let mut keys: Vec<_> = listing.iter().filter_map(|entry| entry.key).collect();
        keys.sort_unstable();
        assert_eq!(keys, expected, "{prefix}");
    }
    for key in [&one, &same, &other, &elsewhere] {
        delete(storage, key).await;
    }
}

/// One digest names different objects in different folders.
pub async fn folders_are_apart(storage: &dyn Storage) {
    let digest = digest("folders_are_apart");
    let keys = [
        Key::blob(digest),
        Key::new(OTHER_ENTRIES, digest),
        Key::new(ENTRIES, digest),
    ];
    for key in &keys {
        put(storage, key, key.path().into()).await;
    }
    for key in &keys {
        assert_eq!(read(storage, key).await, key.path());
        let listed = list(storage, key.folder()).await;
        assert!(listed.iter().any(|entry| entry.key == Some(*key)));
        assert!(
            listed
                .iter()
                .all(|entry| entry.key.is_none_or(|k| k.folder() == key.folder()))
        );
    }
    delete(storage, &keys[0]).await;
    assert!(storage.stat(&keys[1]).await.expect("stat").is_some());
    delete(storage, &keys[1]).await;
    delete(storage, &keys[2]).await;
}

/// `delete` deletes, and reports whether there was an object.
pub async fn delete_deletes(storage: &dyn Storage) {
    let key = cache_key("delete_deletes");
    put(storage, &key, "x".into()).await;
    assert!(storage.delete(&key).await.expect("delete"));
    assert!(!storage.delete(&key).await.expect("delete"));
    assert_eq!(storage.stat(&key).await.expect("stat"), None);
}

/// `presign_get` returns an HTTP URL of the object, or `None`.
pub async fn signing_works_or_is_declined(storage: &dyn Storage) {
    let key = cache_key("signing_works_or_is_declined");
    let signed = storage.presign_get(&key, Duration::from_secs(60)).await;
    if let Some(url) = signed.expect("presign_get") {
        assert!(url.starts_with("http"), "{url}");
        assert!(url.contains(&key.name()), "{url}");
    }
}

/// `public_url` returns an HTTP URL of the object, or `None`.
pub async fn public_urls_name_the_object(storage: &dyn Storage) {
    let key = cache_key("public_urls_name_the_object");
    if let Some(url) = storage.public_url(&key) {
        assert!(url.starts_with("http"), "{url}");
        assert!(url.ends_with(&key.path()), "{url}");
    }
}

/// `check` passes on a store that works.
pub async fn check_passes(storage: &dyn Storage) {
    storage.check().await.expect("check");
}
