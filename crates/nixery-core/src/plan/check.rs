//! Checks that a plan keeps the contract of [`LayerStrategy`](super::LayerStrategy).

use std::num::NonZeroUsize;

use super::LayerPlan;
use crate::graph::ReferenceGraph;
use crate::store_path::StorePath;

/// How a plan breaks the contract of [`LayerStrategy`](super::LayerStrategy). Layers count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerPlanError {
    /// There are more layers than the budget allows.
    #[error("it has {layers} layers, but at most {budget} are allowed")]
    TooManyLayers {
        /// The number of layers.
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
    #[error("layer {layer} has a path that the image, with {paths} paths, does not have")]
    UnknownPath {
        /// Its number.
        layer: usize,
        /// The number of paths of the graph.
        paths: usize,
    },
    /// A path is in two layers, or in one layer twice.
    #[error("{path} is in more than one place, in layer {first} and in layer {second}")]
    Twice {
        /// The path.
        path: StorePath,
        /// The number of its first layer.
        first: usize,
        /// The number of the other layer.
        second: usize,
    },
    /// A path is in no layer.
    #[error("{path} is in no layer")]
    Missing {
        /// The path.
        path: StorePath,
    },
}

impl LayerPlan {
    /// Checks that each path of the graph is in exactly one layer, that no layer is empty, and that
    /// there are at most `budget` layers.
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
        let empty = self.layers.iter().position(|layer| layer.paths.is_empty());
        if let Some(empty) = empty {
            return Err(LayerPlanError::EmptyLayer { layer: empty + 1 });
        }
        self.layers_of_paths(graph).map(drop)
    }

    /// Returns for each path of the graph the number of its layer, from 1.
    pub(super) fn layers_of_paths(
        &self,
        graph: &ReferenceGraph,
    ) -> Result<Vec<usize>, LayerPlanError> {
        let mut layer_of = vec![0; graph.len()];
        for (layer, planned) in (1..).zip(&self.layers) {
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
            None => Ok(layer_of),
        }
    }
}
