//! A store with images in it, dated by tokio's clock, which tests stop and set.

use crate::graphs::GRAPHS;
use crate::lease::LEASES;
use crate::marks::USES;
use crate::record::BUILDS;
use crate::record::MANIFESTS;
use nixery_storage::BLOBS;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use nixery_core::{Architecture, StorePath};
use nixery_manifest::{Compression, Descriptor, Digest, MediaType};
use nixery_storage::{Contents, Folder, Key, MemoryStorage, Storage, StorageError};
use tokio::time::Instant;

use crate::gc::{GcError, GcMode, GcPolicy, GcReport, InUse, Retention, collect};
use crate::graphs;
use crate::record::{self, ImageRecord, LayerRecord, LayerSummary};

/// Folders of features that this crate does not know.
pub const TRAFFIC: Folder = Folder::new("traffic", Contents::Binary);
pub const PLANS: Folder = Folder::new("plans", Contents::Binary);

pub const GRACE: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

pub fn memory() -> Arc<MemoryStorage> {
    let start = Instant::now();
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    Arc::new(MemoryStorage::with_clock(move || epoch + start.elapsed()))
}

/// A store path with this name.
pub fn store_path(name: &str) -> StorePath {
    let hash = Digest::of(name.as_bytes()).hex().replace('e', "z");
    StorePath::parse(&format!("/nix/store/{}-{name}", &hash[..32])).expect("valid")
}

/// Retention of the graphs, and of the traffic as the feature has it that this crate knows nothing of.
pub const RETENTIONS: [Retention; 2] = [
    graphs::KEPT,
    Retention {
        folder: TRAFFIC,
        kept_for: Duration::from_secs(90 * 24 * 3600),
        limit: 200_000,
        in_use: InUse::Nothing,
    },
];

pub fn unused_for(max_unused: Duration) -> GcPolicy {
    GcPolicy {
        max_unused: Some(max_unused),
        grace: GRACE,
        ..GcPolicy::default()
    }
}

pub async fn sweep(storage: &Arc<MemoryStorage>, policy: &GcPolicy) -> Result<GcReport, GcError> {
    collect(
        Arc::<MemoryStorage>::clone(storage),
        policy,
        &RETENTIONS,
        GcMode::Sweep,
        |_| (),
    )
    .await
}

/// An image of made-up layers, each named by its contents.
#[derive(Debug, Clone)]
pub struct Made {
    pub key: Digest,
    pub layers: Vec<String>,
    pub config: Bytes,
    pub manifest: Bytes,
}

impl Made {
    pub fn new(name: &str, layers: &[&str]) -> Self {
        let layers: Vec<String> = layers.iter().map(|layer| (*layer).to_owned()).collect();
        let config = Bytes::from(format!("{{\"config of\":\"{name}\"}}"));
        let descriptor = |bytes: &[u8]| {
            serde_json::json!({
                "mediaType": "application/octet-stream",
                "digest": Digest::of(bytes),
                "size": bytes.len(),
            })
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor(&config),
            "layers": layers.iter().map(|layer| descriptor(layer.as_bytes())).collect::<Vec<_>>(),
        });
        Self {
            key: Digest::of(name.as_bytes()),
            layers,
            config,
            manifest: manifest.to_string().into(),
        }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub fn blobs(&self) -> Vec<Digest> {
        let layers = self.layers.iter().map(|layer| Digest::of(layer.as_bytes()));
        layers
            .chain([Digest::of(&self.config), self.digest()])
            .collect()
    }

    pub async fn remember(&self, storage: &dyn Storage) -> Result<(), StorageError> {
        let layers = self.layers.iter().map(|layer| LayerSummary {
            digest: Digest::of(layer.as_bytes()),
            diff_id: Digest::of(layer.as_bytes()),
            size: layer.len() as u64,
            tar_size: 1,
            paths: Vec::new(),
            reason: String::new(),
            cached: false,
        });
        let of = |bytes: &Bytes, kind: &str| {
            Descriptor::new(MediaType::from(kind), Digest::of(bytes), bytes.len() as u64)
        };
        let record = ImageRecord {
            packages: vec!["cacert".to_owned(), "git".to_owned()],
            architecture: Architecture::Amd64,
            oci: of(&self.manifest, "application/vnd.oci.image.manifest.v1+json"),
            docker: None,
            config: of(&self.config, "application/vnd.oci.image.config.v1+json"),
            layers: layers.collect(),
        };
        record::save(storage, &Key::new(MANIFESTS, self.key), &record).await
    }

    /// All of it, at once.
    pub async fn store(&self, storage: &dyn Storage) {
        let layers = self.layers.iter().map(|layer| Bytes::from(layer.clone()));
        for bytes in layers
            .clone()
            .chain([self.config.clone(), self.manifest.clone()])
        {
            put(storage, Key::blob(Digest::of(&bytes)), bytes).await;
        }
        for bytes in layers {
            let record = layer_record(&bytes);
            record::save(storage, &layer_key(&bytes), &record)
                .await
                .expect("stored");
        }
        self.remember(storage).await.expect("stored");
    }

    pub async fn is_whole(&self, storage: &dyn Storage) -> bool {
        for digest in self.blobs() {
            if !is_there(storage, Key::blob(digest)).await {
                return false;
            }
        }
        true
    }
}

pub fn layer_key(layer: &[u8]) -> Key {
    Key::new(BUILDS, Digest::of(&[b"key of ", layer].concat()))
}

pub fn layer_record(layer: &[u8]) -> LayerRecord {
    LayerRecord {
        digest: Digest::of(layer),
        diff_id: Digest::of(layer),
        size: layer.len() as u64,
        tar_size: 1,
        compression: Compression::Gzip,
    }
}

pub async fn put(storage: &dyn Storage, key: Key, bytes: impl Into<Bytes>) {
    let put = storage.put(&key, bytes.into(), nixery_storage::PutMode::Replace);
    let _ = put.await.expect("stored");
}

pub async fn is_there(storage: &dyn Storage, key: Key) -> bool {
    storage.stat(&key).await.expect("works").is_some()
}

/// How many objects each folder has.
pub async fn census(storage: &dyn Storage) -> BTreeMap<&'static str, usize> {
    let mut census = BTreeMap::new();
    for folder in [
        BLOBS, MANIFESTS, BUILDS, USES, LEASES, GRAPHS, TRAFFIC, PLANS,
    ] {
        let entries: Vec<_> = storage
            .list(folder)
            .await
            .expect("lists")
            .try_collect()
            .await
            .expect("lists");
        census.insert(folder.name(), entries.len());
    }
    census
}

/// What the test stores have for a spool file: its name is its contents.
pub fn spooled(spool: &Path) -> Bytes {
    Bytes::from(spool.to_string_lossy().into_owned())
}
