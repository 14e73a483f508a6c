//! Digests, media types, descriptors, manifests, image configs and indexes of OCI and Docker
//! images. No I/O.
//!
//! [`assemble`] makes an image's documents from its layers, for both families at once. Bytes are
//! built once: store them and serve them as they are.
//!
//! ```
//! use std::collections::BTreeMap;
//! use nixery_manifest::{
//!     Compression, Digest, Family, ImageLayer, ImageParts, Manifest, Platform, RuntimeConfig,
//!     assemble,
//! };
//!
//! let layer = |content: &str, sharing| ImageLayer {
//!     digest: Digest::of(content.as_bytes()),
//!     diff_id: Digest::of(format!("tar of {content}").as_bytes()),
//!     size: content.len() as u64,
//!     compression: Compression::Gzip,
//!     sharing,
//!     created_by: "an example".to_owned(),
//!     comment: Some(content.to_owned()),
//! };
//! let image = assemble(ImageParts {
//!     platform: Platform {
//!         architecture: "amd64".to_owned(),
//!         os: "linux".to_owned(),
//!         variant: None,
//!     },
//!     layers: vec![layer("hello", 1), layer("glibc", 5_000)],
//!     root: Some(layer("links", u64::MAX)),
//!     config: RuntimeConfig {
//!         env: vec!["PATH=/bin".to_owned()],
//!         ..RuntimeConfig::default()
//!     },
//!     annotations: BTreeMap::new(),
//! })?;
//!
//! // Most shared first, the root layer last whatever its sharing.
//! let order: Vec<_> = image.layers.iter().filter_map(|l| l.comment.as_deref()).collect();
//! assert_eq!(order, ["glibc", "hello", "links"]);
//!
//! // Both families point at the same config and the same layers.
//! let docker = image.manifest(Family::Docker).expect("gzip layers have a Docker manifest");
//! let docker = Manifest::from_slice(&docker.bytes)?;
//! let oci = Manifest::from_slice(&image.oci.bytes)?;
//! assert_eq!(docker.config.digest, oci.config.digest);
//! assert_ne!(docker.config.media_type, oci.config.media_type);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
pub use config::{History, ImageConfig, RootFs, RootFsKind, RuntimeConfig};
pub use descriptor::{Descriptor, Platform};
pub use digest::{Digest, DigestError, DigestRule, Digester};
pub use error::ParseError;
pub use index::Index;
pub use manifest::Manifest;
pub use media_type::{Compression, Family, MediaType, UnknownCompression};
pub use schema::SchemaVersion;
