//! Replaying pulls: what a way of grouping would have moved.
//!
//! A [`Workload`] is a history of pulls: a package set that changes from week to week, images of it, and
//! clients that pull some and delete others. [`replay()`] groups every image that is pulled, lets each
//! client fetch the layers that it does not have, and counts. Clients keep a layer as long as they keep an
//! image with it.
//!
//! The root layer, manifests and configs, a few kilobytes each, are left out; they are the same for every
//! grouping.
//!
//! ```
//! use crate::replay::{Bound, Workload, replay};
//! use nixery_core::{DEFAULT_BUDGET, Dominator};
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
//! let least = replay(&workload, Bound::OneLayerPerPath.into())?;
//! assert_eq!((least.bytes, least.layers_fetched), (10_000 + 150 + 250, 3));
//! let most = replay(&workload, Bound::OneLayer.into())?;
//! assert_eq!((most.bytes, most.layers_fetched), (2 * 10_000 + 150 + 250, 2));
//! let dominator = replay(&workload, (&Dominator::default(), DEFAULT_BUDGET).into())?;
//! assert!((least.bytes..=most.bytes).contains(&dominator.bytes));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;

use nixery_core::LayerStrategy;

mod grouped;
mod parts;
#[cfg(test)]
mod tests;
mod workload;

use grouped::Grouped;
pub use parts::{WorkloadEvent, WorkloadParts};
pub use workload::{Workload, WorkloadError};

/// How the images of a workload are grouped.
#[derive(Debug, Clone, Copy)]
pub enum Grouping<'a> {
    /// By a strategy, into at most so many layers.
    Strategy(&'a dyn LayerStrategy, NonZeroUsize),
    /// In one of the two ways that no budget applies to.
    Bound(Bound),
}

/// The ends of the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// A layer for each path, however many: nothing is moved that the client has. The least bytes that any
    /// grouping can move.
    OneLayerPerPath,
    /// All of an image in one layer: everything is moved with each change. What a grouping has to beat.
    OneLayer,
}

impl<'a, S: LayerStrategy> From<(&'a S, NonZeroUsize)> for Grouping<'a> {
    fn from((strategy, budget): (&'a S, NonZeroUsize)) -> Self {
        Self::Strategy(strategy, budget)
    }
}

impl From<Bound> for Grouping<'_> {
    fn from(bound: Bound) -> Self {
        Self::Bound(bound)
    }
}

/// What a replay counted. Bytes are compressed bytes; sums saturate.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Bytes that clients fetched.
    pub bytes: u64,
    /// Layers that clients fetched.
    pub layers_fetched: u64,
    /// Layers of the images that clients pulled, whether they had them or not.
    pub layers_asked: u64,
    /// Bytes of the images that clients pulled.
    pub bytes_asked: u64,
    /// Bytes of all distinct layers that were ever pulled: what the registry stores without collections.
    pub stored_bytes: u64,
    /// How many distinct layers those are.
    pub stored_layers: u64,
    /// Bytes that clients fetch that use a layer again only on top of the same layers, as Docker does with
    /// its classic image store when it is the only one that knows of a layer.
    pub chain_bytes: u64,
    /// Distinct images that were pulled.
    pub images: u64,
    /// Their layers in all.
    pub image_layers: u64,
    /// `bytes` by the week of the pull.
    pub bytes_by_week: Vec<u64>,
}

impl Outcome {
    /// The share of pulled layers that the client had; 0 where nothing was pulled.
    pub fn hit_rate(&self) -> f64 {
        if self.layers_asked == 0 {
            return 0.0;
        }
        (self.layers_asked - self.layers_fetched) as f64 / self.layers_asked as f64
    }

    /// Layers of an image on average; 0 without images.
    pub fn mean_layers(&self) -> f64 {
        if self.images == 0 {
            return 0.0;
        }
        self.image_layers as f64 / self.images as f64
    }
}

/// Why a replay was given up.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The strategy breaks the contract of [`LayerStrategy`].
    #[error(
        "the strategy {strategy} does not put each path of an image with {paths} paths into exactly one of at most {budget} layers"
    )]
    NoPartition {
        /// Its id.
        strategy: String,
        /// Paths of the image.
        paths: usize,
        /// What it was to keep within.
        budget: NonZeroUsize,
    },
}

/// Groups every image that is pulled and counts what the clients fetch. Equal input gives equal counts;
/// images are grouped by all cores.
///
/// # Errors
/// [`ReplayError::NoPartition`] where a strategy is none.
pub fn replay(workload: &Workload, grouping: Grouping<'_>) -> Result<Outcome, ReplayError> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    replay_with(workload, grouping, threads)
}

fn replay_with(
    workload: &Workload,
    grouping: Grouping<'_>,
    threads: usize,
) -> Result<Outcome, ReplayError> {
    let grouped = Grouped::of(workload, grouping, threads)?;
    let mut outcome = Outcome {
        bytes: 0,
        layers_fetched: 0,
        layers_asked: 0,
        bytes_asked: 0,
        stored_bytes: grouped.sum_of_layers(),
        stored_layers: grouped.layers() as u64,
        chain_bytes: 0,
        images: grouped.images() as u64,
        image_layers: grouped.image_layers(),
        bytes_by_week: vec![0; workload.weeks],
    };
    let mut clients: HashMap<u64, Client> = HashMap::new();
    for event in &workload.events {
        let client = clients.entry(event.client).or_default();
        let mut fetched = 0u64;
        let mut replaced = false;
        for pull in &event.pulls {
            for layer in grouped.layers_of(pull.image) {
                outcome.layers_asked += 1;
                outcome.bytes_asked = outcome.bytes_asked.saturating_add(layer.bytes);
                if client.layers.insert(layer.id) {
                    outcome.layers_fetched += 1;
                    fetched = fetched.saturating_add(layer.bytes);
                }
                if client.chains.insert(layer.chain) {
                    outcome.chain_bytes = outcome.chain_bytes.saturating_add(layer.bytes);
                }
            }
            let before = client.images.insert(pull.name, pull.image);
            replaced |= before.is_some_and(|before| before != pull.image);
        }
        outcome.bytes = outcome.bytes.saturating_add(fetched);
        let week = &mut outcome.bytes_by_week[event.week];
        *week = week.saturating_add(fetched);
        if client.forgets(event.keeps.as_ref()) || replaced {
            client.count_layers(&grouped);
        }
    }
    Ok(outcome)
}

/// What one client has.
#[derive(Default)]
struct Client {
    /// By name, the image as it was when it was last pulled.
    images: HashMap<u64, usize>,
    layers: HashSet<u32>,
    chains: HashSet<u32>,
}

impl Client {
    /// Forgets the images of all other names; whether there were any.
    fn forgets(&mut self, keeps: Option<&HashSet<u64>>) -> bool {
        let before = self.images.len();
        if let Some(keeps) = keeps {
            self.images.retain(|name, _| keeps.contains(name));
        }
        self.images.len() < before
    }

    /// Keeps the layers of its images, and no others.
    fn count_layers(&mut self, grouped: &Grouped) {
        self.layers.clear();
        self.chains.clear();
        for layer in self
            .images
            .values()
            .flat_map(|&image| grouped.layers_of(image))
        {
            self.layers.insert(layer.id);
            self.chains.insert(layer.chain);
        }
    }
}
