//! Compatibility with documents and readers of other programs.

use std::collections::{BTreeMap, BTreeSet};

use nixery_manifest::{
    AssembledImage, Compression, Digest, Family, ImageConfig, ImageLayer, ImageParts, Index,
    Manifest, MediaType, ParseError, Platform, RuntimeConfig, assemble,
};
use rstest::rstest;

fn image(layers: usize, compression: Compression) -> AssembledImage {
    let layer = |content: &str| ImageLayer {
        digest: Digest::of(content.as_bytes()),
        diff_id: Digest::of(format!("tar of {content}").as_bytes()),
        size: 17,
        compression,
        sharing: content.len() as u64,
        created_by: "nixery".to_owned(),
        comment: None,
    };
    assemble(ImageParts {
        platform: Platform {
            architecture: "arm64".to_owned(),
            os: "linux".to_owned(),
            variant: Some("v8".to_owned()),
        },
        layers: (0..layers).map(|n| layer(&n.to_string())).collect(),
        root: Some(layer("root")),
        config: RuntimeConfig {
            user: "1000:1000".to_owned(),
            exposed_ports: BTreeSet::from(["53/udp".to_owned(), "80".to_owned()]),
            env: vec!["PATH=/bin".to_owned()],
            entrypoint: vec!["/bin/sh".to_owned(), "-c".to_owned()],
            cmd: vec!["true".to_owned()],
            volumes: BTreeSet::from(["/data".to_owned()]),
            working_dir: "/root".to_owned(),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            stop_signal: "SIGTERM".to_owned(),
        },
        annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
    })
    .expect("the parts are valid")
}

/// The types of `oci-spec` read our documents with the same meaning.
#[rstest]
#[case(Compression::Gzip)]
#[case(Compression::Zstd)]
fn oci_spec_reads_our_image(#[case] compression: Compression) {
    use oci_spec::image as oci;

    let image = image(3, compression);
    let manifest =
        oci::ImageManifest::from_reader(image.oci.bytes.as_slice()).expect("it is an OCI manifest");
    assert_eq!(manifest.schema_version(), 2);
    assert_eq!(
        manifest.media_type().as_ref(),
        Some(&oci::MediaType::ImageManifest)
    );
    assert_eq!(manifest.config().media_type(), &oci::MediaType::ImageConfig);
    assert_eq!(
        manifest.config().digest().to_string(),
        image.config.digest.to_string()
    );
    assert_eq!(manifest.config().size(), image.config.size());
    let layer_type = match compression {
        Compression::Gzip => oci::MediaType::ImageLayerGzip,
        Compression::Zstd => oci::MediaType::ImageLayerZstd,
    };
    assert_eq!(manifest.layers().len(), image.layers.len());
    for (theirs, ours) in manifest.layers().iter().zip(&image.layers) {
        assert_eq!(theirs.media_type(), &layer_type);
        assert_eq!(theirs.digest().to_string(), ours.digest.to_string());
        assert_eq!(theirs.size(), ours.size);
    }
    let annotations = manifest.annotations().as_ref().expect("it has annotations");
    assert_eq!(annotations["a"], "b");

    let config = oci::ImageConfiguration::from_reader(image.config.bytes.as_slice())
        .expect("it is an OCI config");
    assert_eq!(config.architecture(), &oci::Arch::ARM64);
    assert_eq!(config.os(), &oci::Os::Linux);
    assert_eq!(config.variant().as_deref(), Some("v8"));
    assert_eq!(config.created().as_deref(), Some("1970-01-01T00:00:01Z"));
    assert_eq!(config.rootfs().typ(), "layers");
    let diff_ids: Vec<_> = image
        .layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect();
    assert_eq!(config.rootfs().diff_ids(), &diff_ids);
    let history = config.history().as_ref().expect("there is one");
    let filled = history
        .iter()
        .filter(|step| step.empty_layer() != Some(true));
    assert_eq!(filled.count(), image.layers.len());
    let runtime = config.config().as_ref().expect("there is one");
    assert_eq!(runtime.user().as_deref(), Some("1000:1000"));
    assert_eq!(
        runtime.env().as_deref(),
        Some(&["PATH=/bin".to_owned()][..])
    );
    assert_eq!(
        runtime.entrypoint().as_deref(),
        Some(&["/bin/sh".to_owned(), "-c".to_owned()][..])
    );
    assert_eq!(runtime.cmd().as_deref(), Some(&["true".to_owned()][..]));
    assert_eq!(runtime.working_dir().as_deref(), Some("/root"));
    assert_eq!(runtime.stop_signal().as_deref(), Some("SIGTERM"));
    assert_eq!(
        runtime.volumes().as_deref(),
        Some(&["/data".to_owned()][..])
    );
    let mut ports = runtime.exposed_ports().clone().expect("it has annotations");
    ports.sort();
    assert_eq!(ports, ["53/udp", "80"]);
    assert_eq!(
        runtime.labels().as_ref().map(|labels| &labels["a"][..]),
        Some("b")
    );
}

#[test]
fn oci_spec_reads_our_indexes() {
    use oci_spec::image as oci;

    let image = image(1, Compression::Gzip);
    let mut entry = image.oci.descriptor();
    entry.platform = Some(Platform {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        variant: None,
    });
    let index = Index::new(vec![entry]);
    let read = oci::ImageIndex::from_reader(index.to_bytes().as_slice()).expect("it is an index");
    assert_eq!(
        read.manifests()[0].digest().to_string(),
        image.oci.digest.to_string()
    );
    let platform = read.manifests()[0]
        .platform()
        .as_ref()
        .expect("there is one");
    assert_eq!(platform.architecture(), &oci::Arch::Amd64);

    let empty = Index::empty().to_bytes();
    assert_eq!(
        std::str::from_utf8(&empty),
        Ok(
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#
        )
    );
    let read = oci::ImageIndex::from_reader(empty.as_slice()).expect("it is an index");
    assert!(read.manifests().is_empty());
}

/// A manifest has no media type of the other family.
#[test]
fn families_are_never_mixed() {
    let image = image(2, Compression::Gzip);
    for (family, other) in [(Family::Docker, ".oci."), (Family::Oci, ".docker.")] {
        let blob = image.manifest(family).expect("gzip layers serve both");
        let text = std::str::from_utf8(&blob.bytes).expect("JSON is UTF-8");
        assert!(!text.contains(other), "{text}");
        assert_eq!(blob.media_type, family.manifest());
        let manifest = Manifest::from_slice(&blob.bytes).expect("it reads back");
        let types = [&manifest.media_type, &manifest.config.media_type];
        for media_type in types
            .into_iter()
            .chain(manifest.layers.iter().map(|layer| &layer.media_type))
        {
            assert_eq!(media_type.family(), Some(family));
        }
        assert_eq!(manifest.config.digest, image.config.digest);
        assert_eq!(
            manifest.to_bytes(),
            blob.bytes,
            "serializing again gives the same bytes"
        );
    }
}

/// The example of the Docker registry's documentation, including its spaces.
#[test]
fn reads_a_docker_manifest_of_others() {
    let manifest = Manifest::from_slice(
        br#"{
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": "sha256:b5b2b2c507a0944348e0303114d8d93aaaa081732b86451d9bce1f432a537bc7",
                "size": 7023
            },
            "layers": [
                {
                    "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                    "digest": "sha256:e692418e4cbaf90ca69d05a66403747baa33ee08806650b51fab815ad7fc331f",
                    "size": 32654,
                    "urls": ["https://example.org/layer"]
                }
            ],
            "annotations": null
        }"#,
    )
    .expect("it is a manifest");
    assert_eq!(manifest.media_type, MediaType::DockerManifest);
    assert_eq!(manifest.config.size, 7023);
    assert_eq!(
        manifest.layers[0].media_type,
        MediaType::Other("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".to_owned())
    );
    assert!(manifest.annotations.is_empty());
}

/// Go programs write `null` for empty values and add fields.
#[test]
fn reads_a_config_of_others() {
    let config = ImageConfig::from_slice(
        br#"{
            "architecture": "amd64", "os": "linux", "docker_version": "20.10.7",
            "container_config": {"Hostname": "x", "Cmd": null},
            "config": {
                "Hostname": "", "Tty": false, "User": "", "Env": null, "Cmd": ["sh"],
                "Volumes": null, "ExposedPorts": {"80/tcp": {}}, "Entrypoint": null,
                "Labels": null, "WorkingDir": "", "OnBuild": null
            },
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "CMD", "empty_layer": true}],
            "rootfs": {"type": "layers", "diff_ids": null}
        }"#,
    )
    .expect("it is a config");
    assert_eq!(config.config.cmd, ["sh"]);
    assert!(config.config.env.is_empty());
    assert!(config.config.exposed_ports.contains("80/tcp"));
    assert!(config.history[0].empty_layer);
    assert!(config.rootfs.diff_ids.is_empty());
    let null = br#"{"architecture":"a","os":"l","config":null,"rootfs":{"type":"layers","diff_ids":[]},"history":null}"#;
    let config = ImageConfig::from_slice(null).expect("it is a config");
    assert_eq!(config.config, RuntimeConfig::default());
}

const CONFIG: &str = r#""config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}"#;

#[rstest]
#[case("", "cannot read the image manifest")]
#[case("[]", "cannot read the image manifest")]
#[case(r#"{"schemaVersion":2,CONFIG}"#, "cannot read the image manifest")]
#[case(r#"{"schemaVersion":2}"#, "cannot read the image manifest")]
#[case(
    r#"{"schemaVersion":1,CONFIG,"layers":[]}"#,
    "cannot read the image manifest"
)]
#[case(
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",CONFIG,"layers":[]}"#,
    "expected an image manifest, but the document has the media type `application/vnd.oci.image.index.v1+json`"
)]
#[case(
    r#"{"schemaVersion":2,CONFIG,"layers":[],"manifests":[]}"#,
    "the image manifest is ambiguous"
)]
fn rejects_what_is_not_a_manifest(#[case] json: &str, #[case] message: &str) {
    let json = json.replace("CONFIG", CONFIG);
    let error = Manifest::from_slice(json.as_bytes())
        .unwrap_err()
        .to_string();
    assert!(error.contains(message), "{error}");
}

#[rstest]
#[case(r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, "`layers`")]
#[case(r#"{"schemaVersion":2,"manifests":[],"config":{}}"#, "`config`")]
#[case(
    r#"{"schemaVersion":2,"mediaType":"text/plain","manifests":[]}"#,
    "expected an image index, but the document has the media type `text/plain`"
)]
#[case(r#"{"schemaVersion":2}"#, "cannot read the image index")]
#[case(r#"{"schemaVersion":3,"manifests":[]}"#, "cannot read the image index")]
fn rejects_what_is_not_an_index(#[case] json: &str, #[case] message: &str) {
    let error = Index::from_slice(json.as_bytes()).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

/// The source of the error has the position and the reason, and the message does not repeat it.
#[test]
fn a_json_error_names_the_place() {
    let error = Manifest::from_slice(br#"{"schemaVersion":1}"#).unwrap_err();
    let ParseError::Json { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(source.to_string().contains("schemaVersion 2"), "{source}");
    assert!(!error.to_string().contains("schemaVersion"), "{error}");
}
