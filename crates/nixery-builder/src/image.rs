//! A finished image: what the registry serves for one name and tag.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nixery_core::Architecture;
use nixery_manifest::{Blob, Descriptor, Digest, Family, MediaType};
use nixery_state::record::LayerSummary;

use crate::progress::Phase;

/// An image whose blobs are all in the blob store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Image {
    /// The key of its record in the store: `manifests/<key>`.
    pub key: Digest,
    /// The image's canonical name: `git/shell`.
    pub name: String,
    /// Every package of the image, sorted.
    pub packages: Vec<String>,
    /// The architecture that it runs on.
    pub architecture: Architecture,
    /// The Docker v2 schema 2 manifest; `None` if the layers are compressed with zstd, for which
    /// Docker has no media type.
    pub docker: Option<ManifestBlob>,
    /// The OCI manifest.
    pub oci: ManifestBlob,
    /// The image config, as the OCI manifest describes it.
    pub config: Descriptor,
    /// The layers in the manifest's order, the root layer last.
    pub layers: Vec<LayerSummary>,
    /// The versions of the packages that have one. `None`: they are not known, as an older program
    /// made the image.
    pub versions: Option<Arc<BTreeMap<String, String>>>,
    /// How the image was made or found.
    pub stats: BuildStats,
}

impl Image {
    /// Returns the manifest for clients of `family`, if the image has one.
    pub fn manifest(&self, family: Family) -> Option<&ManifestBlob> {
        match family {
            Family::Docker => self.docker.as_ref(),
            Family::Oci => Some(&self.oci),
        }
    }

    /// Returns all manifests.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = &ManifestBlob> {
        std::iter::once(&self.oci).chain(&self.docker)
    }

    /// Returns whether the blob belongs to the image: a manifest, the config or a layer.
    pub(crate) fn needs(&self, blob: &Digest) -> bool {
        self.config.digest == *blob
            || self.manifests().any(|manifest| manifest.digest == *blob)
            || self.layers.iter().any(|layer| layer.digest == *blob)
    }

    /// Returns the compressed bytes of all layers.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// The bytes of a manifest, which are stored and served unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestBlob {
    /// The media type, for `Content-Type`.
    pub media_type: MediaType,
    /// SHA-256 of `bytes`.
    pub digest: Digest,
    /// The manifest.
    pub bytes: Bytes,
}

impl ManifestBlob {
    /// Returns a descriptor of the manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(
            self.media_type.clone(),
            self.digest,
            self.bytes.len() as u64,
        )
    }
}

impl From<Blob> for ManifestBlob {
    fn from(blob: Blob) -> Self {
        Self {
            media_type: blob.media_type,
            digest: blob.digest,
            bytes: blob.bytes.into(),
        }
    }
}

/// How a build went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildStats {
    /// Whether the whole image was found in the store.
    pub from_cache: bool,
    /// Whether the source is pinned to a commit, so that the name and tag always mean this image.
    pub immutable: bool,
    /// Layers packed in this build, the root layer included.
    pub layers_packed: usize,
    /// Layers that the store had.
    pub layers_cached: usize,
    /// How long each phase took, in the order of the phases.
    pub phases: Vec<(Phase, Duration)>,
}

impl BuildStats {
    /// Returns the phases and their times as text: `evaluate 31 ms, realise 2.4 s`.
    pub fn times(&self) -> String {
        let phase = |(phase, time): &(Phase, Duration)| match time.as_millis() {
            milliseconds @ ..1000 => format!("{phase} {milliseconds} ms"),
            _ => format!("{phase} {:.1} s", time.as_secs_f64()),
        };
        let phases: Vec<_> = self.phases.iter().map(phase).collect();
        phases.join(", ")
    }
}
