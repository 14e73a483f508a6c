//! Cache entries: what was built for a key, as versioned JSON in the blob store.
//!
//! `manifests/<key>` holds an [`ImageRecord`], `builds/<key>` a [`LayerRecord`]. An entry only
//! names blobs; it is of use while they are all there. One that does not parse, or is of another
//! version, counts as missing and is replaced by the next build.

use bytes::Bytes;
use nixery_core::{Architecture, PackedLayer};
use nixery_manifest::{Compression, Descriptor, Digest};
use nixery_storage::{Key, PutMode, Storage, StorageError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::BuildError;
use crate::image::LayerSummary;

/// Version of both formats. Raise it when old entries must not be used any more.
pub(crate) const VERSION: u32 = 1;
/// Most bytes of an entry. An image of 50,000 store paths has about 5 MB.
pub(crate) const MAX_RECORD: u64 = 64 * 1024 * 1024;

/// A built image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) packages: Vec<String>,
    pub(crate) architecture: Architecture,
    pub(crate) oci: Descriptor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) docker: Option<Descriptor>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<LayerSummary>,
}

impl ImageRecord {
    /// Every blob the image needs, with its size.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> {
        let documents = [Some(&self.oci), self.docker.as_ref(), Some(&self.config)];
        let documents = documents
            .into_iter()
            .flatten()
            .map(|blob| (blob.digest, blob.size));
        documents.chain(self.layers.iter().map(|layer| (layer.digest, layer.size)))
    }
}

/// A packed layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) size: u64,
    pub(crate) tar_size: u64,
    pub(crate) compression: Compression,
}

impl From<PackedLayer> for LayerRecord {
    fn from(packed: PackedLayer) -> Self {
        let PackedLayer {
            digest,
            diff_id,
            size,
            tar_size,
            compression,
        } = packed;
        Self {
            digest,
            diff_id,
            size,
            tar_size,
            compression,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    record: T,
}

/// Reads an entry. `None` where there is none that can be used.
///
/// # Errors
/// The store failed.
pub(crate) async fn load<T: DeserializeOwned>(
    storage: &dyn Storage,
    key: &Key,
) -> Result<Option<T>, BuildError> {
    let bytes = match storage.get_bytes(key, MAX_RECORD).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error @ (StorageError::Truncated { .. } | StorageError::TooLarge { .. })) => {
            tracing::warn!(%key, %error, "a cache entry is damaged and will be replaced");
            return Ok(None);
        }
        Err(source) => {
            return Err(BuildError::Storage {
                doing: "looked up",
                source,
            });
        }
    };
    match parse(&bytes) {
        Ok(record) => Ok(record),
        Err(error) => {
            tracing::warn!(%key, %error, "a cache entry does not parse and will be replaced");
            Ok(None)
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<T>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    // The version first: the rest of another version need not parse.
    if serde_json::from_slice::<Version>(bytes)?.version != VERSION {
        return Ok(None);
    }
    serde_json::from_slice::<Versioned<T>>(bytes).map(|versioned| Some(versioned.record))
}

/// Writes an entry over whatever is there.
///
/// # Errors
/// The store failed.
pub(crate) async fn save<T: Serialize>(
    storage: &dyn Storage,
    key: &Key,
    record: &T,
) -> Result<(), BuildError> {
    let json = serde_json::to_vec(&Versioned {
        version: VERSION,
        record,
    });
    let json = json.map_err(BuildError::internal)?;
    let stored = storage.put(key, Bytes::from(json), PutMode::Replace).await;
    stored.map(drop).map_err(|source| BuildError::Storage {
        doing: "stored",
        source,
    })
}

#[cfg(test)]
mod tests {
    use nixery_storage::MemoryStorage;
    use rstest::rstest;

    use super::*;

    fn record() -> LayerRecord {
        LayerRecord {
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
        let key = Key::Build(Digest::of(b"key"));
        assert_eq!(
            load::<LayerRecord>(&storage, &key).await.expect("works"),
            None
        );
        save(&storage, &key, &record()).await.expect("saves");
        assert_eq!(load(&storage, &key).await.expect("works"), Some(record()));
    }

    /// The format other versions of this program, and other replicas, have to read.
    #[test]
    fn the_format_is_pinned() {
        let json = serde_json::to_string(&Versioned {
            version: VERSION,
            record: record(),
        });
        assert_eq!(
            json.expect("serialises"),
            format!(
                r#"{{"version":1,"digest":"{}","diff_id":"{}","size":5,"tar_size":3,"compression":"gzip"}}"#,
                Digest::of(b"layer"),
                Digest::of(b"tar"),
            ),
            "if this was meant, raise VERSION"
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
        let key = Key::Build(Digest::of(b"key"));
        let _ = storage
            .put(&key, text.into(), PutMode::Replace)
            .await
            .expect("put");
        assert_eq!(
            load::<LayerRecord>(&storage, &key).await.expect("works"),
            None
        );
    }
}
