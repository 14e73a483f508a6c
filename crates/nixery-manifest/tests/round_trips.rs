//! Serializing and parsing are inverse.

use std::collections::{BTreeMap, BTreeSet};

use nixery_manifest::{
    Blob, Descriptor, Digest, HistoryEntry, ImageConfig, Index, Manifest, MediaType, Platform,
    RootFs, RuntimeConfig, SchemaVersion,
};
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(text(), 0..4)
}

fn map() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(text(), text(), 0..4)
}

fn set() -> impl Strategy<Value = BTreeSet<String>> {
    prop::collection::btree_set(text(), 0..4)
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let platform =
        (text(), text(), prop::option::of(text())).prop_map(|(architecture, os, variant)| {
            Platform {
                architecture,
                os,
                variant,
            }
        });
    (
        text(),
        any::<u64>(),
        digest(),
        map(),
        prop::option::of(platform),
        prop::option::of(text()),
    )
        .prop_map(
            |(media_type, size, digest, annotations, platform, artifact_type)| Descriptor {
                media_type: media_type.into(),
                size,
                digest,
                annotations,
                platform,
                artifact_type: artifact_type.map(MediaType::from),
            },
        )
}

proptest! {
    #[test]
    fn manifests_read_back(
        docker in any::<bool>(),
        artifact_type in prop::option::of(text()),
        config in descriptor(),
        layers in prop::collection::vec(descriptor(), 0..4),
        subject in prop::option::of(descriptor()),
        annotations in map(),
    ) {
        let manifest = Manifest {
            schema_version: SchemaVersion,
            media_type: if docker { MediaType::DockerManifest } else { MediaType::OciManifest },
            artifact_type: artifact_type.map(MediaType::from),
            config,
            layers,
            subject,
            annotations,
        };
        let bytes = manifest.to_bytes();
        let read = Manifest::from_slice(&bytes)?;
        prop_assert_eq!(&read, &manifest);
        prop_assert_eq!(read.to_bytes(), bytes);
    }

    #[test]
    fn indexes_read_back(
        docker in any::<bool>(),
        manifests in prop::collection::vec(descriptor(), 0..4),
        annotations in map(),
    ) {
        let mut index = Index::new(manifests);
        if docker {
            index.media_type = MediaType::DockerManifestList;
        }
        index.annotations = annotations;
        let bytes = index.to_bytes();
        let read = Index::from_slice(&bytes)?;
        prop_assert_eq!(&read, &index);
        prop_assert_eq!(read.to_bytes(), bytes);
    }

    #[test]
    fn configs_read_back(
        created in prop::option::of(text()),
        platform in (text(), text(), prop::option::of(text())),
        (user, working_dir, stop_signal) in (text(), text(), text()),
        (env, entrypoint, cmd) in (texts(), texts(), texts()),
        (exposed_ports, volumes, labels) in (set(), set(), map()),
        diff_ids in prop::collection::vec(digest(), 0..4),
        steps in prop::collection::vec((prop::option::of(text()), prop::option::of(text()), any::<bool>()), 0..4),
    ) {
        let (architecture, os, variant) = platform;
        let config = ImageConfig {
            created,
            architecture,
            os,
            variant,
            config: RuntimeConfig {
                user, exposed_ports, env, entrypoint, cmd, volumes, working_dir, labels, stop_signal,
            },
            rootfs: RootFs::layers(diff_ids),
            history: steps
                .into_iter()
                .map(|(created_by, comment, empty_layer)| HistoryEntry {
                    created: None, created_by, comment, empty_layer,
                })
                .collect(),
        };
        let bytes = config.to_bytes();
        let read = ImageConfig::from_slice(&bytes)?;
        prop_assert_eq!(&read, &config);
        prop_assert_eq!(read.to_bytes(), bytes);
    }

    #[test]
    fn a_blob_points_at_its_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let blob = Blob::new(MediaType::OciEmpty, bytes.clone());
        let descriptor = blob.descriptor();
        prop_assert_eq!(descriptor.digest.verify(&bytes), Ok(()));
        prop_assert_eq!(descriptor.size, bytes.len() as u64);
    }

    #[test]
    fn hostile_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::from_slice(&bytes).is_err());
        prop_assert!(Index::from_slice(&bytes).is_err());
        prop_assert!(ImageConfig::from_slice(&bytes).is_err());
    }
}
