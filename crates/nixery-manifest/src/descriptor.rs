//! Descriptors and platforms.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::null_is_default;
use crate::{Digest, MediaType};

/// The platform that an image runs on (OCI image specification, "Image Index").
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// CPU architecture, a `GOARCH` value: `amd64`, `arm64`.
    pub architecture: String,
    /// Operating system, a `GOOS` value: `linux`.
    pub os: String,
    /// Variant of the architecture, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A reference to content by its digest (OCI image specification, "Content Descriptors").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: MediaType,
    /// Size of the content in bytes.
    pub size: u64,
    /// Digest of the content.
    pub digest: Digest,
    /// Annotations.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Platform of the image. In an index only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Type of the artifact. In an index only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<MediaType>,
}

impl Descriptor {
    /// Returns a descriptor with the three required fields.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self {
            media_type,
            size,
            digest,
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }
}
