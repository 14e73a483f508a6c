//! The documents and layers of an image.

use std::num::NonZeroUsize;
use std::sync::Arc;

use nixery_core::{Codec, LayerPlan, LayerStrategy, PlannedLayer, ReferenceGraph};
use nixery_manifest::{Family, ImageConfig, Manifest};

use super::{build, bytes};
use crate::config::BuilderConfig;
use crate::progress::Phase;
use crate::testing::{Fixture, store_path};

#[tokio::test]
async fn an_image_has_all_its_blobs() {
    let fixture = Fixture::new().await;
    let image = build(&fixture, "shell/git").await;
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
        let blob = bytes(&fixture, &digest).await.expect("stored");
        digest.verify(&blob).expect("stored under its digest");
        assert_eq!(blob.len() as u64, size);
        assert_eq!(
            fixture.builder.engine().blobs.expected_size(&digest),
            Some(size)
        );
    }
    assert_eq!(oci.config.digest, docker.config.digest);
    let config = bytes(&fixture, &oci.config.digest).await.expect("stored");
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
        [
            Queued, Evaluate, Realise, Graph, Plan, Pack, Assemble, Store
        ]
    );
}

#[tokio::test]
async fn the_budget_holds_with_the_root_layer() {
    for budget in [2, 3, 5] {
        let fixture =
            Fixture::with(|config| config.budget = budget.try_into().expect("not zero")).await;
        let image = build(&fixture, "a/b/c/d/e/f").await;
        assert!(
            image.layers.len() <= budget,
            "{} > {budget}",
            image.layers.len()
        );
    }
}

#[tokio::test]
async fn digests_do_not_depend_on_threads_or_directories() {
    let one = Fixture::with(|config| config.pack_threads = 1).await;
    let two = Fixture::with(|config| config.pack_threads = 2).await;
    let (first, second) = (
        build(&one, "shell/git").await,
        build(&two, "shell/git").await,
    );
    assert_eq!(first.oci, second.oci);
    assert_eq!(first.docker, second.docker);
}

#[tokio::test]
async fn a_zstd_image_is_another_image_and_has_only_an_oci_manifest() {
    let gzip = Fixture::new().await;
    let change = |config: &mut BuilderConfig| config.compression = Codec::Zstd;
    let zstd = Fixture::over(gzip.storage.clone(), change).await;
    let (first, second) = (build(&gzip, "git").await, build(&zstd, "git").await);
    assert!(!second.stats.from_cache);
    assert!(second.manifest(Family::Docker).is_none());
    let (first, second) = (&first.layers[0], &second.layers[0]);
    assert_ne!(first.digest, second.digest);
    assert_eq!(first.diff_id, second.diff_id, "the same tar");
}

#[tokio::test]
async fn architectures_are_different_images() {
    let fixture = Fixture::new().await;
    let (amd64, arm64) = (
        build(&fixture, "git").await,
        build(&fixture, "arm64/git").await,
    );
    assert_ne!(amd64.oci.digest, arm64.oci.digest);
    let config = bytes(&fixture, &arm64.config.digest).await.expect("stored");
    assert_eq!(
        ImageConfig::from_slice(&config)
            .expect("a config")
            .architecture,
        "arm64"
    );
}

/// A layer for each path; layers with equal ratings are in the order of paths, or reversed.
#[derive(Debug)]
struct AllAlike {
    backwards: bool,
}

impl LayerStrategy for AllAlike {
    fn id(&self) -> String {
        format!("all-alike {}", self.backwards)
    }

    fn plan(&self, graph: &ReferenceGraph, _: NonZeroUsize) -> LayerPlan {
        let nodes = graph.iter();
        let mut layers: Vec<_> = nodes
            .map(|(id, node)| PlannedLayer {
                paths: vec![id],
                nar_size: node.nar_size,
                rating: 7,
                reason: String::new(),
            })
            .collect();
        if self.backwards {
            layers.reverse();
        }
        LayerPlan { layers }
    }
}

#[tokio::test]
async fn an_image_keeps_the_order_of_its_layer_plan() {
    for backwards in [false, true] {
        let fixture =
            Fixture::with(|config| config.strategy = Arc::new(AllAlike { backwards })).await;
        let image = build(&fixture, "shell/git").await;
        // The root layer has no store path.
        let paths = image.layers.iter().flat_map(|layer| &layer.paths);
        let paths: Vec<_> = paths.collect();
        assert!(paths.len() > 2, "{paths:?}");
        let ordered = match backwards {
            false => paths.is_sorted(),
            true => paths.iter().rev().is_sorted(),
        };
        assert!(ordered, "backwards: {backwards}: {paths:?}");
    }
}
