//! Image configs: how a container of the image starts, and what its layers unpack to.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::{self, null_is_default};
use crate::{Digest, ParseError};

const WHAT: &str = "image config";

/// An image config (OCI image specification, "Image Configuration"); Docker reads the same bytes.
///
/// A field this crate does not know is not kept when a config is read and written again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// CPU architecture as Go names it.
    pub architecture: String,
    /// Operating system as Go names it.
    pub os: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// How a container starts.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RuntimeConfig,
    /// What the layers unpack to.
    pub rootfs: RootFs,
    /// How each layer came to be, the lowest first.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub history: Vec<History>,
}

impl ImageConfig {
    /// Reads an image config.
    ///
    /// # Errors
    /// [`ParseError::Json`] if the bytes are not JSON of that shape.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, ParseError> {
        json::from_slice(bytes, WHAT)
    }

    /// Compact JSON, the fields in the struct's order.
    pub fn to_bytes(&self) -> Vec<u8> {
        json::to_bytes(self)
    }
}

/// Defaults for a container of the image: the `config` object, whose keys are in `PascalCase`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RuntimeConfig {
    /// User or UID, with an optional `:group`; empty for root.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// Ports the program listens on, `80` or `53/udp`.
    #[serde(
        deserialize_with = "read_set",
        serialize_with = "write_set",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub exposed_ports: BTreeSet<String>,
    /// Environment, `NAME=value`, in the order given.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// The program to start, with its first arguments.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub entrypoint: Vec<String>,
    /// Default arguments, or the program where there is no entry point.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub cmd: Vec<String>,
    /// Directories that hold a container's own data.
    #[serde(
        deserialize_with = "read_set",
        serialize_with = "write_set",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub volumes: BTreeSet<String>,
    /// Working directory; empty for `/`.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Labels, in the order of their keys.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// Signal that stops a container, `SIGTERM`; empty for the runtime's default.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub stop_signal: String,
}

/// The file system that the layers add up to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// How the file system is given.
    #[serde(rename = "type")]
    pub kind: RootFsKind,
    /// Diff ID of each layer, the lowest first.
    #[serde(deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

impl RootFs {
    /// The file system of layers with these diff IDs, the lowest first.
    pub fn layers(diff_ids: Vec<Digest>) -> Self {
        Self {
            kind: RootFsKind::Layers,
            diff_ids,
        }
    }
}

/// How a root file system is given; the specification has only one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootFsKind {
    /// As a stack of layers.
    Layers,
}

/// How one layer came to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When the layer was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The step made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// Writes a set as Go's `map[string]struct{}`.
fn write_set<S: Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(set.iter().map(|key| (key, Nothing {})))
}

/// Reads a set from Go's `map[string]struct{}`.
fn read_set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let map: BTreeMap<String, serde::de::IgnoredAny> = null_is_default(deserializer)?;
    Ok(map.into_keys().collect())
}

/// `{}`.
#[derive(Serialize)]
struct Nothing {}
