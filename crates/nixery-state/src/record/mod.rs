//! Cache entries: what was built for a key, as versioned JSON in the blob store.
//!
//! `manifests/<key>` contains an [`ImageRecord`], `builds/<key>` a [`LayerRecord`]. An entry only
//! names blobs; it is useful while they all exist. It says which key it is for, so that a copy
//! under another key is noticed. With a [`RecordSecret`], only entries count that a server with the
//! secret wrote. An entry that does not parse, has another version, is for another key, or is not
//! authentic, counts as missing and is replaced by the next build.

mod documents;
mod secret;
mod verify;

use std::collections::BTreeMap;

use bytes::Bytes;
use nixery_core::{Architecture, NarHash, PackedLayer, StorePath};
use nixery_manifest::{Descriptor, Digest};
use nixery_storage::{
    Contents, Folder, Key, Operation, PutMode, Storage, StorageError, error_chain,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::secret::{CHECKSUM, TAG};
use crate::versioned::{self, VersionedError};

pub use documents::{Documents, PACKAGES_LABEL, RecordMismatch};
pub use secret::RecordSecret;
pub use verify::verify_records;

/// The records of built images, each named by the key of what it was built from.
pub const MANIFESTS: Folder = Folder::new("manifests", Contents::Json).with_sha1_names();
/// The records of packed layers, each named by the key of its contents.
pub const BUILDS: Folder = Folder::new("builds", Contents::Json).with_sha1_names();

/// Most bytes of a manifest: what the distribution specification recommends registries to accept.
pub const MAX_MANIFEST: u64 = 4 * 1024 * 1024;

/// Bytes of an entry that is parsed at once: fewer take less time than to hand them to a thread.
const MAX_INLINE: usize = 64 * 1024;

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
    /// The versions of the packages that have one. `None`: the record is of a program that did not
    /// write them down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<BTreeMap<String, String>>,
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

/// A packed layer, and the store paths in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The facts about the layer.
    #[serde(flatten)]
    pub layer: PackedLayer,
    /// The store paths in it with their NAR hashes, sorted.
    pub contents: Vec<(StorePath, NarHash)>,
}

/// A record that is stored as a cache entry.
pub trait Record: Serialize + DeserializeOwned + Send + 'static {
    /// Version of the format. Raise it when old entries must no longer be used.
    const VERSION: u32;
    /// Most bytes of an entry.
    const MAX_BYTES: u64;
}

impl Record for ImageRecord {
    // Version 1 did not say which key it is for.
    const VERSION: u32 = 2;
    // An image of 50,000 store paths has about 5 MB.
    const MAX_BYTES: u64 = 64 * 1024 * 1024;
}

impl Record for LayerRecord {
    // Version 1 did not say which key it is for, and named no store paths.
    const VERSION: u32 = 2;
    // A layer of 50,000 store paths has about 9 MB.
    const MAX_BYTES: u64 = 64 * 1024 * 1024;
}

/// Why an entry is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is no record of this version.
    #[error(transparent)]
    Versioned(#[from] VersionedError),
    /// It was written for another key, and copied.
    #[error("it is the record of {found}")]
    OtherKey {
        /// What it says it is for.
        found: String,
    },
    /// It was not written by a server with the secret.
    #[error("it is not authenticated with the key of NIXERY_RECORD_KEY")]
    NotAuthentic,
    /// It was changed since it was written, or on the way from the store.
    #[error("its text does not match its checksum")]
    Damaged,
}

/// The fields of every record besides its version.
#[derive(Serialize, Deserialize)]
struct Purpose<T> {
    /// The path of the entry.
    r#for: String,
    #[serde(flatten)]
    record: T,
}

/// Nothing, in the place of a record.
#[derive(Serialize, Deserialize)]
struct NoRecord {}

/// Reads an entry; `None` if there is no usable one.
///
/// # Errors
/// The store failed.
pub async fn load<T: Record>(
    storage: &dyn Storage,
    secret: Option<&RecordSecret>,
    key: &Key,
) -> Result<Option<T>, StorageError> {
    let bytes = match storage.get_bytes(key, T::MAX_BYTES).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error @ (StorageError::Truncated { .. } | StorageError::TooLarge { .. })) => {
            tracing::warn!(%key, %error, "a cache entry is damaged and will be replaced");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut parsed = parse_aside(storage, secret, key, bytes).await?;
    let is_old = |error: &RecordError| {
        matches!(
            error,
            RecordError::Versioned(VersionedError::Version { .. })
        )
    };
    if parsed.as_ref().is_err_and(|error| !is_old(error))
        && let Ok(Some(again)) = storage.get_bytes(key, T::MAX_BYTES).await
    {
        // The connection may be at fault.
        parsed = parse_aside(storage, secret, key, again).await?;
    }
    match parsed {
        Ok(record) => Ok(Some(record)),
        Err(error) if is_old(&error) => Ok(None),
        Err(error) => {
            let error = error_chain(&error);
            tracing::warn!(%key, error, "a cache entry is not used and will be replaced");
            Ok(None)
        }
    }
}

/// Parses an entry, a large one on a thread that may block.
async fn parse_aside<T: Record>(
    storage: &dyn Storage,
    secret: Option<&RecordSecret>,
    key: &Key,
    bytes: Bytes,
) -> Result<Result<T, RecordError>, StorageError> {
    if bytes.len() <= MAX_INLINE {
        return Ok(parse(secret, key, &bytes));
    }
    let (secret, of) = (secret.cloned(), *key);
    let parsing = tokio::task::spawn_blocking(move || parse(secret.as_ref(), &of, &bytes));
    // The process is stopping.
    parsing.await.map_err(|error| StorageError::Failed {
        backend: storage.backend(),
        operation: Operation::Read,
        target: key.to_string(),
        retryable: true,
        source: error.into(),
    })
}

/// Parses an entry, and checks that it is for this key.
///
/// # Errors
/// The entry cannot be used.
pub fn parse<T: Record>(
    secret: Option<&RecordSecret>,
    key: &Key,
    bytes: &[u8],
) -> Result<T, RecordError> {
    // First the version, then the rest: an older entry is not reported.
    let purpose: Purpose<NoRecord> = versioned::from_bytes(T::VERSION, bytes)?;
    let tagged = TAG.split(bytes);
    if let Some(secret) = secret {
        let is_ours = |(json, tag): &(Vec<u8>, Digest)| secret.has_made(tag, key, json);
        if !tagged.as_ref().is_some_and(is_ours) {
            return Err(RecordError::NotAuthentic);
        }
    }
    let untagged = tagged.as_ref().map_or(bytes, |(json, _)| json);
    match CHECKSUM.split(untagged) {
        Some((json, checksum)) if Digest::of(&json) == checksum => {}
        _ => return Err(RecordError::Damaged),
    }
    if purpose.r#for != key.path() {
        return Err(RecordError::OtherKey {
            found: purpose.r#for,
        });
    }
    Ok(versioned::from_bytes(T::VERSION, bytes)?)
}

/// Writes an entry, replacing an older one.
///
/// # Errors
/// The store failed.
pub async fn save<T: Record>(
    storage: &dyn Storage,
    secret: Option<&RecordSecret>,
    key: &Key,
    record: &T,
) -> Result<(), StorageError> {
    let json = Bytes::from(to_bytes(secret, key, record));
    storage.put(key, json, PutMode::Replace).await.map(drop)
}

fn to_bytes<T: Record>(secret: Option<&RecordSecret>, key: &Key, record: &T) -> Vec<u8> {
    let purpose = Purpose {
        r#for: key.path(),
        record,
    };
    let json = versioned::to_bytes(T::VERSION, &purpose);
    let checksum = Digest::of(&json);
    let json = CHECKSUM.add(json, checksum);
    match secret {
        Some(secret) => {
            let tag = secret.tag(key, &json);
            TAG.add(json, tag)
        }
        None => json,
    }
}

#[cfg(test)]
mod tests {
    use nixery_manifest::Compression;
    use nixery_storage::MemoryStorage;
    use rstest::rstest;

    use super::*;
    use crate::testing::world::store_path;

    fn key() -> Key {
        Key::new(BUILDS, Digest::of(b"key"))
    }

    fn record() -> LayerRecord {
        let nar_hash = format!("sha256:{}", Digest::of(b"nar").hex());
        LayerRecord {
            layer: PackedLayer {
                digest: Digest::of(b"layer"),
                diff_id: Digest::of(b"tar"),
                size: 5,
                tar_size: 3,
                compression: Compression::Gzip,
            },
            contents: vec![(store_path("git"), NarHash::parse(&nar_hash).expect("valid"))],
        }
    }

    fn secret(text: &str) -> RecordSecret {
        RecordSecret::new(text.repeat(32).as_bytes()).expect("long enough")
    }

    #[tokio::test]
    async fn entries_round_trip() {
        let storage = MemoryStorage::new();
        let ours = secret("a");
        for secret in [None, Some(&ours)] {
            let key = Key::new(BUILDS, Digest::of(&[u8::from(secret.is_some())]));
            let loaded = load::<LayerRecord>(&storage, secret, &key).await;
            assert_eq!(loaded.expect("works"), None);
            save(&storage, secret, &key, &record())
                .await
                .expect("saves");
            let loaded = load(&storage, secret, &key).await;
            assert_eq!(loaded.expect("works"), Some(record()));
        }
    }

    /// A large entry is parsed on another thread.
    #[tokio::test]
    async fn large_entries_round_trip() {
        let storage = MemoryStorage::new();
        let mut large = record();
        large.contents = vec![large.contents[0].clone(); 1000];
        save(&storage, None, &key(), &large).await.expect("saves");
        let stat = storage.stat(&key()).await.expect("works");
        assert!(stat.expect("is there").size > MAX_INLINE as u64);
        let loaded = load(&storage, None, &key()).await;
        assert_eq!(loaded.expect("works"), Some(large.clone()));
        let other = Key::new(BUILDS, Digest::of(b"other"));
        save(&storage, None, &other, &large).await.expect("saves");
        let copy = storage.get_bytes(&other, u64::MAX).await.expect("works");
        let copy = copy.expect("is there");
        let put = storage.put(&key(), copy, PutMode::Replace).await;
        let _ = put.expect("put");
        let loaded = load::<LayerRecord>(&storage, None, &key()).await;
        assert_eq!(loaded.expect("works"), None, "a copy");
    }

    /// The format that other versions of this program, and other replicas, have to read.
    #[test]
    fn the_format_is_pinned() {
        let json = to_bytes(None, &key(), &record());
        let nar_hash = record().contents[0].1;
        let plain = format!(
            r#"{{"version":2,"for":"{}","digest":"{}","diff_id":"{}","size":5,"tar_size":3,"compression":"gzip","contents":[["{}","{nar_hash}"]]}}"#,
            key(),
            Digest::of(b"layer"),
            Digest::of(b"tar"),
            store_path("git"),
        );
        let checksum = Digest::of(plain.as_bytes()).hex();
        let plain = format!(r#"{},"checksum":"{checksum}"}}"#, &plain[..plain.len() - 1]);
        let text = String::from_utf8(json).expect("UTF-8");
        assert_eq!(text, plain, "after an intended change, raise the version");
        let sealed = to_bytes(Some(&secret("a")), &key(), &record());
        let sealed = String::from_utf8(sealed).expect("UTF-8");
        let tag = sealed.strip_prefix(&plain[..plain.len() - 1]);
        let tag = tag.and_then(|tag| tag.strip_prefix(r#","tag":""#)?.strip_suffix(r#""}"#));
        assert_eq!(tag.map(str::len), Some(64), "{sealed}");
    }

    #[rstest]
    #[case::empty("")]
    #[case::half(r#"{"version":2,"digest":"sha2"#)]
    #[case::older_version(r#"{"version":1,"other":"shape"}"#)]
    #[case::newer_version(r#"{"version":3,"other":"shape"}"#)]
    #[case::no_version("{}")]
    #[case::no_purpose(r#"{"version":2}"#)]
    #[case::no_checksum(r#"{"version":2,"for":"builds/x"}"#)]
    #[case::not_an_object("[]")]
    #[tokio::test]
    async fn unusable_entries_count_as_missing(#[case] text: &'static str) {
        let storage = MemoryStorage::new();
        let key = key();
        let put = storage.put(&key, text.into(), PutMode::Replace);
        let _ = put.await.expect("put");
        let loaded = load::<LayerRecord>(&storage, None, &key).await;
        assert_eq!(loaded.expect("works"), None);
    }

    #[test]
    fn a_copied_record_is_not_for_its_key() {
        let json = to_bytes(None, &key(), &record());
        let other = Key::new(BUILDS, Digest::of(b"other"));
        let error = parse::<LayerRecord>(None, &other, &json).expect_err("a copy");
        assert_eq!(error.to_string(), format!("it is the record of {}", key()));
    }

    #[test]
    fn a_record_with_one_wrong_bit_is_not_used() {
        let json = to_bytes(None, &key(), &record());
        for bit in 0..8 * json.len() {
            let mut damaged = json.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let parsed = parse::<LayerRecord>(None, &key(), &damaged);
            assert!(parsed.is_err(), "{}", String::from_utf8_lossy(&damaged));
        }
    }

    #[test]
    fn only_records_with_the_right_tag_are_authentic() {
        let (ours, theirs) = (secret("a"), secret("b"));
        let parse = |bytes: &[u8]| parse::<LayerRecord>(Some(&ours), &key(), bytes);
        let sealed = to_bytes(Some(&ours), &key(), &record());
        assert_eq!(parse(&sealed).expect("authentic"), record());
        let other = Key::new(BUILDS, Digest::of(b"other"));
        let text = String::from_utf8(sealed.clone()).expect("UTF-8");
        let changed = text.replace(r#""size":5"#, r#""size":6"#);
        assert_ne!(changed, text);
        let moved = to_bytes(Some(&ours), &other, &record());
        let moved = String::from_utf8(moved).expect("UTF-8");
        let moved = moved.replace(&other.path(), &key().path());
        for forged in [
            to_bytes(None, &key(), &record()),
            to_bytes(Some(&theirs), &key(), &record()),
            changed.into_bytes(),
            moved.into_bytes(),
            text.replace(r#"","#, r#"", "#).into_bytes(),
        ] {
            let error = parse(&forged).expect_err("forged");
            assert!(matches!(error, RecordError::NotAuthentic), "{error}");
        }
        // A server without the secret reads sealed records as well.
        let unsealed = super::parse::<LayerRecord>(None, &key(), &sealed);
        assert_eq!(unsealed.expect("readable"), record());
    }
}
