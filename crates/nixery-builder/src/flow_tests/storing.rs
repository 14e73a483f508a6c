//! How what is packed gets into the store: beside the packing, in bounds, and in an order that leaves nothing
//! which names what is not there.

use nixery_state::record::BUILDS;
use nixery_state::record::MANIFESTS;
use nixery_storage::BLOBS;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use nixery_manifest::ImageConfig;
use nixery_state::testing::faulty::FaultyStorage;
use nixery_storage::{Folder, Key, MemoryStorage, Storage};
use tokio::time::timeout;

use super::{build, bytes, fail};
use crate::error::BuildError;
use crate::testing::{Bench, CountingStorage, request};

/// What may lie in the spool with this many threads.
const THREADS: usize = 2;
const MOST_SPOOLED: usize = THREADS + 8;

/// On a clock that stands still, and moves when nothing else does.
const LONG: Duration = Duration::from_secs(3600);

/// A bench with two threads over a store with flags.
async fn bench() -> (Bench, Arc<FaultyStorage>) {
    bench_with(THREADS).await
}

async fn bench_with(threads: usize) -> (Bench, Arc<FaultyStorage>) {
    let faulty = FaultyStorage::new(Arc::new(MemoryStorage::new()));
    let storage = Arc::new(CountingStorage::over(faulty.clone()));
    let bench = Bench::over(storage, |config| config.pack_threads = threads).await;
    (bench, faulty)
}

/// Spool files that there are.
fn spooled(bench: &Bench) -> usize {
    let entries = |path| fs::read_dir(path).expect("lists").flatten();
    let instances =
        entries(bench.builder.config().spool_dir.clone()).filter(|entry| entry.path().is_dir());
    instances
        .flat_map(|instance| entries(instance.path()))
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("layer-"))
        .count()
}

/// Waits for the threads that delete spool files.
async fn nothing_is_spooled(bench: &Bench) {
    while spooled(bench) > 0 {
        tokio::task::yield_now().await;
    }
}

/// Waits until so many files were given to the store.
async fn files_given(store: &FaultyStorage, files: usize) {
    let mut given = store.files_given.subscribe();
    let reached = timeout(LONG, given.wait_for(|given| *given == files)).await;
    drop(reached.expect("nothing holds it up").expect("lives"));
}

async fn entries(bench: &Bench, folder: Folder) -> usize {
    bench
        .storage
        .list(folder)
        .await
        .expect("lists")
        .count()
        .await
}

#[tokio::test]
async fn a_slow_store_holds_up_the_packing() {
    let (bench, store) = bench().await;
    store.file_gate.forget_permits(usize::MAX);
    let handles: Vec<_> = ["a/b/c/d/e/f", "g/h/i/j/k/l", "m/n/o/p/q/r"]
        .map(|name| bench.builder.start(request(name)))
        .into();
    // Six layers and a root layer each, and three that they share.
    let files = 3 * (6 + 1) + 3;
    let mut given = store.files_given.subscribe();
    for taken in 0..=files - MOST_SPOOLED {
        let reached = given.wait_for(|given| *given >= MOST_SPOOLED + taken).await;
        assert_eq!(*reached.expect("lives"), MOST_SPOOLED + taken);
        assert_eq!(spooled(&bench), MOST_SPOOLED);
        store.file_gate.add_permits(1);
    }
    store.file_gate.add_permits(MOST_SPOOLED);
    for handle in handles {
        handle.wait().await.expect("builds");
    }
    nothing_is_spooled(&bench).await;
}

/// One image uses all threads, also many.
#[tokio::test(start_paused = true)]
async fn as_many_layers_of_an_image_are_packed_as_there_are_threads() {
    const MANY: usize = 40;
    let (bench, store) = bench_with(MANY).await;
    store.file_gate.forget_permits(usize::MAX);
    let names: Vec<_> = (0..MANY).map(|n| format!("t{n}")).collect();
    let handle = bench.builder.start(request(&names.join("/")));
    // The two that every image has, what they all need, and the root layer.
    let files = MANY + 2 + 1 + 1;
    files_given(&store, files).await;
    store.file_gate.add_permits(files);
    handle.wait().await.expect("builds");
}

#[tokio::test(start_paused = true)]
async fn the_root_layer_does_not_wait_for_the_reference_graph() {
    let (bench, store) = bench().await;
    bench.nix.graph_gate.forget_permits(usize::MAX);
    let handle = bench.builder.start(request("git"));
    files_given(&store, 1).await;
    bench.nix.graph_gate.add_permits(1);
    handle.wait().await.expect("builds");
}

#[tokio::test]
async fn a_failing_store_stops_the_build_and_leaves_nothing_behind() {
    let (bench, store) = bench().await;
    store.files_fail.store(true, Ordering::SeqCst);
    let names: Vec<_> = (0..40).map(|n| format!("t{n}")).collect();
    let error = fail(&bench, &names.join("/")).await;
    assert!(matches!(&*error, BuildError::Storage { .. }), "{error:?}");
    assert!(
        bench.packed() <= MOST_SPOOLED,
        "it goes on: {}",
        bench.packed()
    );
    nothing_is_spooled(&bench).await;
    for kind in [MANIFESTS, BUILDS, BLOBS] {
        assert_eq!(entries(&bench, kind).await, 0, "{kind:?}");
    }
    store.files_fail.store(false, Ordering::SeqCst);
    build(&bench, &names.join("/")).await;
}

#[tokio::test]
async fn what_names_a_blob_is_stored_after_it() {
    let (bench, store) = bench().await;
    store.file_gate.forget_permits(usize::MAX);
    let handle = bench.builder.start(request("git"));
    // All layers are on their way, the root layer beside the others.
    let (mut given, mut stored) = (store.files_given.subscribe(), store.stored.subscribe());
    let all = given.wait_for(|given| *given == 5).await;
    drop(all.expect("lives"));
    // The config names none of them. It is the only blob meanwhile.
    let config = stored
        .wait_for(|stored| stored.iter().any(|key| key.folder() == BLOBS))
        .await
        .expect("lives")
        .clone();
    let is_blob = |key: &&Key| key.folder() == BLOBS;
    let blobs: Vec<_> = config.iter().filter(is_blob).copied().collect();
    let [config] = blobs[..] else {
        panic!("{blobs:?}");
    };
    let config = config.digest().expect("a digest");
    let text = bytes(&bench, &config).await.expect("stored");
    ImageConfig::from_slice(&text).expect("a config");
    // Layer by layer, so that there is time for what should wait.
    for _ in 0..5 {
        tokio::task::yield_now().await;
        assert_eq!(entries(&bench, MANIFESTS).await, 0);
        store.file_gate.add_permits(1);
    }
    let image = handle.wait().await.expect("builds");
    assert_eq!(image.config.digest, config);

    let stored = stored.borrow().clone();
    let place = |key: Key| {
        let place = stored.iter().position(|stored| *stored == key);
        place.unwrap_or_else(|| panic!("{key} is not stored"))
    };
    let layers = image.layers.iter().map(|layer| Key::blob(layer.digest));
    let last_layer = layers.map(place).max().expect("has layers");
    let docker = image.docker.as_ref().expect("gzip");
    let manifests = [&image.oci, docker].map(|manifest| place(Key::blob(manifest.digest)));
    let record = stored
        .iter()
        .position(|key| key.folder() == MANIFESTS)
        .expect("is remembered");
    for manifest in manifests {
        assert!(last_layer < manifest && manifest < record, "{stored:?}");
    }
}
