//! Measures how widely the paths of a layer are shared.

use nixery_core::{ClusterPlan, NodeId, PlannedLayer, ReferenceGraph, package_key};
use serde::Serialize;

use super::strategies::Data;

/// A measure of sharing.
pub(super) enum Measure<'a> {
    /// The share of a plan's samples that have a path.
    Plan(&'a ClusterPlan),
    /// The number of packages that refer to a path.
    Popularity(&'a nixery_core::Popularity),
    /// The number of paths of the graph that refer to each path.
    Graph(Vec<u64>),
}

/// How widely one layer is shared.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sharing {
    /// The value of its least shared path, in the measure's unit.
    pub(super) least: u64,
    /// The value of its most shared path.
    pub(super) most: u64,
}

impl<'a> Measure<'a> {
    /// Returns the best measure that the data allows.
    pub(super) fn of(data: &'a Data, graph: &ReferenceGraph) -> Self {
        match (&data.plan, &data.popularity) {
            (Some(plan), _) => Self::Plan(plan),
            (None, Some(popularity)) => Self::Popularity(popularity),
            (None, None) => Self::Graph(referrers(graph)),
        }
    }

    /// Describes in a few words what a high value means.
    pub(super) fn meaning(&self) -> &'static str {
        match self {
            Self::Plan(_) => "all of it is in more of the plan's sample images",
            Self::Popularity(_) => "more packages refer to each path",
            Self::Graph(_) => "more paths of this image refer to each path",
        }
    }

    /// Returns the value of one path: how many samples have it, or how many packages or paths refer
    /// to it.
    pub(super) fn of_path(&self, graph: &ReferenceGraph, id: NodeId) -> Option<u64> {
        let path = &graph.get(id)?.path;
        match self {
            Self::Plan(plan) => {
                let planned = plan.get(&package_key(path.name()));
                Some(planned.map_or(0, |(_, samples)| samples.into()))
            }
            Self::Popularity(popularity) => Some(popularity.get(path)),
            Self::Graph(referrers) => referrers.get(id.index()).copied(),
        }
    }

    /// Returns the values of a layer.
    pub(super) fn of_layer(&self, graph: &ReferenceGraph, layer: &PlannedLayer) -> Option<Sharing> {
        let values = layer.paths.iter().map(|&path| self.of_path(graph, path));
        let values = values.collect::<Option<Vec<u64>>>()?;
        Some(Sharing {
            least: *values.iter().min()?,
            most: *values.iter().max()?,
        })
    }

    /// Formats a value for people.
    pub(super) fn words(&self, value: u64) -> String {
        match self {
            Self::Plan(plan) => {
                let samples = u64::from(plan.samples()).max(1);
                let permille = (value * 1000 + samples / 2) / samples;
                format!("{}.{} %", permille / 10, permille % 10)
            }
            Self::Popularity(_) | Self::Graph(_) => value.to_string(),
        }
    }

    /// Describes a layer's values in a sentence.
    pub(super) fn sentence(&self, sharing: Sharing) -> String {
        let Sharing { least, most } = sharing;
        let range = if least == most {
            self.words(least)
        } else {
            format!("{} to {}", self.words(least), self.words(most))
        };
        match self {
            Self::Plan(plan) => {
                let samples = plan.samples();
                format!(
                    "its paths are in {range} of the {samples} images that the plan was made from"
                )
            }
            Self::Popularity(_) => format!("{range} packages refer to each of its paths"),
            Self::Graph(_) => format!("{range} others of this image refer to each of its paths"),
        }
    }

    /// Returns how dark to draw a layer, in thousandths.
    pub(super) fn shade(&self, sharing: Option<Sharing>) -> u16 {
        let least = sharing.map_or(0, |sharing| sharing.least);
        // From 1, the lightest, to this power of ten, the darkest.
        let by_magnitude =
            |decades: u32| u64::from(least.max(1).ilog10()) * 1000 / u64::from(decades);
        let share = match self {
            // Also logarithmic, up to all samples.
            Self::Plan(plan) => {
                let (least, all) = (least as f64, f64::from(plan.samples().max(1)));
                ((least + 1.0).ln() / (all + 1.0).ln() * 1000.0) as u64
            }
            Self::Popularity(_) => by_magnitude(4),
            Self::Graph(_) => by_magnitude(2),
        };
        share.min(1000) as u16
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
