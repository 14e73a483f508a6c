//! When and from which images a plan is learned, and where it is stored.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nixery_core::{Architecture, ReferenceGraph, StorePath};
use nixery_manifest::Digest;
use nixery_state::gc::{GcMode, GcPolicy, collect};
use nixery_state::graphs::{self, GRAPHS, RecordedGraph};
use nixery_state::testing::faulty::FaultyStorage;
use nixery_state::testing::world::{memory, store_path};
use nixery_storage::{Key, MemoryStorage, PutMode, Storage};
use proptest::prelude::*;
use rstest::rstest;
use tokio::time::advance;

use super::learn::{base, is_due};
use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Each path with its NAR size; the first refers to the second.
fn graph(paths: &[(&str, u64)]) -> ReferenceGraph {
    let others: Vec<_> = paths
        .iter()
        .skip(1)
        .take(1)
        .map(|(name, _)| store_path(name))
        .collect();
    let infos: Vec<_> = paths
        .iter()
        .enumerate()
        .map(|(place, (name, size))| {
            let references = if place == 0 { others.clone() } else { Vec::new() };
            serde_json::json!({ "path": store_path(name), "narSize": size, "references": references })
        })
        .collect();
    let json = serde_json::to_vec(&infos).expect("serialises");
    ReferenceGraph::from_path_info(&json, &[store_path(paths[0].0)]).expect("a graph")
}

#[rstest]
#[case::the_most_referred(&["a-1 900 glibc-1 30", "b-1 900 glibc-1 30"], Some("glibc-1"))]
#[case::not_a_path_without_referrers(&["a-1 9 glibc-1 30 iana-1 99", "b-1 9 glibc-1 30 iana-1 99", "c-2 9 glibc-2 30 iana-1 99"], Some("glibc-1"))]
#[case::then_the_largest(&["a-1 900 libc-1 30", "b-1 900 musl-1 40"], Some("musl-1"))]
#[case::then_the_first_by_name(&["a-1 900 y-1 3", "b-1 900 x-1 3"], Some("x-1"))]
#[case::the_version_in_more_images(&["a-1 9 glibc-1 30", "a-2 9 glibc-2 20", "b-2 9 glibc-2 20"], Some("glibc-2"))]
#[case::nothing_refers(&["a-1 3", "b-1 4"], Some("b-1"))]
#[case::nothing(&[], None)]
fn the_base_is_the_path_that_most_images_depend_on(
    #[case] images: &[&str],
    #[case] expected: Option<&str>,
) {
    let graphs = images.iter().map(|image| {
        let words: Vec<&str> = image.split(' ').collect();
        let paths = words
            .chunks(2)
            .map(|path| (path[0], path[1].parse().expect("a size")));
        graph(&paths.collect::<Vec<_>>())
    });
    let graphs: Vec<_> = graphs.collect();
    assert_eq!(base(&graphs), expected.map(store_path));
}

proptest! {
    #[test]
    fn the_order_of_images_does_not_matter(images in prop::collection::vec(prop::collection::btree_map(0..9_u8, 1..4_u64, 1..6), 1..6)) {
        let graphs: Vec<_> = images.iter().map(|paths| {
            let names: Vec<(String, u64)> = paths.iter().map(|(name, size)| (format!("p-{name}"), *size)).collect();
            let paths: Vec<(&str, u64)> = names.iter().map(|(name, size)| (&**name, *size)).collect();
            graph(&paths)
        }).collect();
        prop_assert_eq!(base(&graphs), base(graphs.iter().rev()));
    }
}

#[rstest]
#[case::all(4, 0, false)]
#[case::a_quarter(1, 4, false)]
#[case::less(1, 5, true)]
#[case::none(0, 4, true)]
#[case::nothing(0, 0, false)]
fn a_plan_is_due_if_hardly_any_image_depends_on_its_base(
    #[case] on_old: usize,
    #[case] on_new: usize,
    #[case] expected: bool,
) {
    let (old, new) = (
        graph(&[("a-1", 9), ("glibc-1", 30)]),
        graph(&[("a-2", 9), ("glibc-2", 30)]),
    );
    // An image that contains the base without a reference to it does not depend on it.
    let holds = graph(&[("a-2", 9), ("glibc-2", 30), ("glibc-1", 30)]);
    let mut images = vec![&old; on_old];
    images.extend([&new, &holds].into_iter().cycle().take(on_new));
    let (known, base) = (store_path("glibc-1"), store_path("glibc-2"));
    assert_eq!(is_due(&known, &base, &images), expected);
    // The same base is never due again, even if few images depend on it.
    assert!(!is_due(&base, &base, &images));
}

/// Records images that depend on this glibc.
async fn record(storage: &dyn Storage, glibc: &str, tools: std::ops::Range<usize>) {
    for tool in tools {
        let name = format!("tool{tool}-on-{glibc}");
        let graph = graph(&[(&name, 500_000), (glibc, 30_000_000), ("iana-etc-1", 300)]);
        let recorded = RecordedGraph {
            name: name.clone(),
            packages: vec![name.clone()],
            architecture: Architecture::Amd64,
            compressed_sizes: vec![1; graph.len()],
            graph,
        };
        let key = Digest::of(name.as_bytes());
        graphs::record(storage, key, recorded)
            .await
            .expect("is stored");
    }
}

async fn learned(storage: &Arc<MemoryStorage>) -> LearnOutcome {
    learn(storage.clone()).await.expect("works")
}

/// Base and number of images of a new plan.
fn new(outcome: LearnOutcome) -> (StorePath, u64) {
    match outcome {
        LearnOutcome::Learned(pointer) => (pointer.base, pointer.images),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_learned_once_and_again_when_its_base_changes() {
    let storage = memory();
    record(&*storage, "glibc-1", 0..9).await;
    assert_eq!(
        learned(&storage).await,
        LearnOutcome::TooFewImages { images: 9 }
    );
    assert!(load(&*storage).await.expect("works").is_none());

    record(&*storage, "glibc-1", 9..12).await;
    assert_eq!(new(learned(&storage).await), (store_path("glibc-1"), 12));
    let first = load(&*storage).await.expect("works").expect("is there");
    assert_eq!(
        first.plan.revision(),
        format!("history, {}", first.pointer.base.base_name())
    );
    assert!(first.plan.get("glibc").is_some() && first.plan.get("tool0-on-glibc").is_some());

    // More images change nothing, and neither does a new glibc in a few of them.
    advance(DAY).await;
    record(&*storage, "glibc-1", 12..20).await;
    record(&*storage, "glibc-2", 0..4).await;
    assert_eq!(
        learned(&storage).await,
        LearnOutcome::Kept(first.pointer.clone())
    );
    assert_eq!(
        load(&*storage)
            .await
            .expect("works")
            .expect("is there")
            .plan,
        first.plan
    );

    // Plans for two bases do not alternate.
    advance(DAY).await;
    record(&*storage, "glibc-2", 4..44).await;
    assert_eq!(
        learned(&storage).await,
        LearnOutcome::Kept(first.pointer.clone())
    );

    advance(DAY).await;
    record(&*storage, "glibc-2", 44..70).await;
    assert_eq!(new(learned(&storage).await), (store_path("glibc-2"), 90));
    let second = load(&*storage).await.expect("works").expect("is there");
    assert_ne!(second.pointer.plan, first.pointer.plan);
}

#[tokio::test(start_paused = true)]
async fn images_older_than_the_newest_by_a_month_are_ignored() {
    let storage = memory();
    record(&*storage, "glibc-1", 0..30).await;
    advance(PERIOD + DAY).await;
    record(&*storage, "glibc-2", 0..10).await;
    // The age of the newest image itself does not matter.
    advance(9 * PERIOD).await;
    assert_eq!(new(learned(&storage).await), (store_path("glibc-2"), 10));
}

#[tokio::test(start_paused = true)]
async fn damaged_graphs_are_skipped() {
    let storage = memory();
    record(&*storage, "glibc-1", 0..9).await;
    for name in [b"a", b"b"] {
        let key = Key::new(GRAPHS, Digest::of(name));
        let _ = storage
            .put(&key, "junk".into(), PutMode::Replace)
            .await
            .expect("is stored");
    }
    assert_eq!(
        learned(&storage).await,
        LearnOutcome::TooFewImages { images: 9 }
    );
    record(&*storage, "glibc-1", 9..12).await;
    assert_eq!(new(learned(&storage).await), (store_path("glibc-1"), 12));
}

#[rstest]
#[case::gone(None)]
#[case::damaged(Some("junk"))]
#[tokio::test(start_paused = true)]
async fn a_damaged_plan_is_not_used(#[case] instead: Option<&'static str>) {
    for of_pointer in [false, true] {
        let storage = memory();
        record(&*storage, "glibc-1", 0..12).await;
        learned(&storage).await;
        let plan = load(&*storage)
            .await
            .expect("works")
            .expect("is there")
            .pointer
            .plan;
        let key = Key::new(
            PLANS,
            if of_pointer {
                Digest::of(b"learned plan")
            } else {
                plan
            },
        );
        match instead {
            Some(text) => drop(
                storage
                    .put(&key, text.into(), PutMode::Replace)
                    .await
                    .expect("works"),
            ),
            None => assert!(storage.delete(&key).await.expect("works")),
        }
        assert!(load(&*storage).await.expect("works").is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_changes_no_plan() {
    let storage = memory();
    record(&*storage, "glibc-1", 0..12).await;
    let faulty = FaultyStorage::new(storage.clone());
    faulty.full.store(true, Ordering::SeqCst);
    let error = learn(faulty.clone())
        .await
        .expect_err("nothing can be stored");
    assert!(matches!(error, LearnError::Storage(_)), "{error:?}");
    assert!(load(&*storage).await.expect("works").is_none());
    faulty.full.store(false, Ordering::SeqCst);
    new(learn(faulty).await.expect("works"));
}

/// None of them has a quarter of the images.
#[tokio::test(start_paused = true)]
async fn plans_for_many_bases_do_not_alternate() {
    let storage = memory();
    let bases = ["a", "b", "c", "d", "e", "f"].map(|base| format!("glibc-{base}"));
    for base in &bases {
        record(&*storage, base, 0..10).await;
    }
    new(learned(&storage).await);
    for base in &bases {
        advance(DAY).await;
        record(&*storage, base, 10..14).await;
        let outcome = learned(&storage).await;
        assert!(
            matches!(outcome, LearnOutcome::Kept(_)),
            "{base}: {outcome:?}"
        );
    }
}

/// A plan of a newer version is neither used nor overwritten nor collected.
#[tokio::test(start_paused = true)]
async fn a_newer_versions_plan_stays() {
    let storage = memory();
    record(&*storage, "glibc-1", 0..12).await;
    let pointer = Key::new(PLANS, Digest::of(b"learned plan"));
    let plan = Key::new(PLANS, Digest::of(b"a newer plan"));
    let newer = r#"{"version":2,"other":"fields"}"#;
    for (key, text) in [(pointer, newer), (plan, "its plan")] {
        let stored = storage.put(&key, text.into(), PutMode::Replace).await;
        let _ = stored.expect("is stored");
    }
    assert_eq!(learned(&storage).await, LearnOutcome::NewerVersion);
    assert!(load(&*storage).await.expect("works").is_none());
    advance(100 * DAY).await;
    let report = collect(
        storage.clone(),
        &GcPolicy::default(),
        &crate::RETENTIONS,
        GcMode::Sweep,
        |_| (),
    )
    .await;
    assert_eq!(report.expect("works").forgotten_deleted, 12);
    for key in [pointer, plan] {
        assert!(storage.stat(&key).await.expect("works").is_some());
    }
}

/// Two servers at once would do the work twice, without harm.
#[tokio::test(start_paused = true)]
async fn of_several_servers_one_learns() {
    let storage = memory();
    record(&*storage, "glibc-1", 0..12).await;
    let outcomes = futures::future::join_all((0..4).map(|_| learn(storage.clone()))).await;
    let outcomes: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| outcome.expect("works"))
        .collect();
    let made = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, LearnOutcome::Learned(_)))
        .count();
    assert_eq!(made, 1, "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn the_plan_in_use_outlives_the_recorded_images() {
    let storage = memory();
    record(&*storage, "glibc-1", 0..12).await;
    learned(&storage).await;
    let old = Key::new(PLANS, Digest::of(b"an older plan"));
    let _ = storage
        .put(&old, "plan".into(), PutMode::Replace)
        .await
        .expect("is stored");
    advance(100 * DAY).await;
    let policy = GcPolicy::default();
    let report = collect(
        storage.clone(),
        &policy,
        &crate::RETENTIONS,
        GcMode::Sweep,
        |_| (),
    )
    .await;
    assert_eq!(report.expect("works").forgotten_deleted, 12 + 1);
    assert!(storage.stat(&old).await.expect("works").is_none());
    assert!(load(&*storage).await.expect("works").is_some());
}
