//! Image names, Nix reference graphs, layer planning and deterministic layer packing.
//!
//! The engine of Nixery without the machinery around it: synchronous, no async runtime, no
//! network. Everything here is a function of its input; only [`pack`] reads files.
//!
//! | from | to | with |
//! |---|---|---|
//! | `shell/git/htop` | packages, architecture | [`ImageName`] |
//! | a channel, repository or directory, and a [`Tag`] | what the Nix code takes | [`PackageSource`] |
//! | Nix's JSON | the graph of store paths | [`ReferenceGraph`] |
//! | a graph | layers | a [`LayerStrategy`]: [`Size`], [`Clustered`] with a [`ClusterPlan`], [`Dominator`] |
//! | a history of pulls | what a strategy would have moved | [`replay()`] |
//! | store paths | a layer's tar, compressed | a [`Packer`], or [`pack_layer`] |
//! | the packages themselves | the topmost layer | [`RootLayer`] |
//! | what was asked for | the name of the cached result | [`manifest_key`], [`layer_key`] |
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
//! // Nix builds these packages and tells what they need at run time (shortened here) …
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
//!     .map(|layer| layer.paths.iter().map(|path| graph.nodes()[*path].path.name()).collect())
//!     .collect();
//! assert_eq!(layers, [["htop-3.4"], ["glibc-2.42"]]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod arch;
mod byte_size;
pub mod cluster_plan;
pub mod compat;
pub mod draw;
pub mod graph;
pub mod key;
pub mod meta;
pub mod name;
pub mod nar_hash;
pub mod pack;
pub mod plan;
pub mod popularity;
pub mod reference_sink;
pub mod replay;
pub mod source;
pub mod store_path;
pub mod tag;

pub use arch::{Architecture, UnknownArchitecture};
pub use byte_size::{ByteSize, NotASize};
pub use cluster_plan::{ClusterPlan, ClusterPlanError, PlannedPackage, package_key};
pub use draw::{LayerRow, layer_rows, to_dot, to_table};
pub use graph::{GraphError, PathInfo, ReferenceGraph};
pub use key::{ManifestKeyInputs, SourceIdentity, layer_key, manifest_key};
pub use meta::{META_PACKAGES, MetaPackage, REQUIRED_PACKAGES};
pub use name::{ComponentRule, ImageName, NameError};
pub use nar_hash::{NarHash, NarHashError};
pub use pack::{
    Codec, Conflict, ConflictKind, PACKER_VERSION, PackError, PackedLayer, Packer, RootEntry,
    RootEntryKind, RootLayer, StoreRoot, pack_layer, pack_root_layer, write_layer_tar,
};
pub use plan::{
    Clustered, DEFAULT_BUDGET, DEFAULT_THRESHOLD, Dominator, LayerPlan, LayerStrategy,
    PlannedLayer, Size, Weight,
};
pub use popularity::{Popularity, PopularityCounter, PopularityError};
pub use reference_sink::{PathReferences, ReferenceError, ReferenceSink};
pub use replay::{Outcome, Workload, replay};
pub use source::{PackageSource, ResolvedSource, SourceError};
pub use store_path::{StorePath, StorePathError, StorePathRule};
pub use tag::{Tag, TagError};
