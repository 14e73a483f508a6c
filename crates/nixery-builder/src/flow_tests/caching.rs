//! Images and layers that are found in the store, and damaged ones that are made again.

use bytes::Bytes;
use nixery_manifest::Digest;
use nixery_nix::PackageError;
use nixery_state::record::{BUILDS, MANIFESTS};
use nixery_storage::{Key, PutMode, Storage};
use rstest::rstest;

use super::{build, bytes, fail};
use crate::error::BuildError;
use crate::testing::{Fixture, git, pinned, request};

#[tokio::test]
async fn a_second_build_packs_nothing() {
    let fixture = Fixture::new().await;
    let first = build(&fixture, "git").await;
    let packed = fixture.packed();
    assert_eq!(packed, first.layers.len());
    let second = build(&fixture, "git").await;
    assert!(second.stats.from_cache);
    assert_eq!(second.oci, first.oci);
    assert_eq!(second.docker, first.docker);
    assert_eq!(fixture.packed(), packed);
    // The source may have moved, so it is evaluated again, and only that.
    assert_eq!((fixture.evaluations(), fixture.realisations()), (2, 1));
}

#[tokio::test]
async fn a_pinned_source_is_evaluated_once() {
    let fixture = Fixture::with(pinned).await;
    let first = build(&fixture, "git").await;
    let second = build(&fixture, "git").await;
    assert!(second.stats.from_cache && second.stats.immutable);
    assert_eq!(fixture.evaluations(), 1);
    // Another server on the same store.
    let other = Fixture::over(fixture.storage.clone(), pinned).await;
    assert_eq!(build(&other, "git").await.oci, first.oci);
    assert_eq!(other.evaluations(), 0);
}

#[tokio::test]
async fn a_branch_is_evaluated_once_for_each_of_its_commits() {
    let fixture = Fixture::with(git).await;
    let first = build(&fixture, "git").await;
    let second = build(&fixture, "git").await;
    assert!(second.stats.from_cache && !second.stats.immutable);
    assert_eq!(second.oci, first.oci);
    assert_eq!(fixture.evaluations(), 1);
    let other = Fixture::over(fixture.storage.clone(), git).await;
    assert_eq!(build(&other, "git").await.oci, first.oci);
    assert_eq!(other.evaluations(), 0);

    *fixture.nix.commit.lock().expect("not poisoned") =
        Some("76543210fedcba9876543210fedcba9876543210");
    let moved = build(&fixture, "git").await;
    assert!(!moved.stats.from_cache);
    assert_ne!(moved.oci, first.oci, "its label names the commit");
    assert_eq!(fixture.evaluations(), 2);
}

#[tokio::test]
async fn a_revision_that_is_not_allowed_has_no_image() {
    let fixture = Fixture::with(git).await;
    build(&fixture, "git").await;
    *fixture.nix.commit.lock().expect("not poisoned") = None;
    match &*fail(&fixture, "git").await {
        BuildError::Package(PackageError::UnknownRevision { .. }) => {}
        error => panic!("{error:?}"),
    }
    assert_eq!(fixture.evaluations(), 1);
}

#[tokio::test]
async fn builds_that_share_a_layer_pack_it_once() {
    let fixture = Fixture::with(|config| config.pack_threads = 4).await;
    let handles: Vec<_> = (0..8)
        .map(|n| fixture.builder.start(request(&format!("tool{n}"))))
        .collect();
    let mut distinct = std::collections::BTreeSet::new();
    for handle in handles {
        let image = handle.wait().await.expect("builds");
        distinct.extend(image.layers.iter().map(|layer| layer.digest));
    }
    assert_eq!(fixture.packed(), distinct.len());
}

#[rstest]
#[case::gone(false)]
#[case::truncated(true)]
#[tokio::test]
async fn a_lost_blob_is_made_again(#[case] truncated: bool) {
    let fixture = Fixture::new().await;
    let image = build(&fixture, "git").await;
    let mut blobs: Vec<_> = image.layers.iter().map(|layer| layer.digest).collect();
    blobs.extend([image.oci.digest, image.config.digest]);
    blobs.extend(image.docker.iter().map(|docker| docker.digest));
    for digest in blobs {
        let key = Key::blob(digest);
        let whole = bytes(&fixture, &digest).await.expect("stored");
        if truncated {
            let half = whole.slice(..whole.len() / 2);
            let _ = fixture
                .storage
                .put(&key, half, PutMode::Replace)
                .await
                .expect("writes");
        } else {
            assert!(fixture.storage.delete(&key).await.expect("deletes"));
        }
        let packed = fixture.packed();
        let again = build(&fixture, "git").await;
        assert_eq!(again.oci, image.oci);
        assert!(!again.stats.from_cache);
        assert_eq!(bytes(&fixture, &digest).await, Some(whole), "{digest}");
        assert!(
            fixture.packed() - packed <= 2,
            "the lost layer and the root layer, not the others"
        );
    }
}

#[tokio::test]
async fn damaged_cache_entries_are_replaced() {
    use futures::StreamExt;
    let fixture = Fixture::new().await;
    let image = build(&fixture, "git").await;
    for kind in [MANIFESTS, BUILDS] {
        let mut entries = fixture.storage.list(kind).await.expect("lists");
        while let Some(entry) = entries.next().await {
            let key = entry.expect("lists").key;
            let key = key.expect("an entry of ours");
            let _ = fixture
                .storage
                .put(&key, "{".into(), PutMode::Replace)
                .await
                .expect("writes");
        }
    }
    let again = build(&fixture, "git").await;
    assert_eq!(
        (again.oci.digest, again.stats.from_cache),
        (image.oci.digest, false)
    );
    assert!(build(&fixture, "git").await.stats.from_cache);
}

#[tokio::test]
async fn only_manifests_are_found_by_digest() {
    let fixture = Fixture::new().await;
    let image = build(&fixture, "git").await;
    let get = async |digest| {
        fixture
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
    // It has the right size but not the right digest.
    let key = Key::blob(image.oci.digest);
    let forged = Bytes::from(image.oci.bytes.iter().map(|b| b ^ 1).collect::<Vec<_>>());
    let _ = fixture
        .storage
        .put(&key, forged, PutMode::Replace)
        .await
        .expect("writes");
    let damaged = fixture.builder.manifest_by_digest(&image.oci.digest).await;
    let damaged = damaged.expect_err("is not served");
    assert_eq!(damaged.kind(), "damaged-blob");
    assert_eq!(build(&fixture, "git").await.oci, image.oci);
    assert_eq!(
        get(image.oci.digest).await.as_ref(),
        Some(&image.oci),
        "repaired by the build"
    );
}
