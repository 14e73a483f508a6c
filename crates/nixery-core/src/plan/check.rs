//! Whether a plan keeps what [`LayerStrategy`](super::LayerStrategy) promises.

use std::num::NonZeroUsize;

use super::LayerPlan;
use crate::graph::ReferenceGraph;
use crate::store_path::StorePath;

/// How a plan breaks the contract of [`LayerStrategy`](super::LayerStrategy). Layers count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerPlanError {
    /// There are more layers than the budget allows.
    #[error("it has {layers} layers, and at most {budget} are allowed")]
    TooManyLayers {
        /// Layers of the plan.
        layers: usize,
        /// The most that are allowed.
        budget: NonZeroUsize,
    },
    /// A layer has no path.
    #[error("layer {layer} has no paths")]
    EmptyLayer {
        /// Its number.
        layer: usize,
    },
    /// A layer has a path that the graph does not have.
    #[error("layer {layer} has a path that is not in the graph of {paths} paths")]
    UnknownPath {
        /// Its number.
        layer: usize,
        /// Paths of the graph.
        paths: usize,
    },
    /// A path is in two layers, or in one layer twice.
    #[error("{path} is in it twice, in layer {first} and in layer {second}")]
    Twice {
        /// The path.
        path: StorePath,
        /// The number of its first layer.
        first: usize,
        /// The number of the other layer.
        second: usize,
    },
    /// A path is in no layer.
    #[error("{path} is in none of its layers")]
    Missing {
        /// The path.
        path: StorePath,
    },
}

impl LayerPlan {
    /// Checks that each path of the graph is in exactly one layer, that no layer is empty, and that there are
    /// at most `budget` layers.
    ///
    /// # Errors
    /// The first violation.
    pub fn check(
        &self,
        graph: &ReferenceGraph,
        budget: NonZeroUsize,
    ) -> Result<(), LayerPlanError> {
        let layers = self.layers.len();
        if layers > budget.get() {
            return Err(LayerPlanError::TooManyLayers { layers, budget });
        }
        let mut layer_of = vec![0; graph.len()];
        for (layer, planned) in (1..).zip(&self.layers) {
            if planned.paths.is_empty() {
                return Err(LayerPlanError::EmptyLayer { layer });
            }
            for &path in &planned.paths {
                let (Some(first), Some(node)) = (layer_of.get_mut(path.index()), graph.get(path))
                else {
                    let paths = graph.len();
                    return Err(LayerPlanError::UnknownPath { layer, paths });
                };
                if *first != 0 {
                    return Err(LayerPlanError::Twice {
                        path: node.path.clone(),
                        first: *first,
                        second: layer,
                    });
                }
                *first = layer;
            }
        }
        match layer_of.iter().position(|&layer| layer == 0) {
            Some(missing) => Err(LayerPlanError::Missing {
                path: graph.nodes()[missing].path.clone(),
            }),
            None => Ok(()),
        }
    }
}
