//! Image manifests.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::json::{self, null_is_default};
use crate::{Descriptor, MediaType, ParseError, SchemaVersion};

const WHAT: &str = "image manifest";

/// An image manifest: the config and the layers of one image on one platform.
///
/// Docker's schema 2 and OCI's manifest are one shape with other media types, so both are this
/// struct. A field this crate does not know is not kept: serve a stored manifest's bytes, never
/// its bytes written anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: SchemaVersion,
    /// [`MediaType::DockerManifest`] or [`MediaType::OciManifest`]; OCI lets a manifest leave it
    /// out.
    #[serde(default = "oci_manifest")]
    pub media_type: MediaType,
    /// Type of an artifact that is not an image; OCI only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<MediaType>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, the lowest first.
    #[serde(deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about; OCI only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations, in the order of their keys; OCI only.
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
    /// Reads a manifest of either family.
    ///
    /// # Errors
    /// [`ParseError`] if the bytes are not JSON of that shape, state another media type, or have
    /// a `manifests` list too (such a document is an image to one client and an index to
    /// another: OCI image specification 1.0.2).
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

    /// Compact JSON, the fields in the struct's order: the same manifest gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        json::to_bytes(self)
    }
}
