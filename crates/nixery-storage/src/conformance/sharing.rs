//! Contracts of sharing: several writers and readers at once.

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};

use super::{LARGE, blob, cache_key, delete, put, read, spool};
use crate::{PutMode, PutOutcome, Storage};

/// A reader of an object that is replaced yields the old bytes or fails. It never yields a mixture
/// or fewer bytes without an error.
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
            "the reader yielded a mixture of two states"
        );
    }
    assert_eq!(read(storage, &key).await, "new");
    delete(storage, &key).await;
}

/// Simultaneous writers of one blob, over two handles on one store, all succeed. Readers see no
/// object or the whole one.
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
                        "a reader saw a part of the object"
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

/// Of simultaneous creators of one key, over two handles on one store, exactly one succeeds, and
/// its bytes are stored.
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
