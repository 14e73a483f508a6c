//! Cache entries: what was built for a key, as versioned JSON in the blob store.
//!
//! `manifests/<key>` contains an [`ImageRecord`], `builds/<key>` a [`PackedLayer`]. An entry only
//! names blobs; it is useful while they all exist. An entry that does not parse, or has another
//! version, counts as missing and is replaced by the next build.

use bytes::Bytes;
use nixery_core::{Architecture, PackedLayer, StorePath};
use nixery_manifest::{Descriptor, Digest};
use nixery_storage::{Contents, Folder, Key, PutMode, Storage, StorageError, error_chain};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::versioned::{self, VersionedError};

/// The records of built images, each named by the key of what it was built from.
pub const MANIFESTS: Folder = Folder::new("manifests", Contents::Json).with_sha1_names();
/// The records of packed layers, each named by the key of its contents.
pub const BUILDS: Folder = Folder::new("builds", Contents::Json).with_sha1_names();

/// Most bytes of a manifest: what the distribution specification recommends registries to accept.
pub const MAX_MANIFEST: u64 = 4 * 1024 * 1024;

/// A built image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Every package in the image, sorted.
    pub packages: Vec<String>,
    /// The architecture that the image runs on.
    pub architecture: Architecture,
    /// The OCI manifest.
    pub oci: Descriptor,
    /// The Docker manifest, if the image has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<Descriptor>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, in the order of the manifest.
    pub layers: Vec<LayerSummary>,
}

impl ImageRecord {
    /// Returns every blob that the image needs, with its size.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> {
        let documents = [Some(&self.oci), self.docker.as_ref(), Some(&self.config)];
        let documents = documents
            .into_iter()
            .flatten()
            .map(|blob| (blob.digest, blob.size));
        documents.chain(self.layers.iter().map(|layer| (layer.digest, layer.size)))
    }
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSummary {
    /// SHA-256 of the compressed layer.
    pub digest: Digest,
    /// SHA-256 of its tar.
    pub diff_id: Digest,
    /// Compressed bytes.
    pub size: u64,
    /// Bytes of the tar.
    pub tar_size: u64,
    /// The store paths in it; empty for the root layer.
    pub paths: Vec<StorePath>,
    /// The layer strategy's reason for putting these paths together.
    pub reason: String,
    /// Whether the layer was in the blob store before this build.
    #[serde(default, skip_serializing)]
    pub cached: bool,
}

/// A record that is stored as a cache entry.
pub trait Record: Serialize + DeserializeOwned {
    /// Version of the format. Raise it when old entries must no longer be used.
    const VERSION: u32;
    /// Most bytes of an entry.
    const MAX_BYTES: u64;
}

impl Record for ImageRecord {
    const VERSION: u32 = 1;
    // An image of 50,000 store paths has about 5 MB.
    const MAX_BYTES: u64 = 64 * 1024 * 1024;
}

impl Record for PackedLayer {
    const VERSION: u32 = 1;
    const MAX_BYTES: u64 = 1024 * 1024;
}

/// Reads an entry; `None` if there is no usable one.
///
/// # Errors
/// The store failed.
pub async fn load<T: Record>(storage: &dyn Storage, key: &Key) -> Result<Option<T>, StorageError> {
    let bytes = match storage.get_bytes(key, T::MAX_BYTES).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error @ (StorageError::Truncated { .. } | StorageError::TooLarge { .. })) => {
            tracing::warn!(%key, %error, "a cache entry is damaged and will be replaced");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    match versioned::from_bytes(T::VERSION, &bytes) {
        Ok(record) => Ok(Some(record)),
        Err(VersionedError::Version { .. }) => Ok(None),
        Err(error) => {
            let error = error_chain(&error);
            tracing::warn!(%key, error, "a cache entry does not parse and will be replaced");
            Ok(None)
        }
    }
}

/// Writes an entry, replacing an older one.
///
/// # Errors
/// The store failed.
pub async fn save<T: Record>(
    storage: &dyn Storage,
    key: &Key,
    record: &T,
) -> Result<(), StorageError> {
    let json = Bytes::from(versioned::to_bytes(T::VERSION, record));
    storage.put(key, json, PutMode::Replace).await.map(drop)
}

#[cfg(test)]
mod tests {
    use nixery_manifest::Compression;
    use nixery_storage::MemoryStorage;
    use rstest::rstest;

    use super::*;

    fn record() -> PackedLayer {
        PackedLayer {
            digest: Digest::of(b"layer"),
            diff_id: Digest::of(b"tar"),
            size: 5,
            tar_size: 3,
            compression: Compression::Gzip,
        }
    }

    #[tokio::test]
    async fn entries_round_trip() {
        let storage = MemoryStorage::new();
        let key = Key::new(BUILDS, Digest::of(b"key"));
        assert_eq!(
            load::<PackedLayer>(&storage, &key).await.expect("works"),
            None
        );
        save(&storage, &key, &record()).await.expect("saves");
        assert_eq!(load(&storage, &key).await.expect("works"), Some(record()));
    }

    /// The format that other versions of this program, and other replicas, have to read.
    #[test]
    fn the_format_is_pinned() {
        let json = versioned::to_bytes(PackedLayer::VERSION, &record());
        assert_eq!(
            String::from_utf8(json).expect("UTF-8"),
            format!(
                r#"{{"version":1,"digest":"{}","diff_id":"{}","size":5,"tar_size":3,"compression":"gzip"}}"#,
                Digest::of(b"layer"),
                Digest::of(b"tar"),
            ),
            "after an intended change, raise the version"
        );
    }

    #[rstest]
    #[case::empty("")]
    #[case::half(r#"{"version":1,"digest":"sha2"#)]
    #[case::other_version(r#"{"version":2,"other":"shape"}"#)]
    #[case::no_version("{}")]
    #[case::not_an_object("[]")]
    #[tokio::test]
    async fn unusable_entries_count_as_missing(#[case] text: &'static str) {
        let storage = MemoryStorage::new();
        let key = Key::new(BUILDS, Digest::of(b"key"));
        let _ = storage
            .put(&key, text.into(), PutMode::Replace)
            .await
            .expect("put");
        assert_eq!(
            load::<PackedLayer>(&storage, &key).await.expect("works"),
            None
        );
    }
}
