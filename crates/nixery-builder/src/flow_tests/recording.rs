//! The graphs of images, which are recorded after the builds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nixery_core::NodeId;
use nixery_state::graphs::{self, GRAPHS, RecordedGraph};
use nixery_state::record::MANIFESTS;
use nixery_state::testing::faulty::FaultyStorage;
use nixery_storage::{Key, MemoryStorage};
use rstest::rstest;
use tokio::time::Instant;

use super::{build, fail};
use crate::testing::{CountingStorage, Fixture, pinned, store_path};

async fn fixture() -> (Fixture, Arc<FaultyStorage>) {
    let faulty = FaultyStorage::new(Arc::new(MemoryStorage::new()));
    let storage = Arc::new(CountingStorage::over(faulty.clone()));
    (Fixture::over(storage, |_| {}).await, faulty)
}

async fn recorded(fixture: &Fixture) -> Vec<RecordedGraph> {
    fixture.builder.drain().await;
    let mut graphs = Vec::new();
    for entry in graphs::list(&*fixture.storage).await.expect("lists") {
        let graph = graphs::read(&*fixture.storage, entry.key).await;
        graphs.extend(graph.expect("reads"));
    }
    graphs
}

#[tokio::test]
async fn each_image_that_is_built_is_recorded_once() {
    let (fixture, store) = fixture().await;
    let image = build(&fixture, "git").await;
    let graphs = recorded(&fixture).await;
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

    // An image that is found is not recorded again; another image is recorded.
    assert!(build(&fixture, "git").await.stats.from_cache);
    build(&fixture, "htop").await;
    assert_eq!(recorded(&fixture).await.len(), 2);
    let stored = store.stored.borrow().clone();
    let written = stored.iter().filter(|key| key.folder() == GRAPHS).count();
    assert_eq!(written, 2, "{stored:?}");
    // Each graph is stored after the record of its image, under the same key.
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
async fn an_image_is_built_if_its_graph_cannot_be_recorded(#[case] hangs: bool) {
    let (fixture, store) = fixture().await;
    store.graphs_fail.store(!hangs, Ordering::SeqCst);
    store.graphs_hang.store(hangs, Ordering::SeqCst);
    let begun = Instant::now();
    let image = build(&fixture, "git").await;
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "the build does not wait"
    );
    fixture.builder.drain().await;
    let given_up = begun.elapsed() >= Duration::from_secs(60);
    assert_eq!(given_up, hangs, "{:?}", begun.elapsed());
    assert!(recorded(&fixture).await.is_empty());
    let again = build(&fixture, "git").await;
    assert_eq!(
        (again.oci.digest, again.stats.from_cache),
        (image.oci.digest, true)
    );
    assert!(
        recorded(&fixture).await.is_empty(),
        "what is found is not recorded"
    );
}

#[tokio::test]
async fn a_failed_build_records_nothing() {
    let (fixture, _) = fixture().await;
    fail(&fixture, "broken").await;
    assert!(recorded(&fixture).await.is_empty());
}

/// A process that stops in an orderly way has recorded its graphs.
#[tokio::test]
async fn draining_waits_for_the_recording() {
    let fixture = Fixture::with(pinned).await;
    build(&fixture, "git").await;
    fixture.builder.drain().await;
    let listed = graphs::list(&*fixture.storage).await.expect("lists");
    assert_eq!(listed.len(), 1);
}
