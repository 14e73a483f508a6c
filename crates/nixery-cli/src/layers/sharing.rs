//! Measures how widely the paths of a layer are shared.

use nixery_core::{NodeId, PlannedLayer, ReferenceGraph, package_key};
use serde::Serialize;

use super::strategies::Data;

/// A measure of sharing, with its value for each path of a graph.
pub(super) struct Measure {
    /// The name in JSON reports.
    pub(super) name: &'static str,
    /// Describes in a few words what a high value means.
    pub(super) meaning: &'static str,
    /// What refers to a path, or has it.
    counted: &'static str,
    /// The number of images that the values are counted in, if these are images.
    pub(super) samples: Option<u32>,
    /// Layers from this value on are the darkest.
    darkest: u64,
    values: Vec<u64>,
}

/// How widely one layer is shared.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Sharing {
    /// The value of its least shared path.
    pub(super) least: u64,
    /// The value of its most shared path.
    pub(super) most: u64,
}

impl Measure {
    /// Returns the best measure that the data allows.
    pub(super) fn of(data: &Data, graph: &ReferenceGraph) -> Self {
        let paths = graph.ids().map(|id| &graph.node(id).path);
        if let Some(plan) = &data.plan {
            let planned = paths.map(|path| plan.get(&package_key(path.name())));
            Self {
                name: "plan",
                meaning: "all of it is in more of the plan's sample images",
                counted: "images that the plan was made from",
                samples: Some(plan.samples()),
                darkest: plan.samples().max(1).into(),
                values: planned
                    .map(|planned| planned.map_or(0, |(_, samples)| samples.into()))
                    .collect(),
            }
        } else if let Some(popularity) = &data.popularity {
            Self {
                name: "popularity",
                meaning: "more packages refer to each path",
                counted: "packages",
                samples: None,
                darkest: 10_000,
                values: paths.map(|path| popularity.get(path)).collect(),
            }
        } else {
            Self {
                name: "graph",
                meaning: "more paths of this image refer to each path",
                counted: "others of this image",
                samples: None,
                darkest: 100,
                values: referrers(graph),
            }
        }
    }

    /// Returns the value of one path.
    pub(super) fn of_path(&self, path: NodeId) -> u64 {
        self.values[path.index()]
    }

    /// Returns the values of a layer.
    pub(super) fn of_layer(&self, layer: &PlannedLayer) -> Sharing {
        let values = layer.paths.iter().map(|&path| self.of_path(path));
        Sharing {
            least: values.clone().min().unwrap_or_default(),
            most: values.max().unwrap_or_default(),
        }
    }

    /// Formats a value for people.
    pub(super) fn words(&self, value: u64) -> String {
        let Some(samples) = self.samples else {
            return value.to_string();
        };
        let samples = u64::from(samples).max(1);
        let permille = (value * 1000 + samples / 2) / samples;
        format!("{}.{} %", permille / 10, permille % 10)
    }

    /// Describes a layer's values in a sentence.
    pub(super) fn sentence(&self, Sharing { least, most }: Sharing) -> String {
        let (counted, mut range) = (self.counted, self.words(least));
        if least != most {
            range = format!("{range} to {}", self.words(most));
        }
        match self.samples {
            Some(samples) => format!("its paths are in {range} of the {samples} {counted}"),
            None => format!("{range} {counted} refer to each of its paths"),
        }
    }

    /// Returns how dark to draw a layer, in thousandths, on a logarithmic scale.
    pub(super) fn shade(&self, Sharing { least, .. }: Sharing) -> u16 {
        let logarithm = |value: u64| match self.samples {
            Some(_) => (value as f64 + 1.0).ln(),
            None => value.max(1).ilog10().into(),
        };
        (logarithm(least) / logarithm(self.darkest) * 1000.0).min(1000.0) as u16
    }
}

/// Returns for each path how many others refer to it.
fn referrers(graph: &ReferenceGraph) -> Vec<u64> {
    let mut counts = vec![0; graph.len()];
    for path in graph.ids() {
        for reference in graph.references(path) {
            counts[reference.index()] += 1;
        }
    }
    counts
}
