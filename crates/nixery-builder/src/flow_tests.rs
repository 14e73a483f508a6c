//! The builder as its callers see it, over the doubles of [`crate::testing`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nixery_manifest::{Compression, Digest, Family, ImageConfig, Manifest};
use nixery_storage::{Key, KeyKind, PutMode, Storage};
use rstest::rstest;

use crate::config::BuilderConfig;
use crate::error::BuildError;
use crate::handle::BuildState;
use crate::image::Image;
use crate::progress::Phase;
use crate::testing::{Bench, pinned, request, store_path};

async fn build(bench: &Bench, name: &str) -> Arc<Image> {
    bench
        .builder
        .request(request(name))
        .wait()
        .await
        .expect("builds")
}

async fn fail(bench: &Bench, name: &str) -> Arc<BuildError> {
    bench
        .builder
        .request(request(name))
        .wait()
        .await
        .expect_err("fails")
}

async fn bytes(bench: &Bench, digest: &Digest) -> Option<Bytes> {
    bench
        .storage
        .get_bytes(&Key::Blob(*digest), u64::MAX)
        .await
        .expect("reads")
}

#[tokio::test]
async fn an_image_is_whole() {
    let bench = Bench::new().await;
    let image = build(&bench, "shell/git").await;
    let oci = Manifest::from_slice(&image.oci.bytes).expect("an OCI manifest");
    let docker = image
        .manifest(Family::Docker)
        .expect("gzip layers can be had as Docker's");
    let docker = Manifest::from_slice(&docker.bytes).expect("a Docker manifest");

    let in_manifest: Vec<_> = oci
        .layers
        .iter()
        .map(|layer| (layer.digest, layer.size))
        .collect();
    let in_image: Vec<_> = image
        .layers
        .iter()
        .map(|layer| (layer.digest, layer.size))
        .collect();
    assert_eq!(
        in_manifest, in_image,
        "the summary has the manifest's order"
    );
    for (digest, size) in in_manifest {
        let blob = bytes(&bench, &digest).await.expect("stored");
        digest.verify(&blob).expect("stored under its digest");
        assert_eq!(blob.len() as u64, size);
        assert_eq!(bench.builder.expected_size(&digest), Some(size));
    }
    assert_eq!(oci.config.digest, docker.config.digest);
    let config = bytes(&bench, &oci.config.digest).await.expect("stored");
    let config = ImageConfig::from_slice(&config).expect("a config");
    assert_eq!(config.config.cmd, ["bash"]);
    assert!(
        config
            .config
            .env
            .contains(&"SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt".to_owned())
    );
    assert_eq!(config.config.labels["nixery.source"], "path");
    assert!(
        !format!("{config:?}").contains("/srv"),
        "no path of the server"
    );

    let mut paths: Vec<_> = image
        .layers
        .iter()
        .flat_map(|layer| layer.paths.clone())
        .collect();
    paths.sort();
    let mut expected: Vec<_> = image
        .packages
        .iter()
        .map(|name| store_path(&format!("{name}-x86_64-linux")))
        .collect();
    expected.push(store_path("libc"));
    expected.sort();
    assert_eq!(paths, expected, "every path in exactly one layer");
    let phases: Vec<_> = image.stats.phases.iter().map(|(phase, _)| *phase).collect();
    use Phase::*;
    assert_eq!(
        phases,
        [Queued, Evaluate, Realise, Graph, Plan, Pack, Assemble]
    );
}

#[tokio::test]
async fn the_budget_holds_with_the_root_layer() {
    for budget in [2, 3, 5] {
        let bench =
            Bench::with(|config| config.budget = budget.try_into().expect("not zero")).await;
        let image = build(&bench, "a/b/c/d/e/f").await;
        assert!(
            image.layers.len() <= budget,
            "{} > {budget}",
            image.layers.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_clients_cause_one_build() {
    let bench = Bench::new().await;
    bench.nix.gate.forget_permits(usize::MAX);
    let requests = ["git/hello", "hello/git", "hello/git/hello"]
        .into_iter()
        .cycle()
        .take(50);
    let handles: Vec<_> = requests
        .map(|name| bench.builder.request(request(name)))
        .collect();
    assert_eq!(bench.builder.running(), 1);
    bench.nix.gate.add_permits(50);
    for handle in &handles {
        assert_eq!(handle.id(), handles[0].id());
        handle.wait().await.expect("builds");
    }
    assert_eq!((bench.evaluations(), bench.realisations()), (1, 1));
}

#[tokio::test]
async fn a_build_goes_on_when_its_client_is_gone() {
    let bench = Bench::new().await;
    bench.nix.gate.forget_permits(usize::MAX);
    let handle = bench.builder.request(request("git"));
    let mut progress = handle.progress();
    let waiting = tokio::spawn(async move { handle.wait().await });
    progress
        .wait_for(|progress| progress.phase == Phase::Realise)
        .await
        .expect("runs");
    waiting.abort();
    assert!(waiting.await.expect_err("aborted").is_cancelled());
    drop(progress);

    bench.nix.gate.add_permits(1);
    bench.builder.drain().await;
    let summary = bench.builder.recent().remove(0);
    assert!(
        matches!(summary.state, BuildState::Succeeded { .. }),
        "{summary:?}"
    );
    assert!(build(&bench, "git").await.stats.from_cache);
}

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
async fn a_recent_image_of_a_pinned_source_answers_at_once() {
    let bench = Bench::with(|config| {
        pinned(config);
        config.recheck_after = Duration::from_secs(3600);
    })
    .await;
    let first = bench.builder.request(request("git"));
    let image = first.wait().await.expect("builds");
    assert_eq!(bench.builder.request(request("git")).id(), first.id());
    // Until somebody finds a blob missing.
    let layer = image.layers[0].digest;
    bench
        .storage
        .delete(&Key::Blob(layer))
        .await
        .expect("deletes");
    bench.builder.report_missing(&layer);
    let mended = build(&bench, "git").await;
    assert_eq!(mended.oci, image.oci);
    assert!(bytes(&bench, &layer).await.is_some());
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
        let key = Key::Blob(digest);
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
    for kind in [KeyKind::Manifest, KeyKind::Build] {
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
async fn digests_depend_on_neither_threads_nor_place() {
    let one = Bench::with(|config| config.pack_threads = 1).await;
    let two = Bench::with(|config| config.pack_threads = 2).await;
    let (first, second) = (
        build(&one, "shell/git").await,
        build(&two, "shell/git").await,
    );
    assert_eq!(first.oci, second.oci);
    assert_eq!(first.docker, second.docker);
}

#[tokio::test]
async fn zstd_images_are_oci_only_and_another_image() {
    let gzip = Bench::new().await;
    let change = |config: &mut BuilderConfig| config.compression = Compression::Zstd;
    let zstd = Bench::over(gzip.storage.clone(), change).await;
    let (first, second) = (build(&gzip, "git").await, build(&zstd, "git").await);
    assert!(!second.stats.from_cache);
    assert!(second.manifest(Family::Docker).is_none());
    let (first, second) = (&first.layers[0], &second.layers[0]);
    assert_ne!(first.digest, second.digest);
    assert_eq!(first.diff_id, second.diff_id, "the same tar");
}

#[tokio::test]
async fn architectures_are_different_images() {
    let bench = Bench::new().await;
    let (amd64, arm64) = (build(&bench, "git").await, build(&bench, "arm64/git").await);
    assert_ne!(amd64.oci.digest, arm64.oci.digest);
    let config = bytes(&bench, &arm64.config.digest).await.expect("stored");
    assert_eq!(
        ImageConfig::from_slice(&config)
            .expect("a config")
            .architecture,
        "arm64"
    );
}

#[tokio::test]
async fn builds_that_share_a_layer_pack_it_once() {
    let bench = Bench::with(|config| config.pack_threads = 4).await;
    let handles: Vec<_> = (0..8)
        .map(|n| bench.builder.request(request(&format!("tool{n}"))))
        .collect();
    let mut distinct = std::collections::BTreeSet::new();
    for handle in handles {
        let image = handle.wait().await.expect("builds");
        distinct.extend(image.layers.iter().map(|layer| layer.digest));
    }
    assert_eq!(bench.packed(), distinct.len());
}

#[tokio::test]
async fn a_failure_answers_for_a_while_and_then_is_tried_again() {
    let bench = Bench::with(|config| config.failure_ttl = Duration::from_secs(3600)).await;
    let first = bench.builder.request(request("missing-a/missing-b"));
    match &*first.wait().await.expect_err("fails") {
        BuildError::NotFound { packages } => assert_eq!(packages, &["missing-a", "missing-b"]),
        error => panic!("{error:?}"),
    }
    assert_eq!(
        bench.builder.request(request("missing-b/missing-a")).id(),
        first.id()
    );
    assert_eq!(bench.evaluations(), 1);

    let bench = Bench::new().await;
    for tries in 1..=2 {
        let error = fail(&bench, "broken").await;
        assert_eq!(
            (error.slug().as_str(), error.log_tail()),
            ("broken:builder-exited-1", &["no".to_owned()][..])
        );
        assert_eq!(bench.realisations(), tries);
    }
}

#[tokio::test]
async fn a_panic_is_a_failed_build() {
    let bench = Bench::new().await;
    let error = fail(&bench, "panics").await;
    assert!(matches!(&*error, BuildError::Internal { .. }), "{error:?}");
    bench.builder.drain().await;
    build(&bench, "git").await;
}

#[tokio::test]
async fn gc_roots_last_as_long_as_the_build() {
    let bench = Bench::new().await;
    build(&bench, "git").await;
    let roots = bench
        .nix
        .gc_roots
        .lock()
        .expect("not poisoned")
        .take()
        .expect("was rooted");
    assert!(!roots.exists());
    fail(&bench, "broken").await;
    let roots = bench
        .nix
        .gc_roots
        .lock()
        .expect("not poisoned")
        .take()
        .expect("was rooted");
    assert!(!roots.exists());
}

#[tokio::test]
async fn builds_are_limited() {
    let bench = Bench::with(|config| config.max_builds = 2).await;
    bench.nix.gate.forget_permits(usize::MAX);
    let handles: Vec<_> = (0..6)
        .map(|n| bench.builder.request(request(&format!("tool{n}"))))
        .collect();
    // All are evaluated, two are realised, and the rest wait.
    for handle in &handles {
        let mut progress = handle.progress();
        let settled = |phase| matches!(phase, Phase::Realise | Phase::Queued);
        progress
            .wait_for(|progress| progress.log_line.is_some() && settled(progress.phase))
            .await
            .expect("runs");
    }
    assert_eq!(bench.realisations(), 2);
    bench.nix.gate.add_permits(6);
    for handle in handles {
        handle.wait().await.expect("builds");
    }
}

#[tokio::test]
async fn history_is_bounded_and_cached_look_ups_do_not_fill_it() {
    let bench = Bench::with(|config| config.history = 5).await;
    fail(&bench, "broken").await;
    for _ in 0..20 {
        build(&bench, "git").await;
    }
    bench.builder.drain().await;
    let recent = bench.builder.recent();
    assert_eq!(recent.len(), 3, "failure, build, last look-up");
    let failed = recent.last().expect("is there");
    assert!(matches!(&failed.state, BuildState::Failed(error) if error.kind() == "build-failed"));
    let log = bench.builder.log(&failed.id).expect("is there");
    assert!(
        log.contains("realising\nerror: package `broken` failed to build"),
        "{log}"
    );

    for n in 0..10 {
        build(&bench, &format!("tool{n}")).await;
    }
    bench.builder.drain().await;
    assert_eq!(bench.builder.recent().len(), 5);
    assert!(bench.builder.build(&failed.id).is_none());
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
    let key = Key::Blob(image.oci.digest);
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
