//! All images of a workload, grouped, with layers and chains of layers numbered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use nixery_core::NodeId;

use super::{Bound, Grouping, ReplayError, Workload};

/// The layers of all images that are pulled.
pub(super) struct Grouped {
    /// By image; empty for those that nobody pulls.
    layers_of: Vec<Vec<Layer>>,
    /// Compressed bytes of each distinct layer.
    bytes: Vec<u64>,
    images: usize,
}

/// A layer in its place in an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer {
    /// The same wherever the paths are the same.
    pub(super) id: u32,
    /// The same where the layers below are the same as well.
    pub(super) chain: u32,
    /// Compressed.
    pub(super) bytes: u64,
}

/// The layers of one image, each as indices of the workload's graph, sorted.
type Paths = Vec<Vec<NodeId>>;

impl Grouped {
    pub(super) fn of(
        workload: &Workload,
        grouping: Grouping<'_>,
        threads: usize,
    ) -> Result<Self, ReplayError> {
        let pulled = workload.pulled();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done: Vec<(usize, Result<Paths, ReplayError>)> = Vec::new();
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(&image) = pulled.get(place) else {
                    return done;
                };
                done.push((image, group(workload, image, grouping)));
            }
        };
        let mut planned = std::thread::scope(|scope| {
            let helpers: Vec<_> = (1..threads.min(pulled.len()))
                .map(|_| scope.spawn(work))
                .collect();
            let mut planned = work();
            for helper in helpers {
                match helper.join() {
                    Ok(done) => planned.extend(done),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            planned
        });
        // Numbers are given in one order, whichever thread was first.
        planned.sort_by_key(|&(image, _)| image);
        let mut numbers = Numbers::default();
        let mut layers_of = vec![Vec::new(); workload.images.len()];
        for (image, layers) in planned {
            layers_of[image] = numbers.of(workload, layers?);
        }
        Ok(Self {
            layers_of,
            bytes: numbers.bytes,
            images: pulled.len(),
        })
    }

    pub(super) fn layers_of(&self, image: usize) -> &[Layer] {
        &self.layers_of[image]
    }

    /// How many distinct layers there are.
    pub(super) fn layers(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn sum_of_layers(&self) -> u64 {
        self.bytes
            .iter()
            .fold(0, |sum: u64, &bytes| sum.saturating_add(bytes))
    }

    pub(super) fn images(&self) -> usize {
        self.images
    }

    pub(super) fn image_layers(&self) -> u64 {
        self.layers_of
            .iter()
            .map(|layers| layers.len() as u64)
            .sum()
    }
}

fn group(workload: &Workload, image: usize, grouping: Grouping<'_>) -> Result<Paths, ReplayError> {
    let (graph, paths) = workload.graph.part(&workload.images[image]);
    Ok(match grouping {
        Grouping::Bound(Bound::OneLayerPerPath) => {
            paths.into_iter().map(|path| vec![path]).collect()
        }
        Grouping::Bound(Bound::OneLayer) if paths.is_empty() => Vec::new(),
        Grouping::Bound(Bound::OneLayer) => vec![paths],
        Grouping::Strategy(strategy, budget) => {
            let plan = strategy.plan(&graph, budget);
            if plan.check(&graph, budget).is_err() {
                return Err(ReplayError::NoPartition {
                    strategy: strategy.id(),
                    paths: graph.len(),
                    budget,
                });
            }
            let layers = plan.layers.into_iter().map(|layer| {
                let of_all = layer.paths.iter().map(|path| paths[path.index()]);
                let mut layer: Vec<NodeId> = of_all.collect();
                layer.sort_unstable();
                layer
            });
            layers.collect()
        }
    })
}

#[derive(Default)]
struct Numbers {
    layers: HashMap<Vec<NodeId>, u32>,
    bytes: Vec<u64>,
    /// By the chain below and the layer on top of it.
    chains: HashMap<(Option<u32>, u32), u32>,
}

impl Numbers {
    fn of(&mut self, workload: &Workload, layers: Paths) -> Vec<Layer> {
        let mut below = None;
        let mut numbered = Vec::with_capacity(layers.len());
        for paths in layers {
            let bytes = paths.iter().fold(0u64, |sum, &path| {
                sum.saturating_add(workload.compressed[path.index()])
            });
            let next = self.layers.len() as u32;
            let id = *self.layers.entry(paths).or_insert(next);
            if id == next {
                self.bytes.push(bytes);
            }
            let next = self.chains.len() as u32;
            let chain = *self.chains.entry((below, id)).or_insert(next);
            below = Some(chain);
            numbered.push(Layer { id, chain, bytes });
        }
        numbered
    }
}
