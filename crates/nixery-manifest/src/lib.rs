#![doc = include_str!("../README.md")]

mod assemble;
mod blob;
mod config;
mod descriptor;
mod digest;
mod error;
mod index;
mod json;
mod manifest;
mod media_type;
mod schema;

pub use assemble::{AssembleError, AssembledImage, ImageLayer, ImageParts, assemble};
pub use blob::Blob;
pub use config::{HistoryEntry, ImageConfig, RootFs, RootFsKind, RuntimeConfig};
pub use descriptor::{Descriptor, Platform};
pub use digest::{Digest, DigestError, DigestRule, Digester};
pub use error::ParseError;
pub use index::Index;
pub use manifest::Manifest;
pub use media_type::{Compression, Family, MediaType, UnknownCompression};
pub use schema::SchemaVersion;
