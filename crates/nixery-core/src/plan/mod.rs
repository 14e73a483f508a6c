//! Layer planning: which store paths share a layer.
//!
//! A [`LayerStrategy`] partitions a [`ReferenceGraph`] into at most *budget* layers. A strategy has
//! its own data, such as popularity. The graph has the roots, and every path's name, sizes and
//! references.
//!
//! ```
//! use nixery_core::{Dominator, LayerStrategy, ReferenceGraph};
//! use std::num::NonZeroUsize;
//! let json = br#"[
//!   { "path": "/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-hello-2.12", "narSize": 40,
//!     "references": ["/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.38"] },
//!   { "path": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.38", "narSize": 60, "references": [] }]"#;
//! let roots = ["/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-hello-2.12".parse().unwrap()];
//! let graph = ReferenceGraph::from_path_info(json, &roots).unwrap();
//! let plan = Dominator::default().plan(&graph, NonZeroUsize::new(94).unwrap());
//! assert_eq!(plan.layers.len(), 1);
//! assert_eq!(plan.layers[0].reason, "hello-2.12, asked for, and the path only it needs");
//! ```

use std::fmt::Debug;
use std::num::NonZeroUsize;

use crate::graph::{NodeId, ReferenceGraph};

mod check;
mod cluster_plan;
mod clustered;
mod dominator;
mod dominators;
mod draw;
mod popularity;
mod reason;
mod size;
mod stability;
#[cfg(test)]
mod tests;

pub use check::LayerPlanError;
#[cfg(feature = "pack")]
pub use cluster_plan::MAX_FILE_BYTES;
pub use cluster_plan::{ClusterId, ClusterPlan, ClusterPlanError, PlannedPackage, package_key};
pub use clustered::Clustered;
pub use draw::{LayerRow, layer_rows, to_dot, to_table};
pub use popularity::{Popularity, PopularityError};
pub use size::Size;

pub use dominator::{DEFAULT_THRESHOLD, Dominator, Weight};

/// The most layers of an image by default, root layer included. Docker's limit is 125, and people
/// build `FROM` these images. The same number as the original's.
pub const DEFAULT_BUDGET: NonZeroUsize = NonZeroUsize::new(94).unwrap();

/// A way to partition a reference graph into layers.
///
/// The contract: each path is in exactly one layer, no layer is empty, there are at most `budget`
/// layers, and the plan is a pure function of strategy, graph and budget. Neither the order of the
/// graph's input nor hash maps nor threads change it. [`LayerPlan::check`] checks the first three.
pub trait LayerStrategy: Send + Sync + Debug {
    /// Name, version, every parameter and the digest of the data. Strategies with the same id make
    /// the same plans. Part of cache keys.
    fn id(&self) -> String;

    /// Partitions the graph into at most `budget` layers; no layers for an empty graph.
    fn plan(&self, graph: &ReferenceGraph, budget: NonZeroUsize) -> LayerPlan;
}

/// A partition of a reference graph's paths into layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerPlan {
    /// The layers in the order the image has them: most shared first.
    pub layers: Vec<PlannedLayer>,
}

/// The paths of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLayer {
    /// Its paths, sorted.
    pub paths: Vec<NodeId>,
    /// Bytes of its paths' NARs; saturating.
    pub nar_size: u64,
    /// How widely the strategy expects the layer to be shared; never larger than that of the layer
    /// before. Comparable within one strategy only; saturating.
    pub rating: u64,
    /// Why these paths are together, in one sentence for people.
    pub reason: String,
}
