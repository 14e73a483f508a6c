//! How long graphs and recorded pulls are kept.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use nixery_manifest::Digest;
use nixery_storage::Key;
use proptest::prelude::*;
use tokio::time::advance;

use crate::gc::inventory::{ListedObject, RetainedFolder};
use crate::gc::{GcMode, GcPolicy, InUse, Retention, age, collect};
use crate::graphs::GRAPHS;
use crate::testing::world::{
    DAY, Made, PLANS, RETENTIONS, TRAFFIC, census, is_there, memory, put, sweep, unused_for,
};

/// How long objects that are not in use are kept.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);
const GRAPH_OF_NOTHING: Key = Key::new(GRAPHS, Digest::from_bytes([7; 32]));

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + 1000 * DAY
}

proptest! {
    #[test]
    fn what_is_forgotten_is_old_or_too_much(
        entries in prop::collection::btree_map(any::<u8>(), (1..120_u32, any::<bool>()), 0..60),
        limit in 0..20_usize,
    ) {
        let mut needed = Vec::new();
        let entries: Vec<(Key, SystemTime)> = entries
            .into_iter()
            .map(|(name, (days, is_needed))| {
                let key = Key::new(PLANS, Digest::of(&[name]));
                if is_needed {
                    needed.push(key);
                }
                (key, now() - days * DAY)
            })
            .collect();
        let objects = entries.iter().map(|&(key, written)| ListedObject { key, size: 1, written });
        let retained = RetainedFolder {
            retention: Retention {
                folder: PLANS,
                kept_for: KEPT_FOR,
                limit,
                in_use: InUse::Found(|_| Box::pin(async { unreachable!("it was found already") })),
            },
            found: Some(needed.clone()),
            objects: objects.collect(),
        };
        let sorted = |retained: &RetainedFolder| {
            let mut gone = retained.forgotten(&HashSet::new(), Duration::ZERO, now());
            gone.sort_unstable();
            gone
        };
        let gone = sorted(&retained);
        let mut reversed = retained.clone();
        reversed.objects.reverse();
        prop_assert_eq!(&gone, &sorted(&reversed), "for every order of the listing");

        let is_needed = |key: &Key| needed.contains(key);
        let stays = |(key, _): &&(Key, SystemTime)| !gone.contains(key);
        let is_old = |(key, written): &&(Key, SystemTime)| age(now(), *written) > KEPT_FOR && !is_needed(key);
        prop_assert!(!entries.iter().filter(stays).any(|entry| is_old(&entry)));
        let kept = entries.iter().filter(stays).count();
        prop_assert!(kept <= limit);
        // None goes unless it must, and those beyond the limit are the least worth keeping.
        let spare: Vec<_> = entries.iter().filter(|entry| !stays(entry) && !is_old(entry)).collect();
        prop_assert!(spare.is_empty() || kept == limit);
        let worth = |(key, written): &(Key, SystemTime)| (is_needed(key), *written);
        let least = entries.iter().filter(stays).map(worth).min();
        for entry in spare {
            prop_assert!(least.is_none_or(|least| worth(entry) <= least));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn graphs_outlive_their_images_for_ninety_days() {
    let storage = memory();
    let image = Made::new("a", &["layer"]);
    let (graph, traffic) = (
        Key::new(GRAPHS, image.key),
        Key::new(TRAFFIC, Digest::of(b"pulls")),
    );
    image.store(&*storage).await;
    put(&*storage, graph, "graph").await;
    put(&*storage, GRAPH_OF_NOTHING, "graph").await;
    put(&*storage, traffic, "pulls").await;

    advance(80 * DAY).await;
    // The image goes, and a later collection deletes its blobs.
    for _ in 0..2 {
        let report = sweep(&storage, &unused_for(DAY)).await.expect("works");
        assert_eq!((report.forgotten, report.forgotten_deleted), (0, 0));
        advance(DAY).await;
    }
    let left = census(&*storage).await;
    assert_eq!((left["manifests"], left["layers"]), (0, 0));
    assert_eq!((left["graphs"], left["traffic"]), (2, 1));

    advance(Duration::from_secs(9 * 24 * 3600)).await;
    let policy = unused_for(DAY);
    let report = collect(
        storage.clone(),
        &policy,
        &RETENTIONS,
        GcMode::DryRun,
        |_| (),
    )
    .await;
    let report = report.expect("works");
    assert_eq!((report.forgotten, report.forgotten_deleted), (3, 0));
    let report = sweep(&storage, &policy).await.expect("works");
    assert_eq!((report.forgotten, report.forgotten_deleted), (3, 3));
    assert_eq!(census(&*storage).await.values().sum::<usize>(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_graph_of_a_cached_image_stays() {
    let storage = memory();
    let image = Made::new("a", &["layer"]);
    image.store(&*storage).await;
    put(&*storage, Key::new(GRAPHS, image.key), "graph").await;
    put(&*storage, GRAPH_OF_NOTHING, "graph").await;
    advance(100 * DAY).await;
    let report = sweep(&storage, &GcPolicy::default()).await.expect("works");
    assert_eq!(report.forgotten_deleted, 1);
    assert!(is_there(&*storage, Key::new(GRAPHS, image.key)).await);
    assert!(!is_there(&*storage, GRAPH_OF_NOTHING).await);
}
