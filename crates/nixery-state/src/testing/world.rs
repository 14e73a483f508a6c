//! A store with example images. Its clock is that of tokio, which tests stop and set.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use nixery_core::{Architecture, PackedLayer, StorePath};
use nixery_manifest::{Compression, Descriptor, Digest, MediaType};
use nixery_storage::{BLOBS, Contents, Folder, Key, MemoryStorage, Storage, StorageError};
use tokio::time::Instant;

use crate::gc::{GcError, GcMode, GcPolicy, GcReport, InUse, Retention, collect};
use crate::graphs::{self, GRAPHS};
use crate::lease::LEASES;
use crate::record::{self, BUILDS, ImageRecord, LayerRecord, LayerSummary, MANIFESTS};
use crate::uses::USES;

/// The folder of a feature that this crate does not know.
pub const TRAFFIC: Folder = Folder::new("traffic", Contents::Binary);
/// Another one.
pub const PLANS: Folder = Folder::new("plans", Contents::Binary);

/// The grace period of the policies.
pub const GRACE: Duration = Duration::from_secs(3600);
/// A day.
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// Returns an empty store whose objects are dated by tokio's clock.
pub fn memory() -> Arc<MemoryStorage> {
    let start = Instant::now();
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    Arc::new(MemoryStorage::with_clock(move || epoch + start.elapsed()))
}

/// Returns a store path with this name.
pub fn store_path(name: &str) -> StorePath {
    let hash = Digest::of(name.as_bytes()).hex().replace('e', "z");
    StorePath::parse(&format!("/nix/store/{}-{name}", &hash[..32])).expect("valid")
}

/// Retention of the graphs, and of recorded pulls as their feature declares it.
pub const RETENTIONS: [Retention; 2] = [
    graphs::KEPT,
    Retention {
        folder: TRAFFIC,
        kept_for: Duration::from_secs(90 * 24 * 3600),
        limit: 200_000,
        in_use: InUse::Nothing,
    },
];

/// Drops images that were not used for this long.
pub fn unused_for(max_unused: Duration) -> GcPolicy {
    GcPolicy {
        max_unused: Some(max_unused),
        grace: GRACE,
        ..GcPolicy::default()
    }
}

/// Collects garbage.
///
/// # Errors
/// The collection failed.
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

/// An image of example layers, each named by its contents.
#[derive(Debug, Clone)]
pub struct Made {
    /// The cache key of its record.
    pub key: Digest,
    /// The contents of its layers.
    pub layers: Vec<String>,
    /// Its config.
    pub config: Bytes,
    /// Its OCI manifest.
    pub manifest: Bytes,
}

impl Made {
    /// An image with this name and the contents of its layers.
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

    /// Returns the digest of the manifest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Returns the digests of all its blobs.
    pub fn blobs(&self) -> Vec<Digest> {
        let layers = self.layers.iter().map(|layer| Digest::of(layer.as_bytes()));
        layers
            .chain([Digest::of(&self.config), self.digest()])
            .collect()
    }

    /// Stores only its record.
    ///
    /// # Errors
    /// The store failed.
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
            versions: None,
        };
        record::save(storage, None, &Key::new(MANIFESTS, self.key), &record).await
    }

    /// Stores its blobs, the records of its layers, and its record.
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
            record::save(storage, None, &layer_key(&bytes), &record)
                .await
                .expect("stored");
        }
        self.remember(storage).await.expect("stored");
    }

    /// Whether all its blobs exist.
    pub async fn is_whole(&self, storage: &dyn Storage) -> bool {
        for digest in self.blobs() {
            if !is_there(storage, Key::blob(digest)).await {
                return false;
            }
        }
        true
    }
}

/// Returns the key of the record of a layer.
pub fn layer_key(layer: &[u8]) -> Key {
    Key::new(BUILDS, Digest::of(&[b"key of ", layer].concat()))
}

/// Returns the record of a layer.
pub fn layer_record(layer: &[u8]) -> LayerRecord {
    LayerRecord {
        layer: PackedLayer {
            digest: Digest::of(layer),
            diff_id: Digest::of(layer),
            size: layer.len() as u64,
            tar_size: 1,
            compression: Compression::Gzip,
        },
        contents: Vec::new(),
    }
}

/// Stores an object.
pub async fn put(storage: &dyn Storage, key: Key, bytes: impl Into<Bytes>) {
    let put = storage.put(&key, bytes.into(), nixery_storage::PutMode::Replace);
    let _ = put.await.expect("stored");
}

/// Whether an object exists.
pub async fn is_there(storage: &dyn Storage, key: Key) -> bool {
    storage.stat(&key).await.expect("works").is_some()
}

/// Returns how many objects each folder has.
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

/// Returns the contents that the test stores read from a spool file: its name.
pub fn spooled(spool: &Path) -> Bytes {
    Bytes::from(spool.to_string_lossy().into_owned())
}
