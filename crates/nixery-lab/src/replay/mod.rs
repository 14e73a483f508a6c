//! Replaying pulls: how many bytes clients would have transferred with a way of grouping.
//!
//! A [`Workload`] is a history of pulls: a package set that changes from week to week, images of
//! it, and clients that pull some images and delete others. [`replay()`] groups every image that is
//! pulled into layers, lets each client fetch the layers that it lacks, and counts. Clients keep a
//! layer as long as they keep an image with it.
//!
//! The root layer, manifests and configs, a few kilobytes each, are left out; they are the same for
//! every grouping.
//!
//! ```
//! use nixery_core::{DEFAULT_BUDGET, Dominator};
//! use nixery_lab::replay::{Grouping, Workload, replay};
//!
//! // One client pulls both images; the second shares glibc with the first.
//! let workload = Workload::from_json(br#"{
//!     "paths": [
//!         ["/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.42", 30000, 10000, []],
//!         ["/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-htop-3.4", 400, 150, [0]],
//!         ["/nix/store/4n58xw4373jp0ljirf06d8077j15pc4j-nano-9.1", 700, 250, [0]]
//!     ],
//!     "weeks": [[[1], [2]]],
//!     "events": [[0, 0, [0, 1], [0, 1]]]
//! }"#)?;
//! let least = replay(&workload, Grouping::OneLayerPerPath)?;
//! assert_eq!((least.bytes, least.layers_fetched), (10_000 + 150 + 250, 3));
//! let most = replay(&workload, Grouping::OneLayer)?;
//! assert_eq!((most.bytes, most.layers_fetched), (2 * 10_000 + 150 + 250, 2));
//! let dominator = replay(&workload, Grouping::Strategy(&Dominator::default(), DEFAULT_BUDGET))?;
//! assert!((least.bytes..=most.bytes).contains(&dominator.bytes));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(test)]
mod tests;
mod workload;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::thread;

use nixery_core::{LayerStrategy, NodeId};

use crate::numbers::number;
pub use workload::{Workload, WorkloadError, WorkloadEvent, WorkloadParts};

/// How the images of a workload are grouped into layers.
#[derive(Debug, Clone, Copy)]
pub enum Grouping<'a> {
    /// By a strategy, into at most this many layers.
    Strategy(&'a dyn LayerStrategy, NonZeroUsize),
    /// One layer for each path, whatever their number. This is the lower bound: clients never fetch
    /// a path that they have.
    OneLayerPerPath,
    /// All paths of an image in one layer. This is the upper bound: clients fetch everything again
    /// with each change.
    OneLayer,
}

/// The counts of a replay. Bytes are compressed bytes; sums saturate.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayCounts {
    /// Bytes that clients fetched.
    pub bytes: u64,
    /// Layers that clients fetched.
    pub layers_fetched: u64,
    /// Layers of the images that clients pulled, whether the clients had them or not.
    pub layers_asked: u64,
    /// Bytes of the images that clients pulled.
    pub bytes_asked: u64,
    /// Bytes of all distinct layers that were ever pulled. The registry stores them if no garbage
    /// is collected.
    pub stored_bytes: u64,
    /// Number of those distinct layers.
    pub stored_layers: u64,
    /// Bytes that clients fetch if they reuse a layer only on top of the same layers, as Docker
    /// does with its classic image store.
    pub chain_bytes: u64,
    /// Distinct images that were pulled.
    pub images: u64,
    /// Number of layers of all these images.
    pub image_layers: u64,
    /// `bytes` by the week of the pull.
    pub bytes_by_week: Vec<u64>,
}

impl ReplayCounts {
    /// The share of pulled layers that the client had; 0 if nothing was pulled.
    pub fn hit_rate(&self) -> f64 {
        ratio(self.layers_asked - self.layers_fetched, self.layers_asked)
    }

    /// The average number of layers of an image; 0 without images.
    pub fn mean_layers(&self) -> f64 {
        ratio(self.image_layers, self.images)
    }
}

/// Returns 0 for a denominator of 0: the numerator is 0 then, too.
fn ratio(numerator: u64, denominator: u64) -> f64 {
    numerator as f64 / denominator.max(1) as f64
}

/// Why a replay was given up.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The strategy breaks the contract of [`LayerStrategy`].
    #[error(
        "the strategy {strategy} does not put each path of an image with {paths} paths into exactly one of at most {budget} layers"
    )]
    NoPartition {
        /// The strategy's id.
        strategy: String,
        /// Number of paths of the image.
        paths: usize,
        /// Limit of the number of layers.
        budget: NonZeroUsize,
    },
}

/// Groups every image that is pulled into layers and counts what the clients fetch. Equal input
/// gives equal counts; images are grouped by all cores.
///
/// # Errors
/// [`ReplayError::NoPartition`]: a strategy's plan is invalid.
pub fn replay(workload: &Workload, grouping: Grouping<'_>) -> Result<ReplayCounts, ReplayError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    replay_with(workload, grouping, threads)
}

fn replay_with(
    workload: &Workload,
    grouping: Grouping<'_>,
    threads: usize,
) -> Result<ReplayCounts, ReplayError> {
    let grouped = GroupedImages::new(workload, grouping, threads)?;
    let mut counts = ReplayCounts {
        stored_bytes: grouped.bytes.iter().copied().fold(0, u64::saturating_add),
        stored_layers: grouped.bytes.len() as u64,
        images: grouped.images as u64,
        image_layers: grouped
            .layers
            .iter()
            .map(|layers| layers.len() as u64)
            .sum(),
        bytes_by_week: vec![0; workload.weeks],
        ..ReplayCounts::default()
    };
    let mut clients: HashMap<u64, Client> = HashMap::new();
    for event in &workload.events {
        let client = clients.entry(event.client).or_default();
        let mut fetched = 0u64;
        let mut replaced = false;
        for pull in &event.pulls {
            for layer in &grouped.layers[pull.image] {
                counts.layers_asked += 1;
                counts.bytes_asked = counts.bytes_asked.saturating_add(layer.bytes);
                if client.layers.insert(layer.id) {
                    counts.layers_fetched += 1;
                    fetched = fetched.saturating_add(layer.bytes);
                }
                if client.chains.insert(layer.chain) {
                    counts.chain_bytes = counts.chain_bytes.saturating_add(layer.bytes);
                }
            }
            let before = client.images.insert(pull.name, pull.image);
            replaced |= before.is_some_and(|before| before != pull.image);
        }
        counts.bytes = counts.bytes.saturating_add(fetched);
        let week = &mut counts.bytes_by_week[event.week];
        *week = week.saturating_add(fetched);
        if client.delete_all_but(event.keeps.as_ref()) || replaced {
            client.drop_unused_layers(&grouped);
        }
    }
    Ok(counts)
}

/// The images and layers of one client.
#[derive(Default)]
struct Client {
    /// By name, the image as it was when it was last pulled.
    images: HashMap<u64, usize>,
    layers: HashSet<u64>,
    chains: HashSet<u64>,
}

impl Client {
    /// Deletes the images of all other names; returns whether there were any.
    fn delete_all_but(&mut self, kept: Option<&HashSet<u64>>) -> bool {
        let before = self.images.len();
        if let Some(kept) = kept {
            self.images.retain(|name, _| kept.contains(name));
        }
        self.images.len() < before
    }

    /// Keeps only the layers of its images.
    fn drop_unused_layers(&mut self, grouped: &GroupedImages) {
        let images = self.images.values();
        let layers = images.flat_map(|&image| &grouped.layers[image]);
        (self.layers, self.chains) = layers.map(|layer| (layer.id, layer.chain)).unzip();
    }
}

/// The layers of all images that are pulled.
struct GroupedImages {
    /// By image; empty for images that no client pulls.
    layers: Vec<Vec<Layer>>,
    /// Compressed bytes of each distinct layer.
    bytes: Vec<u64>,
    /// Number of images that are pulled.
    images: usize,
}

/// A layer in its place in an image.
#[derive(Debug, Clone, Copy)]
struct Layer {
    /// Identifies the paths.
    id: u64,
    /// Identifies the paths of this layer and of all layers below.
    chain: u64,
    /// Compressed bytes.
    bytes: u64,
}

/// The layers of one image, each as sorted indices of the workload's graph.
type LayerPaths = Vec<Vec<NodeId>>;

impl GroupedImages {
    fn new(
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
        let mut grouped: Vec<_> = thread::scope(|scope| {
            let work = &work;
            let threads = (0..threads).map(|first| scope.spawn(move || work(first)));
            let threads: Vec<_> = threads.collect();
            let grouped = threads.into_iter().map(|thread| thread.join());
            let grouped =
                grouped.flat_map(|done| done.unwrap_or_else(|panic| resume_unwind(panic)));
            grouped.collect()
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
    if plan.check(&graph, budget).is_err() {
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
