//! The original's strategy.
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::{LayerPlan, LayerStrategy};
use crate::graph::ReferenceGraph;
use crate::popularity::Popularity;

/// Popularity from which a path gets a layer of its own.
pub const DEFAULT_THRESHOLD: u64 = 100;

/// The size that a path weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Weight {
    /// Bytes of the path with all it references, as the original has it.
    #[default]
    ClosureSize,
    /// Bytes of the path alone.
    NarSize,
}

/// The original's strategy.
#[derive(Debug, Clone)]
pub struct Dominator {
    /// How widely names are used.
    pub popularity: Arc<Popularity>,
    /// Popularity from which a path gets a layer of its own.
    pub threshold: u64,
    /// The size that a path weighs.
    pub weight: Weight,
}

impl Default for Dominator {
    fn default() -> Self {
        Self {
            popularity: Arc::default(),
            threshold: DEFAULT_THRESHOLD,
            weight: Weight::default(),
        }
    }
}

#[allow(clippy::unimplemented)]
impl LayerStrategy for Dominator {
    fn id(&self) -> String {
        unimplemented!()
    }
    fn plan(&self, graph: &ReferenceGraph, budget: NonZeroUsize) -> LayerPlan {
        let _ = (graph, budget);
        unimplemented!()
    }
}
