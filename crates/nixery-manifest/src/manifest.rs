//! Image manifests.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::json::{self, null_is_default};
use crate::{Descriptor, MediaType, ParseError, SchemaVersion};

const WHAT: &str = "image manifest";

/// An image manifest of either family: the config and the layers of one image on one platform.
///
/// The manifests of Docker (schema 2) and OCI have the same fields and differ in media types.
/// Reading drops unknown fields, so serve the stored bytes of a manifest and do not serialize it
/// again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Version of the format.
    pub schema_version: SchemaVersion,
    /// [`MediaType::DockerManifest`] or [`MediaType::OciManifest`]. The latter if the JSON has
    /// none.
    #[serde(default = "oci_manifest")]
    pub media_type: MediaType,
    /// Type of an artifact that is not an image. OCI only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<MediaType>,
    /// The image config.
    pub config: Descriptor,
    /// The layers from the lowest to the highest.
    #[serde(deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one refers to. OCI only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations. OCI only.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

fn oci_manifest() -> MediaType {
    MediaType::OciManifest
}

impl Manifest {
    /// Parses a manifest of either family.
    ///
    /// # Errors
    /// Returns a [`ParseError`] if the bytes are not the JSON of a manifest, if they state another
    /// media type, or if they also have a `manifests` list. OCI image specification 1.0.2 forbids
    /// such a document because one client reads it as an image and another as an index.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, ParseError> {
        #[derive(Deserialize)]
        struct IndexFields {
            manifests: Option<IgnoredAny>,
        }
        let manifest: Self = json::from_slice(bytes, WHAT)?;
        if !manifest.media_type.is_manifest() {
            return Err(ParseError::WrongMediaType {
                what: WHAT,
                found: manifest.media_type,
            });
        }
        let other: IndexFields = json::from_slice(bytes, WHAT)?;
        match other.manifests {
            None => Ok(manifest),
            Some(_) => Err(ParseError::Ambiguous {
                what: WHAT,
                field: "manifests",
            }),
        }
    }

    /// Serializes to compact JSON, with the fields in the order of the struct.
    pub fn to_bytes(&self) -> Vec<u8> {
        json::to_bytes(self)
    }
}
