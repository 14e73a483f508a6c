//! How long graphs and pulls are remembered.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use nixery_manifest::Digest;
use nixery_storage::Key;
use proptest::prelude::*;
use tokio::time::advance;

use super::world::{DAY, Made, census, is_there, memory, put, sweep, unused_for};
use crate::gc::inventory::age;
use crate::gc::remembered::{KEPT_FOR, Limits, Remembered, forgotten};
use crate::gc::{GcMode, GcPolicy, collect};
use crate::graphs::GRAPHS;
use crate::learned::PLANS;
use crate::traffic::TRAFFIC;

const GRAPH_OF_NOTHING: Key = Key::new(GRAPHS, Digest::from_bytes([7; 32]));

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + 1000 * DAY
}

proptest! {
    #[test]
    fn what_is_forgotten_is_old_or_too_much(
        entries in prop::collection::btree_map((0..3_u8, any::<u8>()), (0..120_u32, any::<bool>()), 0..60),
        (graphs, traffic, plans) in (0..20_usize, 0..20_usize, 0..20_usize),
    ) {
        let mut needed = HashSet::new();
        let remembered: Vec<Remembered> = entries
            .into_iter()
            .map(|((kind, name), (days, is_needed))| {
                let folder = [GRAPHS, TRAFFIC, PLANS][usize::from(kind)];
                let key = Key::new(folder, Digest::of(&[name]));
                if is_needed {
                    needed.insert(key);
                }
                let written = now() - days * DAY;
                Remembered { key, written }
            })
            .collect();
        let limits = Limits { graphs, traffic, plans };
        let gone = forgotten(&remembered, &needed, now(), limits);
        let mut reversed = remembered.clone();
        reversed.reverse();
        prop_assert_eq!(&gone, &forgotten(&reversed, &needed, now(), limits), "in whatever order they are listed");

        let is_needed = |entry: &Remembered| needed.contains(&entry.key);
        for (kind, most) in limits.of_kinds() {
            let of_kind = || remembered.iter().filter(|entry| entry.key.folder() == kind);
            let stays = |entry: &&Remembered| !gone.contains(&entry.key);
            let is_old = |entry: &&Remembered| age(now(), entry.written) > KEPT_FOR && !is_needed(entry);
            prop_assert!(!of_kind().filter(stays).any(|entry| is_old(&entry)));
            let kept = of_kind().filter(stays).count();
            prop_assert!(kept <= most);
            // None goes without need, and what goes for want of room is worth no more than what stays.
            let spare: Vec<_> = of_kind().filter(|entry| !stays(entry) && !is_old(entry)).collect();
            prop_assert!(spare.is_empty() || kept == most);
            let worth = |entry: &Remembered| (is_needed(entry), entry.written);
            let least = of_kind().filter(stays).map(worth).min();
            for entry in spare {
                prop_assert!(least.is_none_or(|least| worth(entry) <= least));
            }
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
    let report = collect(storage.clone(), &policy, GcMode::DryRun, |_| ()).await;
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
