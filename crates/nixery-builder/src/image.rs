//! A finished image: everything the registry serves for one name and tag.

use std::time::Duration;

use bytes::Bytes;
use nixery_core::Architecture;
use nixery_manifest::{Blob, Descriptor, Digest, Family, MediaType};
use nixery_state::record::LayerSummary;

use crate::progress::Phase;

/// An image whose blobs are all in the blob store.
#[derive(Debug, Clone)]
pub struct Image {
    /// What the store has it under: `manifests/<key>`.
    pub key: Digest,
    /// The image's canonical name: `git/shell`.
    pub name: String,
    /// Every package in it, sorted.
    pub packages: Vec<String>,
    /// What it runs on.
    pub architecture: Architecture,
    /// The Docker v2 schema 2 manifest; `None` when the layers are zstd, which Docker has no
    /// media type for.
    pub docker: Option<ManifestBlob>,
    /// The OCI manifest.
    pub oci: ManifestBlob,
    /// The image config, as the OCI manifest describes it.
    pub config: Descriptor,
    /// The layers in the manifest's order, the root layer last.
    pub layers: Vec<LayerSummary>,
    /// How it came about.
    pub stats: BuildStats,
}

impl Image {
    /// The manifest for clients of `family`, if the image can be had in it.
    pub fn manifest(&self, family: Family) -> Option<&ManifestBlob> {
        match family {
            Family::Docker => self.docker.as_ref(),
            Family::Oci => Some(&self.oci),
        }
    }

    /// The manifests it has.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = &ManifestBlob> {
        std::iter::once(&self.oci).chain(&self.docker)
    }

    /// Whether the blob is one of the image's: a manifest, the config or a layer.
    pub(crate) fn needs(&self, blob: &Digest) -> bool {
        self.config.digest == *blob
            || self.manifests().any(|manifest| manifest.digest == *blob)
            || self.layers.iter().any(|layer| layer.digest == *blob)
    }

    /// Bytes of all layers as they are sent: compressed.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// A manifest as it is stored and served: byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestBlob {
    /// Its media type, for `Content-Type`.
    pub media_type: MediaType,
    /// SHA-256 of `bytes`.
    pub digest: Digest,
    /// The manifest.
    pub bytes: Bytes,
}

impl ManifestBlob {
    /// What refers to it.
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
pub struct BuildStats {
    /// Whether the whole image was found in the manifest cache.
    pub from_cache: bool,
    /// Whether the source is pinned to a commit, so that the name and tag always mean this image.
    pub immutable: bool,
    /// Layers packed in this build, the root layer included.
    pub layers_packed: usize,
    /// Layers that were already stored.
    pub layers_cached: usize,
    /// How long each phase took, in order.
    pub phases: Vec<(Phase, Duration)>,
}

impl BuildStats {
    /// The phases and their times for people: `evaluate 31 ms, realise 2.4 s`.
    pub fn times(&self) -> String {
        let phase = |(phase, time): &(Phase, Duration)| match time.as_millis() {
            milliseconds @ ..1000 => format!("{phase} {milliseconds} ms"),
            _ => format!("{phase} {:.1} s", time.as_secs_f64()),
        };
        let phases: Vec<_> = self.phases.iter().map(phase).collect();
        phases.join(", ")
    }
}
