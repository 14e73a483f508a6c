//! Image indexes.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::json::{self, null_is_default};
use crate::{Descriptor, MediaType, ParseError, SchemaVersion};

const WHAT: &str = "image index";

/// A list of manifests: an image for several platforms, an OCI layout, or a list of referrers.
///
/// A Docker manifest list has the same fields and another media type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Version of the format.
    pub schema_version: SchemaVersion,
    /// [`MediaType::DockerManifestList`] or [`MediaType::OciIndex`]. The latter if the JSON has
    /// none.
    #[serde(default = "oci_index")]
    pub media_type: MediaType,
    /// The manifests.
    #[serde(deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// Annotations. OCI only.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

fn oci_index() -> MediaType {
    MediaType::OciIndex
}

impl Index {
    /// Returns an OCI index of these manifests.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: SchemaVersion,
            media_type: MediaType::OciIndex,
            manifests,
            annotations: BTreeMap::new(),
        }
    }

    /// Returns an OCI index without manifests.
    pub fn empty() -> Self {
        Self::new(Vec::new())
    }

    /// Parses an index or a manifest list.
    ///
    /// # Errors
    /// Returns a [`ParseError`] if the bytes are not the JSON of an index, if they state another
    /// media type, or if they also have the `config` or the `layers` of a manifest.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, ParseError> {
        #[derive(Deserialize)]
        struct ManifestFields {
            config: Option<IgnoredAny>,
            layers: Option<IgnoredAny>,
        }
        let index: Self = json::from_slice(bytes, WHAT)?;
        if !index.media_type.is_index() {
            return Err(ParseError::WrongMediaType {
                what: WHAT,
                found: index.media_type,
            });
        }
        let other: ManifestFields = json::from_slice(bytes, WHAT)?;
        let field = match (other.config, other.layers) {
            (None, None) => return Ok(index),
            (Some(_), _) => "config",
            (None, Some(_)) => "layers",
        };
        Err(ParseError::Ambiguous { what: WHAT, field })
    }

    /// Compact JSON, the fields in the struct's order.
    pub fn to_bytes(&self) -> Vec<u8> {
        json::to_bytes(self)
    }
}
