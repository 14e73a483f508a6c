//! Limits of what one image may need.
//!
//! An image of the fixture has a store path of about a megabyte for `libc` and for each package.

use std::num::NonZeroUsize;
use std::time::Duration;

use futures::StreamExt;
use nixery_core::ByteSize;
use nixery_state::record::{BUILDS, MANIFESTS};
use nixery_storage::{BLOBS, Folder, Storage};
use rstest::rstest;

use super::{build, fail};
use crate::config::BuilderConfig;
use crate::error::BuildError;
use crate::testing::{Fixture, git, pinned, request};

fn at_most(packages: usize) -> impl Fn(&mut BuilderConfig) {
    move |config| config.max_packages = NonZeroUsize::new(packages)
}

fn closure_of(bytes: u64) -> impl Fn(&mut BuilderConfig) {
    move |config| config.max_closure_size = Some(ByteSize(bytes))
}

fn layers_of(bytes: u64) -> impl Fn(&mut BuilderConfig) {
    move |config| config.max_image_size = Some(ByteSize(bytes))
}

async fn count(fixture: &Fixture, folder: Folder) -> usize {
    let entries = fixture.storage.list(folder).await.expect("lists");
    entries.count().await
}

/// The number of packed layers and folders for GC roots that are left.
fn spooled(fixture: &Fixture) -> usize {
    let instance = fixture.builder.engine().instance.path();
    let entries = std::fs::read_dir(instance).expect("is there");
    let names = entries.map(|entry| entry.expect("reads").file_name());
    names.filter(|name| name != "lock").count()
}

/// Waits until threads that were packing when their build was refused have deleted their files.
async fn spool_is_empty(fixture: &Fixture) {
    for _ in 0..1000 {
        if spooled(fixture) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} files are left in the spool", spooled(fixture));
}

#[rstest]
#[case::too_many("a/b/c", Some(3))]
#[case::each_counts_once("b/a/b/a", None)]
#[case::meta_packages_do_not_count("shell/arm64/a/b", None)]
#[tokio::test]
async fn a_name_lists_a_limited_number_of_packages(
    #[case] name: &str,
    #[case] refused: Option<usize>,
) {
    let fixture = Fixture::with(at_most(2)).await;
    let Some(count) = refused else {
        build(&fixture, name).await;
        return;
    };
    match &*fail(&fixture, name).await {
        BuildError::TooManyPackages { listed, limit } => {
            assert_eq!((*listed, limit.get()), (count, 2));
        }
        error => panic!("{error:?}"),
    }
    assert_eq!(fixture.evaluations(), 0);
    assert!(fixture.builder.recent().is_empty(), "it leaves no trace");
}

/// `nano` is part of `shell`, so both names ask for one image.
#[tokio::test]
async fn a_long_name_of_an_image_in_memory_is_refused() {
    let change = |config: &mut BuilderConfig| {
        pinned(config);
        at_most(1)(config);
    };
    let fixture = Fixture::with(change).await;
    let (short, long) = (request("shell/git"), request("shell/git/nano"));
    assert_eq!(short.name, long.name);
    build(&fixture, "shell/git").await;
    assert!(
        fixture
            .builder
            .warm_image(&short)
            .await
            .expect("a tag")
            .is_some()
    );
    assert!(
        fixture
            .builder
            .warm_image(&long)
            .await
            .expect("a tag")
            .is_none()
    );
    let error = fail(&fixture, "shell/git/nano").await;
    assert_eq!(error.kind(), "too-many-packages");
}

#[tokio::test]
async fn a_closure_that_is_too_large_is_not_packed() {
    let fixture = Fixture::with(closure_of(3_000_000)).await;
    match &*fail(&fixture, "git").await {
        BuildError::ClosureTooLarge {
            size,
            limit,
            largest,
        } => {
            // `git`, `cacert`, `iana-etc` and `libc`.
            assert!(size.0 > 4_000_000, "{size}");
            assert_eq!(*limit, ByteSize(3_000_000));
            assert_eq!(largest.len(), 3);
            assert!(largest.is_sorted_by(|one, next| one.1 >= next.1));
            assert!(largest[0].0.starts_with("iana-etc-"), "{largest:?}");
        }
        error => panic!("{error:?}"),
    }
    assert_eq!(fixture.packed(), 0);
    for folder in [BLOBS, BUILDS, MANIFESTS] {
        assert_eq!(count(&fixture, folder).await, 0, "{folder:?}");
    }
    spool_is_empty(&fixture).await;

    let raised = Fixture::over(fixture.storage.clone(), closure_of(5_000_000)).await;
    assert!(!build(&raised, "git").await.stats.from_cache);
}

/// Limits are not part of the key, and building a stored image needs no packing.
#[tokio::test]
async fn a_stored_image_is_served_whatever_its_closure() {
    let fixture = Fixture::new().await;
    build(&fixture, "git").await;
    let lowered = Fixture::over(fixture.storage.clone(), closure_of(1)).await;
    assert!(build(&lowered, "git").await.stats.from_cache);
}

#[tokio::test]
async fn an_image_that_is_too_large_has_no_record() {
    let size = build(&Fixture::new().await, "git").await.size();
    let fixture = Fixture::with(layers_of(size - 1)).await;
    match &*fail(&fixture, "git").await {
        BuildError::ImageTooLarge { size: found, limit } => {
            assert_eq!((found.0, limit.0), (size, size - 1));
        }
        error => panic!("{error:?}"),
    }
    assert_eq!(count(&fixture, MANIFESTS).await, 0);
    spool_is_empty(&fixture).await;

    let raised = Fixture::over(fixture.storage.clone(), layers_of(size)).await;
    assert_eq!(build(&raised, "git").await.size(), size);
    assert!(build(&raised, "git").await.stats.from_cache);
}

#[tokio::test]
async fn packing_stops_when_the_layers_are_too_large() {
    let change = |config: &mut BuilderConfig| {
        layers_of(1)(config);
        config.pack_threads = 1;
    };
    let fixture = Fixture::with(change).await;
    let names: Vec<_> = (0..40).map(|n| format!("p{n}")).collect();
    let error = fail(&fixture, &names.join("/")).await;
    assert_eq!(error.kind(), "image-too-large");
    spool_is_empty(&fixture).await;
    assert!(fixture.packed() < 5, "{} layers", fixture.packed());
}

#[rstest]
#[case::moving(|_: &mut BuilderConfig| {}, 1)]
#[case::pinned(pinned, 0)]
#[case::branch(git, 0)]
#[tokio::test]
async fn a_stored_image_that_is_too_large_is_refused_without_a_build(
    #[case] source: fn(&mut BuilderConfig),
    #[case] evaluations: usize,
) {
    let fixture = Fixture::with(source).await;
    let image = build(&fixture, "git").await;
    let change = |bytes| {
        move |config: &mut BuilderConfig| {
            source(config);
            layers_of(bytes)(config);
        }
    };
    let storage = || fixture.storage.clone();
    let lowered = Fixture::over(storage(), change(image.size() - 1)).await;
    let error = fail(&lowered, "git").await;
    assert_eq!(error.kind(), "image-too-large");
    assert_eq!(
        (lowered.evaluations(), lowered.realisations()),
        (evaluations, 0)
    );

    let raised = Fixture::over(storage(), change(image.size())).await;
    let again = build(&raised, "git").await;
    assert!(again.stats.from_cache);
    assert_eq!(again.oci, image.oci);
}
