//! Image configs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::{self, null_is_default};
use crate::{Digest, ParseError};

const WHAT: &str = "image config";

/// An image config (OCI image specification, "Image Configuration"). Docker reads the same bytes.
///
/// Reading drops unknown fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Creation time of the image, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// CPU architecture, a `GOARCH` value.
    pub architecture: String,
    /// Operating system, a `GOOS` value.
    pub os: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Defaults for a container of the image.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RuntimeConfig,
    /// The root file system.
    pub rootfs: RootFs,
    /// The steps that made the image, from the lowest layer to the highest.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub history: Vec<HistoryEntry>,
}

impl ImageConfig {
    /// Parses an image config.
    ///
    /// # Errors
    /// Returns [`ParseError::Json`] if the bytes are not the JSON of an image config.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, ParseError> {
        json::from_slice(bytes, WHAT)
    }

    /// Serializes to compact JSON, with the fields in the order of the struct.
    pub fn to_bytes(&self) -> Vec<u8> {
        json::to_bytes(self)
    }
}

/// Defaults for a container of the image: the `config` object of an [`ImageConfig`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RuntimeConfig {
    /// User name or UID, with an optional `:group`. Empty means root.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// Ports that the program listens on, such as `80` or `53/udp`.
    #[serde(
        deserialize_with = "read_set",
        serialize_with = "write_set",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub exposed_ports: BTreeSet<String>,
    /// Environment variables as `NAME=value`.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// The program to start and its first arguments.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub entrypoint: Vec<String>,
    /// Default arguments, or program and arguments if there is no entry point.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub cmd: Vec<String>,
    /// Directories for data of the container.
    #[serde(
        deserialize_with = "read_set",
        serialize_with = "write_set",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub volumes: BTreeSet<String>,
    /// Working directory. Empty means `/`.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Labels.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// Signal that stops a container, such as `SIGTERM`. Empty means the runtime's default.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub stop_signal: String,
}

/// The root file system of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// How the file system is specified.
    #[serde(rename = "type")]
    pub kind: RootFsKind,
    /// Diff IDs from the lowest layer to the highest.
    #[serde(deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

impl RootFs {
    /// Returns the file system of layers with these diff IDs, from the lowest to the highest.
    pub fn layers(diff_ids: Vec<Digest>) -> Self {
        Self {
            kind: RootFsKind::Layers,
            diff_ids,
        }
    }
}

/// How a root file system is specified. The OCI specification has one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootFsKind {
    /// As a stack of layers.
    Layers,
}

/// A step that made the image, usually one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Time of the step, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The program or command of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// A comment on the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// Writes a set as an object with empty objects as values, like Go's `map[string]struct{}`.
fn write_set<S: Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(set.iter().map(|key| (key, EmptyObject {})))
}

/// Reads the keys of an object as a set.
fn read_set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let map: BTreeMap<String, serde::de::IgnoredAny> = null_is_default(deserializer)?;
    Ok(map.into_keys().collect())
}

/// Serializes as `{}`.
#[derive(Serialize)]
struct EmptyObject {}
