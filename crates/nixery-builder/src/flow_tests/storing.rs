//! Storing of packed layers: at the same time as packing, within bounds, and in an order in which
//! every stored document names only stored blobs.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use nixery_manifest::ImageConfig;
use nixery_state::record::{BUILDS, MANIFESTS};
use nixery_state::testing::faulty::FaultyStorage;
use nixery_storage::{BLOBS, Capacity, Folder, Key, MemoryStorage, Space, Storage};
use tokio::time::timeout;

use super::{build, bytes, fail};
use crate::error::BuildError;
use crate::testing::{CountingStorage, Fixture, request};

/// Most spool files with this many threads.
const THREADS: usize = 2;
const MOST_SPOOLED: usize = THREADS + 8;

/// A duration on the paused clock, which advances when all tasks wait.
const LONG: Duration = Duration::from_secs(3600);

/// A fixture with two threads over a store with flags.
async fn fixture() -> (Fixture, Arc<FaultyStorage>) {
    fixture_with(THREADS).await
}

async fn fixture_with(threads: usize) -> (Fixture, Arc<FaultyStorage>) {
    let faulty = FaultyStorage::new(Arc::new(MemoryStorage::new()));
    let storage = Arc::new(CountingStorage::over(faulty.clone()));
    let fixture = Fixture::over(storage, |config| config.pack_threads = threads).await;
    (fixture, faulty)
}

/// Counts the spool files.
fn spooled(fixture: &Fixture) -> usize {
    let entries = |path| fs::read_dir(path).expect("lists").flatten();
    let instances =
        entries(fixture.builder.config().spool_dir.clone()).filter(|entry| entry.path().is_dir());
    instances
        .flat_map(|instance| entries(instance.path()))
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("layer-"))
        .count()
}

/// Waits for the threads that delete spool files.
async fn nothing_is_spooled(fixture: &Fixture) {
    while spooled(fixture) > 0 {
        tokio::task::yield_now().await;
    }
}

/// Waits until this many files were passed to the store.
async fn files_given(store: &FaultyStorage, files: usize) {
    let mut given = store.files_given.subscribe();
    let reached = timeout(LONG, given.wait_for(|given| *given == files)).await;
    drop(reached.expect("nothing holds it up").expect("lives"));
}

async fn entries(fixture: &Fixture, folder: Folder) -> usize {
    fixture
        .storage
        .list(folder)
        .await
        .expect("lists")
        .count()
        .await
}

#[tokio::test]
async fn packing_waits_for_a_slow_store() {
    let (fixture, store) = fixture().await;
    store.file_gate.forget_permits(usize::MAX);
    let handles: Vec<_> = ["a/b/c/d/e/f", "g/h/i/j/k/l", "m/n/o/p/q/r"]
        .map(|name| fixture.builder.start(request(name)))
        .into();
    // Six layers and a root layer each, and three that they share.
    let files = 3 * (6 + 1) + 3;
    let mut given = store.files_given.subscribe();
    for taken in 0..=files - MOST_SPOOLED {
        let reached = given.wait_for(|given| *given >= MOST_SPOOLED + taken).await;
        assert_eq!(*reached.expect("lives"), MOST_SPOOLED + taken);
        assert_eq!(spooled(&fixture), MOST_SPOOLED);
        store.file_gate.add_permits(1);
    }
    store.file_gate.add_permits(MOST_SPOOLED);
    for handle in handles {
        handle.wait().await.expect("builds");
    }
    nothing_is_spooled(&fixture).await;
}

/// One image uses all threads, even many.
#[tokio::test(start_paused = true)]
async fn as_many_layers_of_an_image_are_packed_as_there_are_threads() {
    const MANY: usize = 40;
    let (fixture, store) = fixture_with(MANY).await;
    store.file_gate.forget_permits(usize::MAX);
    let names: Vec<_> = (0..MANY).map(|n| format!("t{n}")).collect();
    let handle = fixture.builder.start(request(&names.join("/")));
    // `cacert` and `iana-etc`, `libc`, and the root layer.
    let files = MANY + 2 + 1 + 1;
    files_given(&store, files).await;
    store.file_gate.add_permits(files);
    handle.wait().await.expect("builds");
}

#[tokio::test(start_paused = true)]
async fn the_root_layer_does_not_wait_for_the_reference_graph() {
    let (fixture, store) = fixture().await;
    fixture.nix.graph_gate.forget_permits(usize::MAX);
    let handle = fixture.builder.start(request("git"));
    files_given(&store, 1).await;
    fixture.nix.graph_gate.add_permits(1);
    handle.wait().await.expect("builds");
}

#[tokio::test]
async fn a_failing_store_stops_the_build_and_leaves_no_spool_files() {
    let (fixture, store) = fixture().await;
    store.files_fail.store(true, Ordering::SeqCst);
    let names: Vec<_> = (0..40).map(|n| format!("t{n}")).collect();
    let error = fail(&fixture, &names.join("/")).await;
    assert!(matches!(&*error, BuildError::Storage { .. }), "{error:?}");
    assert!(
        fixture.packed() <= MOST_SPOOLED,
        "it goes on: {}",
        fixture.packed()
    );
    nothing_is_spooled(&fixture).await;
    for kind in [MANIFESTS, BUILDS, BLOBS] {
        assert_eq!(entries(&fixture, kind).await, 0, "{kind:?}");
    }
    store.files_fail.store(false, Ordering::SeqCst);
    build(&fixture, &names.join("/")).await;
}

#[tokio::test]
async fn a_document_is_stored_after_the_blobs_it_names() {
    let (fixture, store) = fixture().await;
    store.file_gate.forget_permits(usize::MAX);
    let handle = fixture.builder.start(request("git"));
    // All layers are being stored, also the root layer.
    let (mut given, mut stored) = (store.files_given.subscribe(), store.stored.subscribe());
    let all = given.wait_for(|given| *given == 5).await;
    drop(all.expect("lives"));
    // The config names no blobs. It is the only stored blob meanwhile.
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
    let text = bytes(&fixture, &config).await.expect("stored");
    ImageConfig::from_slice(&text).expect("a config");
    // Layer by layer, so that a document that does not wait would be stored too early.
    for _ in 0..5 {
        tokio::task::yield_now().await;
        assert_eq!(entries(&fixture, MANIFESTS).await, 0);
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

#[tokio::test]
async fn without_disk_space_no_image_is_built_and_cached_ones_are_found() {
    let fixture = Fixture::new().await;
    let cached = build(&fixture, "git").await;
    let space = |available, files| Space {
        bytes: Capacity {
            total: 1 << 40,
            available,
        },
        files: Some(Capacity {
            total: 1 << 20,
            available: files,
        }),
    };
    for (space, words) in [
        (
            space(1 << 20, 1 << 20),
            "its blob store is short of disk space",
        ),
        (space(1 << 40, 10), "its blob store is short of inodes"),
    ] {
        *fixture.storage.space.lock().expect("not poisoned") = Some(space);
        let error = fail(&fixture, "htop").await;
        assert!(matches!(&*error, BuildError::DiskFull { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(build(&fixture, "git").await.oci, cached.oci);
    }
    assert_eq!(fixture.realisations(), 1, "nothing was built");
    *fixture.storage.space.lock().expect("not poisoned") = Some(space(1 << 40, 1 << 20));
    build(&fixture, "htop").await;
}
