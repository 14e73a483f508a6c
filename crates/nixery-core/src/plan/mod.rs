//! Layer planning.
use std::fmt::Debug;
use std::num::NonZeroUsize;

use crate::graph::ReferenceGraph;

mod dominator;
pub use dominator::{DEFAULT_THRESHOLD, Dominator, Weight};

/// A way to partition a reference graph into layers.
pub trait LayerStrategy: Send + Sync + Debug {
    /// Name, parameters and digest of the data.
    fn id(&self) -> String;
    /// Partitions the graph.
    fn plan(&self, graph: &ReferenceGraph, budget: NonZeroUsize) -> LayerPlan;
}

/// A partition of a graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerPlan {
    /// The layers, most shared first.
    pub layers: Vec<PlannedLayer>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLayer {
    /// Indices of its paths in the graph, sorted.
    pub paths: Vec<usize>,
    /// Bytes of its NARs; saturating.
    pub nar_size: u64,
    /// How widely it is shared, to order layers by; saturating.
    pub rating: u64,
    /// Why these paths are together, for people.
    pub reason: String,
}
