//! What is found and not made again, and what is made again because it is damaged.

use bytes::Bytes;
use nixery_manifest::Digest;
use nixery_storage::{Key, PutMode, Storage};
use rstest::rstest;

use super::{build, bytes};
use crate::testing::{Bench, pinned, request};
use nixery_state::record::{BUILDS, MANIFESTS};

#[tokio::test]
async fn a_second_build_packs_nothing() {
    let bench = Bench::new().await;
    let first = build(&bench, "git").await;
    let packed = bench.packed();
    assert_eq!(packed, first.layers.len());
    let second = build(&bench, "git").await;
    assert!(second.stats.from_cache);
    assert_eq!(second.oci, first.oci);
    assert_eq!(second.docker, first.docker);
    assert_eq!(bench.packed(), packed);
    // The source may have moved, so it is evaluated again, and only that.
    assert_eq!((bench.evaluations(), bench.realisations()), (2, 1));
}

#[tokio::test]
async fn a_pinned_source_is_evaluated_once() {
    let bench = Bench::with(pinned).await;
    let first = build(&bench, "git").await;
    let second = build(&bench, "git").await;
    assert!(second.stats.from_cache && second.stats.immutable);
    assert_eq!(bench.evaluations(), 1);
    // Another server over the same store.
    let other = Bench::over(bench.storage.clone(), pinned).await;
    assert_eq!(build(&other, "git").await.oci, first.oci);
    assert_eq!(other.evaluations(), 0);
}

#[tokio::test]
async fn builds_that_share_a_layer_pack_it_once() {
    let bench = Bench::with(|config| config.pack_threads = 4).await;
    let handles: Vec<_> = (0..8)
        .map(|n| bench.builder.start(request(&format!("tool{n}"))))
        .collect();
    let mut distinct = std::collections::BTreeSet::new();
    for handle in handles {
        let image = handle.wait().await.expect("builds");
        distinct.extend(image.layers.iter().map(|layer| layer.digest));
    }
    assert_eq!(bench.packed(), distinct.len());
}

#[rstest]
#[case::gone(false)]
#[case::truncated(true)]
#[tokio::test]
async fn what_is_lost_is_made_again(#[case] truncated: bool) {
    let bench = Bench::new().await;
    let image = build(&bench, "git").await;
    let mut blobs: Vec<_> = image.layers.iter().map(|layer| layer.digest).collect();
    blobs.extend([image.oci.digest, image.config.digest]);
    blobs.extend(image.docker.iter().map(|docker| docker.digest));
    for digest in blobs {
        let key = Key::blob(digest);
        let whole = bytes(&bench, &digest).await.expect("stored");
        if truncated {
            let half = whole.slice(..whole.len() / 2);
            let _ = bench
                .storage
                .put(&key, half, PutMode::Replace)
                .await
                .expect("writes");
        } else {
            assert!(bench.storage.delete(&key).await.expect("deletes"));
        }
        let packed = bench.packed();
        let again = build(&bench, "git").await;
        assert_eq!(again.oci, image.oci);
        assert!(!again.stats.from_cache);
        assert_eq!(bytes(&bench, &digest).await, Some(whole), "{digest}");
        assert!(
            bench.packed() - packed <= 2,
            "the lost layer and the root layer, not the others"
        );
    }
}

#[tokio::test]
async fn damaged_cache_entries_are_replaced() {
    use futures::StreamExt;
    let bench = Bench::new().await;
    let image = build(&bench, "git").await;
    for kind in [MANIFESTS, BUILDS] {
        let mut entries = bench.storage.list(kind).await.expect("lists");
        while let Some(entry) = entries.next().await {
            let key = entry.expect("lists").key;
            let key = key.expect("an entry of ours");
            let _ = bench
                .storage
                .put(&key, "{".into(), PutMode::Replace)
                .await
                .expect("writes");
        }
    }
    let again = build(&bench, "git").await;
    assert_eq!(
        (again.oci.digest, again.stats.from_cache),
        (image.oci.digest, false)
    );
    assert!(build(&bench, "git").await.stats.from_cache);
}

#[tokio::test]
async fn manifests_are_found_by_digest_and_nothing_else_is() {
    let bench = Bench::new().await;
    let image = build(&bench, "git").await;
    let get = async |digest| {
        bench
            .builder
            .manifest_by_digest(&digest)
            .await
            .expect("works")
    };
    assert_eq!(get(image.oci.digest).await.as_ref(), Some(&image.oci));
    assert_eq!(
        get(image.docker.as_ref().expect("gzip").digest).await,
        image.docker
    );
    assert_eq!(
        get(image.config.digest).await,
        None,
        "a config is no manifest"
    );
    assert_eq!(get(image.layers[0].digest).await, None);
    assert_eq!(get(Digest::of(b"nothing")).await, None);
    // Of the same size, but not what its name says.
    let key = Key::blob(image.oci.digest);
    let forged = Bytes::from(image.oci.bytes.iter().map(|b| b ^ 1).collect::<Vec<_>>());
    let _ = bench
        .storage
        .put(&key, forged, PutMode::Replace)
        .await
        .expect("writes");
    assert_eq!(get(image.oci.digest).await, None);
    assert_eq!(build(&bench, "git").await.oci, image.oci);
    assert_eq!(
        get(image.oci.digest).await.as_ref(),
        Some(&image.oci),
        "mended by the build"
    );
}
