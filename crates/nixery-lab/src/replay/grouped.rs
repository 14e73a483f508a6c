//! All images of a workload, grouped into layers, with layers and chains of layers numbered.

use std::collections::HashMap;

use nixery_core::NodeId;

use super::{Grouping, ReplayError, Workload};
use crate::numbers::number;

/// The layers of all images that are pulled.
pub(super) struct GroupedImages {
    /// By image; empty for images that no client pulls.
    pub(super) layers: Vec<Vec<Layer>>,
    /// Compressed bytes of each distinct layer.
    pub(super) bytes: Vec<u64>,
    /// Number of images that are pulled.
    pub(super) images: usize,
}

/// A layer in its place in an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer {
    /// Identifies the paths.
    pub(super) id: u64,
    /// Identifies the paths of this layer and of all layers below.
    pub(super) chain: u64,
    /// Compressed bytes.
    pub(super) bytes: u64,
}

/// The layers of one image, each as sorted indices of the workload's graph.
type LayerPaths = Vec<Vec<NodeId>>;

impl GroupedImages {
    pub(super) fn new(
        workload: &Workload,
        grouping: Grouping<'_>,
        threads: usize,
    ) -> Result<Self, ReplayError> {
        let pulled = workload.pulled();
        let work = |first: usize| {
            let images = pulled.iter().skip(first).step_by(threads);
            let grouped = images.map(|&image| (image, group(workload, image, grouping)));
            grouped.collect::<Vec<_>>()
        };
        let mut grouped: Vec<_> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads)
                .map(|first| scope.spawn(move || work(first)))
                .collect();
            let mut grouped = work(0);
            for other in others {
                grouped.extend(
                    other
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                );
            }
            grouped
        });
        // Numbers do not depend on the number of threads.
        grouped.sort_by_key(|&(image, _)| image);
        let (mut ids, mut chains) = (HashMap::new(), HashMap::new());
        let mut numbered = Self {
            layers: vec![Vec::new(); workload.images.len()],
            bytes: Vec::new(),
            images: pulled.len(),
        };
        for (image, layers) in grouped {
            let mut below = None;
            for paths in layers? {
                let sizes = paths.iter().map(|path| workload.compressed[path.index()]);
                let bytes = sizes.fold(0, u64::saturating_add);
                let id = number(&mut ids, paths);
                if id == numbered.bytes.len() as u64 {
                    numbered.bytes.push(bytes);
                }
                let chain = number(&mut chains, (below, id));
                below = Some(chain);
                numbered.layers[image].push(Layer { id, chain, bytes });
            }
        }
        Ok(numbered)
    }
}

fn group(
    workload: &Workload,
    image: usize,
    grouping: Grouping<'_>,
) -> Result<LayerPaths, ReplayError> {
    let (graph, paths) = workload.graph.part(&workload.images[image]);
    let (strategy, budget) = match grouping {
        Grouping::OneLayerPerPath => return Ok(paths.into_iter().map(|path| vec![path]).collect()),
        Grouping::OneLayer if paths.is_empty() => return Ok(Vec::new()),
        Grouping::OneLayer => return Ok(vec![paths]),
        Grouping::Strategy(strategy, budget) => (strategy, budget),
    };
    let plan = strategy.plan(&graph, budget);
    if plan.layers.len() > budget.get() || plan.layer_of_paths(&graph).is_none() {
        return Err(ReplayError::NoPartition {
            strategy: strategy.id(),
            paths: graph.len(),
            budget,
        });
    }
    let layers = plan.layers.into_iter().map(|layer| {
        let in_workload = layer.paths.iter().map(|path| paths[path.index()]);
        let mut layer: Vec<NodeId> = in_workload.collect();
        layer.sort_unstable();
        layer
    });
    Ok(layers.collect())
}
