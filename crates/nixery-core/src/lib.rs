//! Image names, Nix reference graphs, layer planning and deterministic layer packing.
//!
//! The engine of Nixery without the machinery around it: synchronous, no async runtime, no
//! network. Everything here is a function of its input; only packing and [`NarHash::of_path`] read
//! files.
//!
//! | from | to | with |
//! |---|---|---|
//! | `shell/git/htop` | packages, architecture | [`ImageName`] |
//! | a channel, repository or directory, and a [`Tag`] | what the Nix code takes | [`PackageSource`] |
//! | a tag that is a version | whether a package has it | [`AssertedVersion`] |
//! | Nix's JSON | the graph of store paths | [`ReferenceGraph`] |
//! | a graph | layers | a [`LayerStrategy`]: [`Size`], [`Clustered`] with a [`ClusterPlan`], [`Dominator`] |
//! | store paths | a layer's tar, compressed | a [`Packer`], or [`pack_layer`] |
//! | the packages themselves | the topmost layer | [`RootLayer`] |
//! | what was asked for | the name of the cached result | [`manifest_key`], [`layer_key`] |
//!
//! Packing and the compressed form of cluster plans need the feature `pack`, which is on by
//! default. Without it no C is compiled. The original's cache keys need `original-keys`, also on by
//! default.
//!
//! ```
//! use nixery_core::{DEFAULT_BUDGET, Dominator, ImageName, LayerStrategy, ReferenceGraph};
//!
//! // What does a name ask for?
//! let name: ImageName = "shell/htop".parse()?;
//! assert_eq!(
//!     name.packages(),
//!     ["bashInteractive", "cacert", "coreutils", "htop", "iana-etc", "moreutils", "nano"],
//! );
//!
//! // Nix builds these packages and lists what they need at run time (shortened here) …
//! let graph = ReferenceGraph::parse(br#"{
//!     "exportReferencesGraph": {
//!         "graph": ["/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-htop-3.4"]
//!     },
//!     "graph": [
//!         {
//!             "path": "/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-htop-3.4",
//!             "narSize": 400000, "closureSize": 130400000,
//!             "references": ["/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.42"]
//!         },
//!         {
//!             "path": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.42",
//!             "narSize": 130000000, "closureSize": 130000000,
//!             "references": []
//!         }
//!     ]
//! }"#)?;
//!
//! // … and the plan says which of these store paths share a layer with which.
//! let plan = Dominator::default().plan(&graph, DEFAULT_BUDGET);
//! let layers: Vec<Vec<_>> = plan
//!     .layers
//!     .iter()
//!     .map(|layer| layer.paths.iter().map(|path| graph.node(*path).path.name()).collect())
//!     .collect();
//! assert_eq!(layers, [["htop-3.4"], ["glibc-2.42"]]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arch;
mod asserted_version;
mod base32;
mod byte_size;
mod codec;
#[cfg(feature = "original-keys")]
mod compat;
mod graph;
mod json_error;
mod key;
mod meta;
mod name;
mod nar;
mod nar_hash;
#[cfg(feature = "pack")]
mod pack;
mod plan;
mod selection;
mod source;
mod store_path;
mod store_root;
mod tag;

pub use nixery_manifest as manifest;

pub use arch::{Architecture, UnknownArchitecture};
pub use asserted_version::AssertedVersion;
pub use byte_size::{ByteSize, NotASize};
pub use codec::Codec;
#[cfg(feature = "original-keys")]
pub use compat::{original_image_key, original_layer_key};
pub use graph::{
    GraphError, JsonKind, ListedPath, NodeId, PathInfo, PathInfoJson, PathReferences,
    ReferenceGraph,
};
pub use json_error::JsonError;
pub use key::{ManifestKeyInputs, PACKER_VERSION, SourceIdentity, layer_key, manifest_key};
pub use meta::{META_PACKAGES, MetaEffect, MetaPackage, REQUIRED_PACKAGES};
pub use name::{ComponentRule, ImageName, MAX_NAME_LEN, NameError};
pub use nar::NarError;
pub use nar_hash::{NarHash, NarHashError};
#[cfg(feature = "pack")]
pub use pack::{
    Conflict, ConflictKind, PackError, PackErrorKind, PackedLayer, Packer, RootEntry,
    RootEntryKind, RootLayer, pack_layer, write_layer_tar,
};
#[cfg(feature = "pack")]
pub use plan::MAX_FILE_BYTES;
pub use plan::{
    ClusterId, ClusterPlan, ClusterPlanError, Clustered, DEFAULT_BUDGET, DEFAULT_THRESHOLD,
    Dominator, LayerPlan, LayerPlanError, LayerRow, LayerStrategy, PlannedLayer, PlannedPackage,
    Popularity, PopularityError, Size, Weight, layer_rows, package_key, to_dot, to_table,
};
pub use selection::{Channels, ChannelsError, TagSelection};
pub use source::{PackageSource, ResolvedSource, SourceError, SourceRule, hide_credentials};
pub use store_path::{HASH_LEN, StorePath, StorePathError, StorePathRule, package_name};
pub use store_root::StoreRoot;
pub use tag::{MAX_TAG_LEN, Tag, TagError};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
