//! Assembles an image's config and manifests from its layers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::config::{HistoryEntry, ImageConfig, RootFs, RuntimeConfig};
use crate::{
    Blob, Compression, Descriptor, Digest, Family, Manifest, MediaType, Platform, SchemaVersion,
};

/// `created` of every image and layer: the modification time that Nix gives to store paths. An
/// image's bytes must not depend on when it was made.
const CREATED: &str = "1970-01-01T00:00:01Z";

/// A packed layer, as an image refers to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Number of compressed bytes.
    pub size: u64,
    /// Compression of the layer.
    pub compression: Compression,
    /// Rank in the stack, without a unit: layers that more images share have a higher rank and
    /// lie lower.
    pub sharing: u64,
    /// The program that made the layer, for its history entry.
    pub created_by: String,
    /// The contents of the layer, for its history entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Everything that determines an image's documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageParts {
    /// The platform that the image runs on.
    pub platform: Platform,
    /// The layers, in any order.
    pub layers: Vec<ImageLayer>,
    /// The layer on top of all others; its `sharing` is ignored.
    pub root: Option<ImageLayer>,
    /// How a container of the image starts, and the image's labels.
    pub config: RuntimeConfig,
    /// Annotations of the OCI manifest. A Docker manifest has none.
    pub annotations: BTreeMap<String, String>,
}

/// An image: its config, and a manifest for each family that can carry its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssembledImage {
    /// The image config. Both families share its bytes; the media type here is that of OCI.
    pub config: Blob,
    /// The OCI manifest.
    pub oci: Blob,
    /// The Docker manifest. `None` if the layers are compressed with zstd: the Docker format has
    /// no media type for them.
    pub docker: Option<Blob>,
    /// The layers from the lowest to the highest.
    pub layers: Vec<ImageLayer>,
}

impl AssembledImage {
    /// Returns the manifest of a family, if the image has one.
    pub fn manifest(&self, family: Family) -> Option<&Blob> {
        match family {
            Family::Oci => Some(&self.oci),
            Family::Docker => self.docker.as_ref(),
        }
    }
}

/// An error of [`assemble`]: the parts do not make an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssembleError {
    /// The image has no layers.
    #[error("an image needs at least one layer")]
    NoLayers,
    /// The layers are compressed in different ways.
    #[error(
        "layer {digest} is compressed with {found}, but the layers below it are compressed with {expected}. Fix: compress all layers of an image in the same way"
    )]
    MixedCompression {
        /// Digest of the first layer that differs.
        digest: Digest,
        /// Compression of this layer.
        found: Compression,
        /// Compression of the layers below it.
        expected: Compression,
    },
    /// The image has the same layer twice.
    #[error("layer {digest} occurs twice in the image")]
    DuplicateLayer {
        /// Digest of the layer.
        digest: Digest,
    },
    /// A required field of the platform is empty.
    #[error("the platform's {field} is empty")]
    EmptyPlatform {
        /// The field: `architecture` or `os`.
        field: &'static str,
    },
}

/// Assembles the config and the manifests of an image.
///
/// Layers are sorted by sharing and then by size, both descending, and then by digest. The root
/// layer is last. Clients identify an unpacked layer by the chain of all layers up to it, so two
/// images reuse only a common prefix. The order in which the layers are given has no effect.
///
/// # Errors
/// Returns an [`AssembleError`] if the parts do not make an image.
pub fn assemble(parts: ImageParts) -> Result<AssembledImage, AssembleError> {
    let ImageParts {
        platform,
        mut layers,
        root,
        config,
        annotations,
    } = parts;
    for (field, value) in [
        ("architecture", &platform.architecture),
        ("os", &platform.os),
    ] {
        if value.is_empty() {
            return Err(AssembleError::EmptyPlatform { field });
        }
    }
    layers.sort_by_key(|layer| (Reverse(layer.sharing), Reverse(layer.size), layer.digest));
    layers.extend(root);
    let compression = check_layers(&layers)?;

    let config_bytes = ImageConfig {
        created: Some(CREATED.to_owned()),
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
        config,
        rootfs: RootFs::layers(layers.iter().map(|layer| layer.diff_id).collect()),
        history: layers
            .iter()
            .map(|layer| HistoryEntry {
                created: Some(CREATED.to_owned()),
                created_by: Some(layer.created_by.clone()),
                comment: layer.comment.clone(),
                empty_layer: false,
            })
            .collect(),
    }
    .to_bytes();
    let config = Blob::new(MediaType::OciConfig, config_bytes);

    let manifest = |family, annotations| {
        let media_type = compression.layer_media_type(family)?;
        Some(write_manifest(
            family,
            &config,
            &layers,
            &media_type,
            annotations,
        ))
    };
    let docker = manifest(Family::Docker, BTreeMap::new());
    let oci =
        manifest(Family::Oci, annotations).expect("OCI has a media type for every compression");
    Ok(AssembledImage {
        config,
        oci,
        docker,
        layers,
    })
}

/// Checks the sorted layers and returns the compression that they have in common.
fn check_layers(layers: &[ImageLayer]) -> Result<Compression, AssembleError> {
    let expected = layers.first().ok_or(AssembleError::NoLayers)?.compression;
    let mut seen = HashSet::with_capacity(layers.len());
    for layer in layers {
        if layer.compression != expected {
            return Err(AssembleError::MixedCompression {
                digest: layer.digest,
                found: layer.compression,
                expected,
            });
        }
        if !seen.insert(layer.digest) {
            return Err(AssembleError::DuplicateLayer {
                digest: layer.digest,
            });
        }
    }
    Ok(expected)
}

fn write_manifest(
    family: Family,
    config: &Blob,
    layers: &[ImageLayer],
    layer_type: &MediaType,
    annotations: BTreeMap<String, String>,
) -> Blob {
    let media_type = family.manifest();
    let manifest = Manifest {
        schema_version: SchemaVersion,
        media_type: media_type.clone(),
        artifact_type: None,
        config: Descriptor::new(family.config(), config.digest, config.size()),
        layers: layers
            .iter()
            .map(|layer| Descriptor::new(layer_type.clone(), layer.digest, layer.size))
            .collect(),
        subject: None,
        annotations,
    };
    Blob::new(media_type, manifest.to_bytes())
}

#[cfg(test)]
mod tests;
