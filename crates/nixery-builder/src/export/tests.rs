//! Exports that are written, and that are refused. Real readers are in the end-to-end tests.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use bytes::Bytes;
use nixery_core::Architecture;
use nixery_manifest::{
    Compression, ImageLayer, ImageParts, Index, Manifest, Platform, RuntimeConfig, assemble,
};
use nixery_state::record::LayerSummary;
use nixery_storage::{Key, MemoryStorage, PutMode, Storage};
use rstest::rstest;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

use super::*;
use crate::{BuildStats, Image};

struct Fixture {
    image: Image,
    storage: Arc<dyn Storage>,
    directory: TempDir,
}

impl Fixture {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn oci(&self, name: &str, reference: &str) -> Result<Exported, ExportError> {
        write_oci_layout(
            &self.image,
            &self.storage,
            &self.path(name),
            reference,
            |_| (),
        )
        .await
    }

    async fn docker(&self, name: &str) -> Result<Exported, ExportError> {
        let tags = ["git/htop:latest".to_owned()];
        write_docker_archive(&self.image, &self.storage, &self.path(name), &tags, |_| ()).await
    }

    /// Names in the directory, temporary ones included.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// An image of a large and a small layer, with every blob in a store.
async fn fixture() -> Fixture {
    let storage = MemoryStorage::new();
    let contents = [Bytes::from(vec![1; 300_001]), Bytes::from("root")];
    let layer = |bytes: &Bytes, sharing| ImageLayer {
        digest: Digest::of(bytes),
        diff_id: Digest::of(&[b"tar of ", &bytes[..]].concat()),
        size: bytes.len() as u64,
        compression: Compression::Gzip,
        sharing,
        created_by: "a test".into(),
        comment: None,
    };
    let assembled = assemble(ImageParts {
        platform: Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
            variant: None,
        },
        layers: vec![layer(&contents[0], 5)],
        root: Some(layer(&contents[1], 0)),
        config: RuntimeConfig::default(),
        annotations: BTreeMap::new(),
    })
    .unwrap();
    for bytes in contents
        .iter()
        .chain([&Bytes::from(assembled.config.bytes.clone())])
    {
        let key = Key::blob(Digest::of(bytes));
        let _ = storage
            .put(&key, bytes.clone(), PutMode::Replace)
            .await
            .unwrap();
    }
    let image = Image {
        key: Digest::of(b"key"),
        name: "git/htop".into(),
        packages: vec!["git".into(), "htop".into()],
        architecture: Architecture::Amd64,
        config: Manifest::from_slice(&assembled.oci.bytes).unwrap().config,
        docker: assembled.docker.map(Into::into),
        oci: assembled.oci.into(),
        layers: assembled
            .layers
            .iter()
            .map(|layer| LayerSummary {
                digest: layer.digest,
                diff_id: layer.diff_id,
                size: layer.size,
                tar_size: layer.size,
                paths: Vec::new(),
                reason: String::new(),
                cached: false,
            })
            .collect(),
        versions: None,
        stats: BuildStats::default(),
    };
    Fixture {
        image,
        storage: Arc::new(storage),
        directory: tempfile::tempdir().unwrap(),
    }
}

fn index(layout: &Path) -> Index {
    Index::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap()
}

fn references(layout: &Path) -> Vec<String> {
    let name = |entry: &nixery_manifest::Descriptor| {
        entry.annotations["org.opencontainers.image.ref.name"].clone()
    };
    index(layout).manifests.iter().map(name).collect()
}

#[tokio::test]
async fn a_layout_holds_what_its_index_names() {
    let fixture = fixture().await;
    let exported = fixture.oci("layout", "latest").await.unwrap();
    let layout = fixture.path("layout");
    assert_eq!(
        fs::read(layout.join("oci-layout")).unwrap(),
        br#"{"imageLayoutVersion":"1.0.0"}"#
    );
    let entry = &index(&layout).manifests[0];
    assert_eq!(entry.digest, fixture.image.oci.digest);
    assert_eq!(entry.platform.as_ref().unwrap().architecture, "amd64");
    let blob = |digest: &Digest| fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap();
    let manifest = Manifest::from_slice(&blob(&entry.digest)).unwrap();
    let mut bytes = entry.size;
    for descriptor in manifest.layers.iter().chain([&manifest.config]) {
        let blob = blob(&descriptor.digest);
        assert_eq!(Digest::of(&blob), descriptor.digest);
        assert_eq!(blob.len() as u64, descriptor.size);
        bytes += descriptor.size;
    }
    assert_eq!(exported.bytes_written, bytes);
    assert_eq!(
        fs::read_dir(layout.join("blobs/sha256")).unwrap().count(),
        4
    );
    assert_eq!(references(&layout), ["latest"]);
}

#[tokio::test]
async fn a_layout_is_added_to_and_a_reference_replaced() {
    let fixture = fixture().await;
    let layout = fixture.path("layout");
    for (reference, expected) in [
        ("latest", vec!["latest"]),
        ("other", vec!["latest", "other"]),
        ("latest", vec!["other", "latest"]),
    ] {
        let exported = fixture.oci("layout", reference).await.unwrap();
        assert_eq!(references(&layout), expected);
        assert_eq!(exported.blobs_kept, if expected.len() == 1 { 0 } else { 3 });
    }
    // A truncated blob is written again.
    let blob = layout
        .join("blobs/sha256")
        .join(fixture.image.layers[0].digest.hex());
    fs::write(&blob, "cut").unwrap();
    fixture.oci("layout", "latest").await.unwrap();
    assert_eq!(fs::metadata(&blob).unwrap().len(), 300_001);
}

#[tokio::test]
async fn other_directories_are_left_alone() {
    let fixture = fixture().await;
    fs::create_dir(fixture.path("mine")).unwrap();
    fs::write(fixture.path("mine/file"), "").unwrap();
    let error = check_oci_layout(&fixture.path("mine")).unwrap_err();
    assert!(matches!(error, ExportError::NotALayout { .. }), "{error}");
    let error = fixture.oci("mine", "latest").await.unwrap_err();
    assert!(matches!(error, ExportError::NotALayout { .. }), "{error}");
    assert_eq!(fs::read_dir(fixture.path("mine")).unwrap().count(), 1);

    fs::create_dir(fixture.path("empty")).unwrap();
    check_oci_layout(&fixture.path("empty")).unwrap();
    check_oci_layout(&fixture.path("missing")).unwrap();
    fixture.oci("empty", "latest").await.unwrap();
    fs::write(fixture.path("empty/index.json"), "[").unwrap();
    let error = fixture.oci("empty", "latest").await.unwrap_err();
    assert!(matches!(error, ExportError::DamagedIndex { .. }), "{error}");
    fs::write(
        fixture.path("empty/oci-layout"),
        r#"{"imageLayoutVersion":"2.0"}"#,
    )
    .unwrap();
    let error = fixture.oci("empty", "latest").await.unwrap_err();
    assert!(error.to_string().contains("2.0"), "{error}");

    fs::write(fixture.path("file"), "").unwrap();
    let error = fixture.oci("file", "latest").await.unwrap_err();
    assert!(matches!(error, ExportError::File { .. }), "{error}");
}

#[tokio::test]
async fn an_archive_holds_manifest_config_and_layers() {
    let fixture = fixture().await;
    let reported = Arc::new(AtomicU64::new(0));
    let progress = {
        let reported = Arc::clone(&reported);
        move |bytes| {
            reported.fetch_add(bytes, Ordering::Relaxed);
        }
    };
    let path = fixture.path("image.tar");
    let tags = ["git/htop:latest".to_owned()];
    let exported = write_docker_archive(&fixture.image, &fixture.storage, &path, &tags, progress)
        .await
        .unwrap();
    assert_eq!(reported.load(Ordering::Relaxed), exported.bytes_written);

    let mut entries = Vec::new();
    let mut archive = tar::Archive::new(fs::File::open(&path).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        entries.push((entry.path().unwrap().display().to_string(), bytes));
    }
    assert_eq!(entries[0].0, "manifest.json");
    let config = format!("{}.json", fixture.image.config.digest.hex());
    let layers: Vec<_> = fixture
        .image
        .layers
        .iter()
        .map(|layer| format!("{}.tar", layer.digest.hex()))
        .collect();
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&entries[0].1).unwrap(),
        serde_json::json!([{"Config": config, "RepoTags": ["git/htop:latest"], "Layers": layers}]),
    );
    let names: Vec<_> = entries[1..].iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, [vec![config], layers].concat());
    for (name, bytes) in &entries[1..] {
        assert!(name.starts_with(&Digest::of(bytes).hex()), "{name}");
    }
    let before = fs::read(&path).unwrap();
    fixture.docker("again.tar").await.unwrap();
    assert!(
        fs::read(fixture.path("again.tar")).unwrap() == before,
        "not reproducible"
    );
}

/// A blob is missing, has another size, or has other bytes.
#[rstest]
#[case(None, "missing in the store")]
#[case(Some(b"cut".as_slice()), "cannot be read")]
#[case(Some(b"toor".as_slice()), "corrupt")]
#[tokio::test]
async fn a_damaged_store_makes_no_export(
    #[case] bytes: Option<&'static [u8]>,
    #[case] problem: &str,
) {
    let fixture = fixture().await;
    let root = Key::blob(Digest::of(b"root"));
    match bytes {
        None => assert!(fixture.storage.delete(&root).await.unwrap()),
        Some(bytes) => {
            let put = fixture
                .storage
                .put(&root, Bytes::from_static(bytes), PutMode::Replace);
            let _ = put.await.unwrap();
        }
    }
    fs::write(fixture.path("image.tar"), "an older one").unwrap();
    let error = fixture.docker("image.tar").await.unwrap_err();
    assert!(error.to_string().contains(problem), "{error}");
    assert_eq!(
        fs::read(fixture.path("image.tar")).unwrap(),
        b"an older one"
    );
    let error = fixture.oci("layout", "latest").await.unwrap_err();
    assert!(error.to_string().contains(problem), "{error}");
    assert!(!fixture.path("layout/index.json").exists());
    assert_eq!(fixture.names().len(), 2, "{:?}", fixture.names());
}

#[tokio::test]
async fn a_destination_that_cannot_be_written_is_named() {
    let fixture = fixture().await;
    let error = fixture.docker("missing/image.tar").await.unwrap_err();
    assert!(error.to_string().contains("missing/image.tar"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_export_leaves_nothing() {
    let fixture = fixture().await;
    let (started, wait) = std::sync::mpsc::channel();
    let (go_on, cancelled) = std::sync::mpsc::channel::<()>();
    // The first chunk waits until the export is cancelled.
    let progress = move |_| {
        let _ = started.send(());
        let _ = cancelled.recv();
    };
    let path = fixture.path("image.tar");
    let export = tokio::spawn({
        let (image, storage, path) = (fixture.image.clone(), fixture.storage.clone(), path.clone());
        async move { write_docker_archive(&image, &storage, &path, &[], progress).await }
    });
    tokio::task::spawn_blocking(move || wait.recv().unwrap())
        .await
        .unwrap();
    export.abort();
    assert!(export.await.unwrap_err().is_cancelled());
    drop(go_on);
    // The thread removes its file at its next chunk.
    while !fixture.names().is_empty() {
        tokio::task::yield_now().await;
    }
}
