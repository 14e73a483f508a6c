//! What a collector reads of cache entries: which blobs they name, and nothing else.
//!
//! Deliberately lenient: an entry of a newer program with an architecture this one does not know
//! must keep its blobs.

use nixery_manifest::Digest;
use nixery_storage::Key;
use serde::Deserialize;

use crate::record::{ImageRecord, Record};
use crate::versioned::{self, VersionedError};

/// An entry of `manifests/`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ImageEntry {
    Image(NamedBlobs),
    /// Of a newer program: which blobs it needs is not known.
    Newer,
    /// No program can use it.
    Unusable,
}

/// What an image needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NamedBlobs {
    /// For people.
    pub(super) name: String,
    /// Those it is served by.
    pub(super) manifests: Vec<Digest>,
    /// Config and layers.
    pub(super) others: Vec<Digest>,
}

#[derive(Deserialize)]
struct Named {
    digest: Digest,
}

/// The architecture is taken from whatever it is written as.
#[derive(Deserialize)]
struct Image {
    #[serde(default)]
    packages: Vec<String>,
    #[serde(default)]
    architecture: serde_json::Value,
    oci: Named,
    docker: Option<Named>,
    config: Named,
    layers: Vec<Named>,
}

/// Reads an entry of `manifests/`.
pub(super) fn image(key: &Key, bytes: &[u8]) -> ImageEntry {
    if key.is_legacy() {
        return original_image(key, bytes);
    }
    let image: Image = match versioned::from_bytes(ImageRecord::VERSION, bytes) {
        Ok(image) => image,
        Err(VersionedError::Version { found }) if found > u64::from(ImageRecord::VERSION) => {
            return ImageEntry::Newer;
        }
        Err(_) => return ImageEntry::Unusable,
    };
    let manifests = [Some(image.oci), image.docker].into_iter().flatten();
    let others = std::iter::once(image.config).chain(image.layers);
    ImageEntry::Image(NamedBlobs {
        name: name(&image.packages, &image.architecture),
        manifests: manifests.map(|named| named.digest).collect(),
        others: others.map(|named| named.digest).collect(),
    })
}

/// The manifest itself, as the original keeps it.
fn original_image(key: &Key, bytes: &[u8]) -> ImageEntry {
    match manifest(bytes) {
        Some(others) => ImageEntry::Image(NamedBlobs {
            name: format!("the original's {}", &key.name()[..12]),
            manifests: vec![Digest::of(bytes)],
            others,
        }),
        None => ImageEntry::Unusable,
    }
}

/// `git htop arm64`; what every image has is left out.
fn name(packages: &[String], architecture: &serde_json::Value) -> String {
    let everywhere = ["cacert", "iana-etc"];
    let mut words: Vec<&str> = packages.iter().map(String::as_str).collect();
    words.retain(|word| !everywhere.contains(word));
    if let Some(architecture) = architecture.as_str().filter(|name| *name != "amd64") {
        words.push(architecture);
    }
    if words.is_empty() {
        return "(no packages)".to_owned();
    }
    words.join(" ")
}

/// What a manifest or an index names, if the bytes are one.
pub(super) fn manifest(bytes: &[u8]) -> Option<Vec<Digest>> {
    #[derive(Deserialize)]
    struct Manifest {
        config: Option<Named>,
        #[serde(default)]
        layers: Vec<Named>,
        #[serde(default)]
        manifests: Vec<Named>,
    }
    if bytes.first() != Some(&b'{') {
        return None;
    }
    let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
    let named = manifest.config.into_iter().chain(manifest.layers);
    let named: Vec<_> = named
        .chain(manifest.manifests)
        .map(|named| named.digest)
        .collect();
    (!named.is_empty()).then_some(named)
}

/// The blob that an entry of `builds/` leads to, ours or the original's.
pub(super) fn layer(bytes: &[u8]) -> Option<Digest> {
    serde_json::from_slice::<Named>(bytes)
        .ok()
        .map(|named| named.digest)
}
