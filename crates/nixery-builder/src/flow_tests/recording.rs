//! The graphs of images, which are recorded behind the builds.

use nixery_state::graphs::GRAPHS;
use nixery_state::record::MANIFESTS;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nixery_core::NodeId;
use nixery_state::graphs::{self, RecordedGraph};
use nixery_state::testing::faulty::FaultyStorage;
use nixery_storage::{Key, MemoryStorage};
use rstest::rstest;
use tokio::time::Instant;

use super::{build, fail};
use crate::testing::{Bench, CountingStorage, pinned, store_path};

async fn bench() -> (Bench, Arc<FaultyStorage>) {
    let faulty = FaultyStorage::new(Arc::new(MemoryStorage::new()));
    let storage = Arc::new(CountingStorage::over(faulty.clone()));
    (Bench::over(storage, |_| {}).await, faulty)
}

async fn recorded(bench: &Bench) -> Vec<RecordedGraph> {
    bench.builder.drain().await;
    let mut graphs = Vec::new();
    for entry in graphs::list(&*bench.storage).await.expect("lists") {
        let graph = graphs::read(&*bench.storage, entry.key).await;
        graphs.extend(graph.expect("reads"));
    }
    graphs
}

#[tokio::test]
async fn each_image_that_is_built_is_recorded_once() {
    let (bench, store) = bench().await;
    let image = build(&bench, "git").await;
    let graphs = recorded(&bench).await;
    let [recorded_git] = &graphs[..] else {
        panic!("{graphs:?}")
    };
    assert_eq!(recorded_git.name, image.name);
    assert_eq!(recorded_git.packages, image.packages);
    assert_eq!(recorded_git.architecture, image.architecture);
    let graph = &recorded_git.graph;
    let names = |ids: &[NodeId]| -> Vec<String> {
        let names = ids.iter().map(|&id| graph.node(id).path.name());
        names.map(str::to_owned).collect()
    };
    assert_eq!(graph.len(), 4, "three packages and libc");
    let mut roots = names(graph.roots());
    roots.sort_unstable();
    assert_eq!(
        roots,
        [
            "cacert-x86_64-linux",
            "git-x86_64-linux",
            "iana-etc-x86_64-linux"
        ]
    );
    let libc = graph.id_of(&store_path("libc")).expect("is there");
    assert!(
        graph
            .roots()
            .iter()
            .all(|&root| graph.references(root) == [libc])
    );
    let layers: u64 = image
        .layers
        .iter()
        .filter(|layer| !layer.paths.is_empty())
        .map(|layer| layer.size)
        .sum();
    assert_eq!(recorded_git.compressed_sizes.iter().sum::<u64>(), layers);

    // Found again, it is not recorded again; another one is.
    assert!(build(&bench, "git").await.stats.from_cache);
    build(&bench, "htop").await;
    assert_eq!(recorded(&bench).await.len(), 2);
    let stored = store.stored.borrow().clone();
    let written = stored.iter().filter(|key| key.folder() == GRAPHS).count();
    assert_eq!(written, 2, "{stored:?}");
    // Under the key of the image's record, after it.
    for (place, key) in stored.iter().enumerate() {
        if key.folder() == GRAPHS {
            let record = Key::new(MANIFESTS, key.digest().expect("a digest"));
            assert!(stored[..place].contains(&record), "{stored:?}");
        }
    }
}

#[rstest]
#[case::failing(false)]
#[case::not_answering(true)]
#[tokio::test(start_paused = true)]
async fn a_graph_that_cannot_be_recorded_harms_no_image(#[case] hangs: bool) {
    let (bench, store) = bench().await;
    store.graphs_fail.store(!hangs, Ordering::SeqCst);
    store.graphs_hang.store(hangs, Ordering::SeqCst);
    let begun = Instant::now();
    let image = build(&bench, "git").await;
    assert!(begun.elapsed() < Duration::from_secs(60), "nobody waits");
    bench.builder.drain().await;
    let given_up = begun.elapsed() >= Duration::from_secs(60);
    assert_eq!(given_up, hangs, "{:?}", begun.elapsed());
    assert!(recorded(&bench).await.is_empty());
    let again = build(&bench, "git").await;
    assert_eq!(
        (again.oci.digest, again.stats.from_cache),
        (image.oci.digest, true)
    );
    assert!(
        recorded(&bench).await.is_empty(),
        "what is found is not recorded"
    );
}

#[tokio::test]
async fn a_failed_build_records_nothing() {
    let (bench, _) = bench().await;
    fail(&bench, "broken").await;
    assert!(recorded(&bench).await.is_empty());
}

/// Whoever stops in order has recorded what it built.
#[tokio::test]
async fn draining_waits_for_the_recording() {
    let bench = Bench::with(pinned).await;
    build(&bench, "git").await;
    bench.builder.drain().await;
    let listed = graphs::list(&*bench.storage).await.expect("lists");
    assert_eq!(listed.len(), 1);
}
