use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn layer(content: &str, sharing: u64, size: u64) -> ImageLayer {
    ImageLayer {
        digest: Digest::of(content.as_bytes()),
        diff_id: Digest::of(format!("tar of {content}").as_bytes()),
        size,
        compression: Compression::Gzip,
        sharing,
        created_by: "nixery".to_owned(),
        comment: Some(content.to_owned()),
    }
}

fn parts(layers: Vec<ImageLayer>) -> ImageParts {
    ImageParts {
        platform: Platform {
            architecture: "arm64".to_owned(),
            os: "linux".to_owned(),
            variant: None,
        },
        layers,
        root: Some(layer("root", 0, 1)),
        config: RuntimeConfig {
            env: vec!["PATH=/bin".to_owned(), "A=b".to_owned()],
            cmd: vec!["/bin/bash".to_owned()],
            working_dir: "/root".to_owned(),
            labels: BTreeMap::from([
                ("org.example.b".to_owned(), "2".to_owned()),
                ("org.example.a".to_owned(), "1".to_owned()),
            ]),
            ..RuntimeConfig::default()
        },
        annotations: BTreeMap::from([("org.example.note".to_owned(), "n".to_owned())]),
    }
}

fn comments(image: &AssembledImage) -> Vec<&str> {
    image
        .layers
        .iter()
        .filter_map(|layer| layer.comment.as_deref())
        .collect()
}

fn text(blob: &Blob) -> &str {
    std::str::from_utf8(&blob.bytes).expect("JSON is UTF-8")
}

/// If this fails and the change is intended, note it in the changelog: every image gets new
/// digests.
#[test]
fn bytes_are_pinned() {
    let image = assemble(parts(vec![layer("a", 5, 10)])).expect("the parts are valid");
    assert_eq!(
        text(&image.config),
        concat!(
            r#"{"created":"1970-01-01T00:00:01Z","architecture":"arm64","os":"linux","#,
            r#""config":{"Env":["PATH=/bin","A=b"],"Cmd":["/bin/bash"],"WorkingDir":"/root","#,
            r#""Labels":{"org.example.a":"1","org.example.b":"2"}},"#,
            r#""rootfs":{"type":"layers","diff_ids":["#,
            r#""sha256:2b4ce31ec64dcbce980bdaa793bb0df6926d6291dfb121d4b0569e0f7404226f","#,
            r#""sha256:57597f36a10432711cb7928356cbb81aeb487a150a7b6b0aa17c878d2f7d86ae"]},"#,
            r#""history":[{"created":"1970-01-01T00:00:01Z","created_by":"nixery","comment":"a"},"#,
            r#"{"created":"1970-01-01T00:00:01Z","created_by":"nixery","comment":"root"}]}"#,
        )
    );
    assert_eq!(
        text(&image.oci),
        concat!(
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
            r#""config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":544,"#,
            r#""digest":"sha256:8cd1ea936022c704b5e7127897929b82549c826f3933198e6971978f3c1a4dea"},"#,
            r#""layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":10,"#,
            r#""digest":"sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},"#,
            r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":1,"#,
            r#""digest":"sha256:4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2"}],"#,
            r#""annotations":{"org.example.note":"n"}}"#,
        )
    );
    assert_eq!(
        image.docker.as_ref().map(text),
        Some(concat!(
            r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","#,
            r#""config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":544,"#,
            r#""digest":"sha256:8cd1ea936022c704b5e7127897929b82549c826f3933198e6971978f3c1a4dea"},"#,
            r#""layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":10,"#,
            r#""digest":"sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},"#,
            r#"{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":1,"#,
            r#""digest":"sha256:4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2"}]}"#,
        ))
    );
}

#[test]
fn layers_are_sorted_and_the_root_is_last() {
    let image = assemble(parts(vec![
        layer("small", 1, 5),
        layer("popular", 9, 1),
        layer("large", 1, 50),
        layer("tie", 1, 5),
    ]))
    .expect("the parts are valid");
    let mut tied = [("small", Digest::of(b"small")), ("tie", Digest::of(b"tie"))];
    tied.sort_by_key(|(_, digest)| *digest);
    assert_eq!(
        comments(&image),
        ["popular", "large", tied[0].0, tied[1].0, "root"]
    );
}

#[test]
fn zstd_makes_no_docker_manifest() {
    let zstd = |layer: ImageLayer| ImageLayer {
        compression: Compression::Zstd,
        ..layer
    };
    let mut parts = parts(vec![zstd(layer("a", 1, 1))]);
    parts.root = parts.root.map(zstd);
    let image = assemble(parts).expect("the parts are valid");
    assert_eq!(image.docker, None);
    assert_eq!(image.manifest(Family::Docker), None);
    let manifest = Manifest::from_slice(&image.oci.bytes).expect("it reads back");
    assert!(
        manifest
            .layers
            .iter()
            .all(|layer| layer.media_type == MediaType::OciLayerZstd)
    );
}

#[test]
fn an_image_may_lack_a_root_layer_or_all_others() {
    let mut only_root = parts(vec![]);
    let image = assemble(only_root.clone()).expect("a root layer alone is an image");
    assert_eq!(comments(&image), ["root"]);
    only_root.layers = only_root.root.take().into_iter().collect();
    let image = assemble(only_root).expect("a layer without a root layer is an image");
    assert_eq!(comments(&image), ["root"]);
}

#[rstest]
#[case(|parts: &mut ImageParts| { parts.layers.clear(); parts.root = None; }, "at least one layer")]
#[case(|parts: &mut ImageParts| parts.layers.push(parts.layers[0].clone()), "occurs twice in the image")]
#[case(|parts: &mut ImageParts| parts.root = parts.layers.first().cloned(), "occurs twice in the image")]
#[case(
    |parts: &mut ImageParts| parts.layers[0].compression = Compression::Zstd,
    "Fix: compress all layers of an image in the same way"
)]
#[case(|parts: &mut ImageParts| parts.platform.os.clear(), "the platform's os is empty")]
#[case(|parts: &mut ImageParts| parts.platform.architecture.clear(), "the platform's architecture")]
fn rejects_parts_that_do_not_make_an_image(
    #[case] spoil: fn(&mut ImageParts),
    #[case] message: &str,
) {
    let mut parts = parts(vec![layer("a", 5, 10)]);
    spoil(&mut parts);
    let error = assemble(parts).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

proptest! {
    #[test]
    fn order_of_the_parts_does_not_matter(
        (layers, shuffled) in prop::collection::vec((0_u64..3, 0_u64..3), 1..12)
            .prop_map(|facts| {
                facts
                    .into_iter()
                    .enumerate()
                    .map(|(index, (sharing, size))| layer(&index.to_string(), sharing, size))
                    .collect::<Vec<_>>()
            })
            .prop_flat_map(|layers| (Just(layers.clone()), Just(layers).prop_shuffle())),
    ) {
        prop_assert_eq!(assemble(parts(layers)), assemble(parts(shuffled)));
    }

    /// A client reuses a common prefix of the chain, so a layer of one image must not lie below
    /// the layers that both images have.
    #[test]
    fn images_share_a_prefix(common in 1_usize..8, own in 0_usize..4) {
        let shared: Vec<_> = (0..common).map(|i| layer(&format!("shared {i}"), 100, 1)).collect();
        let image = |name: &str| {
            let mut layers = shared.clone();
            layers.extend((0..own).map(|i| layer(&format!("{name} {i}"), 1, 1_000)));
            assemble(parts(layers)).map(|image| image.layers)
        };
        let (a, b) = (image("a")?, image("b")?);
        prop_assert_eq!(&a[..common], &b[..common]);
    }
}
