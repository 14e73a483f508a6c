//! From layers to an image: the config and the manifests of both families.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::config::{History, ImageConfig, RootFs, RuntimeConfig};
use crate::{
    Blob, Compression, Descriptor, Digest, Family, Manifest, MediaType, Platform, SchemaVersion,
};

/// `created` of every image and layer: the modification time that Nix gives to store paths. An
/// image's bytes must not depend on when it was made.
const CREATED: &str = "1970-01-01T00:00:01Z";

/// A layer, packed and stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Number of compressed bytes.
    pub size: u64,
    /// How it is compressed.
    pub compression: Compression,
    /// How widely other images share it; the higher, the lower in the stack. No unit.
    pub sharing: u64,
    /// What made the layer, for its history entry.
    pub created_by: String,
    /// What the layer holds, for its history entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// All that an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageParts {
    /// The platform it runs on.
    pub platform: Platform,
    /// The layers, in any order.
    pub layers: Vec<ImageLayer>,
    /// The layer that goes on top of all others, however it is shared.
    pub root: Option<ImageLayer>,
    /// How a container starts; its labels are the image's.
    pub config: RuntimeConfig,
    /// Annotations of the OCI manifest; a Docker manifest has none.
    pub annotations: BTreeMap<String, String>,
}

/// An image: its config, and a manifest for each family that can carry its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssembledImage {
    /// The image config. The bytes serve both families; the media type here is OCI's.
    pub config: Blob,
    /// The OCI manifest.
    pub oci: Blob,
    /// The Docker manifest; none where the layers are compressed with zstd, which Docker's
    /// format has no media type for.
    pub docker: Option<Blob>,
    /// The layers in their final order, the lowest first.
    pub layers: Vec<ImageLayer>,
}

impl AssembledImage {
    /// The manifest of a family, if there is one.
    pub fn manifest(&self, family: Family) -> Option<&Blob> {
        match family {
            Family::Oci => Some(&self.oci),
            Family::Docker => self.docker.as_ref(),
        }
    }
}

/// Why parts do not make an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// There is nothing in the image.
    #[error("an image needs at least one layer")]
    NoLayers,
    /// Layers of one image are compressed in different ways, and no media type of the Docker
    /// family covers the one that is zstd.
    #[error(
        "layer {digest} is compressed with {found}, the layers before it with {expected}: pack all layers of an image alike"
    )]
    MixedCompression {
        /// The first layer that differs.
        digest: Digest,
        /// How it is compressed.
        found: Compression,
        /// How the layers before it are compressed.
        expected: Compression,
    },
    /// The same layer twice.
    #[error("layer {digest} is in the image twice")]
    DuplicateLayer {
        /// The layer's digest.
        digest: Digest,
    },
    /// A part of the platform is empty.
    #[error("the platform's {field} is empty")]
    EmptyPlatform {
        /// `architecture` or `os`.
        field: &'static str,
    },
}

/// Puts an image together.
///
/// Layers are sorted: the most shared first, of these the largest first, then by digest; the
/// root layer is last. Snapshots are keyed by the chain of layers below them, so a client reuses
/// only a common prefix. The result depends on the parts alone, not on their order.
///
/// # Errors
/// [`AssembleError`] where the parts do not make one image.
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
            .map(|layer| History {
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
    let oci = manifest(Family::Oci, annotations)
        .expect("OCI has a media type for each compression, see `layer_media_type`");
    Ok(AssembledImage {
        config,
        oci,
        docker,
        layers,
    })
}

/// Checks the sorted layers; returns how all of them are compressed.
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
