//! Media types, the two families of image formats, and compressions of layers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A family of image formats. All documents of an image belong to the same family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Docker image manifest version 2, schema 2.
    Docker,
    /// OCI image format 1.
    Oci,
}

impl Family {
    /// Returns the media type of an image manifest.
    pub const fn manifest(self) -> MediaType {
        match self {
            Self::Docker => MediaType::DockerManifest,
            Self::Oci => MediaType::OciManifest,
        }
    }

    /// Returns the media type of an index, which Docker calls a manifest list.
    pub const fn index(self) -> MediaType {
        match self {
            Self::Docker => MediaType::DockerManifestList,
            Self::Oci => MediaType::OciIndex,
        }
    }

    /// Returns the media type of an image config.
    pub const fn config(self) -> MediaType {
        match self {
            Self::Docker => MediaType::DockerConfig,
            Self::Oci => MediaType::OciConfig,
        }
    }
}

/// A media type of the OCI image specification ("Media Types") or of Docker's "Image Manifest
/// Version 2, Schema 2", or any other text.
///
/// Convert text with `From` and not with [`MediaType::Other`], so that equal texts compare equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum MediaType {
    /// Docker image manifest.
    DockerManifest,
    /// Docker manifest list.
    DockerManifestList,
    /// Docker image config.
    DockerConfig,
    /// Docker layer, compressed with gzip.
    DockerLayerGzip,
    /// OCI image manifest.
    OciManifest,
    /// OCI image index.
    OciIndex,
    /// OCI image config.
    OciConfig,
    /// OCI layer without compression.
    OciLayer,
    /// OCI layer, compressed with gzip.
    OciLayerGzip,
    /// OCI layer, compressed with zstd.
    OciLayerZstd,
    /// The empty JSON object of the OCI specification.
    OciEmpty,
    /// Any other media type.
    Other(String),
}

/// All media types but [`MediaType::Other`].
const KNOWN: [MediaType; 11] = [
    MediaType::DockerManifest,
    MediaType::DockerManifestList,
    MediaType::DockerConfig,
    MediaType::DockerLayerGzip,
    MediaType::OciManifest,
    MediaType::OciIndex,
    MediaType::OciConfig,
    MediaType::OciLayer,
    MediaType::OciLayerGzip,
    MediaType::OciLayerZstd,
    MediaType::OciEmpty,
];

impl MediaType {
    /// Returns the media type as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
            Self::DockerManifestList => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::DockerConfig => "application/vnd.docker.container.image.v1+json",
            Self::DockerLayerGzip => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Self::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
            Self::OciConfig => "application/vnd.oci.image.config.v1+json",
            Self::OciLayer => "application/vnd.oci.image.layer.v1.tar",
            Self::OciLayerGzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::OciLayerZstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            Self::OciEmpty => "application/vnd.oci.empty.v1+json",
            Self::Other(text) => text,
        }
    }

    /// Returns the family of the media type. `None` for [`MediaType::Other`].
    pub const fn family(&self) -> Option<Family> {
        match self {
            Self::DockerManifest
            | Self::DockerManifestList
            | Self::DockerConfig
            | Self::DockerLayerGzip => Some(Family::Docker),
            Self::OciManifest
            | Self::OciIndex
            | Self::OciConfig
            | Self::OciLayer
            | Self::OciLayerGzip
            | Self::OciLayerZstd
            | Self::OciEmpty => Some(Family::Oci),
            Self::Other(_) => None,
        }
    }

    /// Returns whether this is an image manifest of either family.
    pub const fn is_manifest(&self) -> bool {
        matches!(self, Self::DockerManifest | Self::OciManifest)
    }

    /// Returns whether this is an image index or a manifest list.
    pub const fn is_index(&self) -> bool {
        matches!(self, Self::DockerManifestList | Self::OciIndex)
    }

    fn known(text: &str) -> Option<Self> {
        KNOWN.into_iter().find(|known| known.as_str() == text)
    }
}

impl From<&str> for MediaType {
    fn from(text: &str) -> Self {
        Self::known(text).unwrap_or_else(|| Self::Other(text.to_owned()))
    }
}

impl From<String> for MediaType {
    fn from(text: String) -> Self {
        Self::known(&text).unwrap_or(Self::Other(text))
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// A compression of layers.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// gzip (RFC 1952), which every client supports.
    #[default]
    Gzip,
    /// Zstandard (RFC 8878), which is smaller and faster. OCI images only.
    Zstd,
}

impl Compression {
    /// Returns the name: `gzip` or `zstd`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Returns the media type of a layer with this compression. `None` if the family has no such
    /// layers.
    pub const fn layer_media_type(self, family: Family) -> Option<MediaType> {
        match (family, self) {
            (Family::Docker, Self::Gzip) => Some(MediaType::DockerLayerGzip),
            (Family::Docker, Self::Zstd) => None,
            (Family::Oci, Self::Gzip) => Some(MediaType::OciLayerGzip),
            (Family::Oci, Self::Zstd) => Some(MediaType::OciLayerZstd),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a [`Compression`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression `{0}`. Fix: use `gzip` or `zstd`")]
pub struct UnknownCompression(pub String);

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(text: &str) -> Result<Self, UnknownCompression> {
        match text {
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err(UnknownCompression(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
