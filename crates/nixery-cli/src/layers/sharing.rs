//! How widely the paths of a layer are shared, as far as the data tells.

use nixery_core::{ClusterPlan, NodeId, PlannedLayer, ReferenceGraph, package_key};
use serde::Serialize;

use super::strategies::Data;

/// Where the measure of sharing comes from.
pub(super) enum Measure<'a> {
    /// Shares of a plan's samples.
    Reach(&'a ClusterPlan),
    /// Counts of referring packages.
    Popularity(&'a nixery_core::Popularity),
    /// Nothing but the image itself: for each path, how many others refer to it.
    Image(Vec<u64>),
}

/// How widely one layer is shared.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sharing {
    /// Of its least shared path, in the measure's unit; what all of the layer is shared by.
    pub(super) least: u64,
    /// Of its most shared path.
    pub(super) most: u64,
}

impl<'a> Measure<'a> {
    /// The best that there is.
    pub(super) fn of(data: &'a Data, graph: &ReferenceGraph) -> Self {
        match (&data.plan, &data.popularity) {
            (Some(plan), _) => Self::Reach(plan),
            (None, Some(popularity)) => Self::Popularity(popularity),
            (None, None) => Self::Image(referrers(graph)),
        }
    }

    /// What a high figure means, in a few words.
    pub(super) fn meaning(&self) -> &'static str {
        match self {
            Self::Reach(_) => "whole in more images, by the plan's samples",
            Self::Popularity(_) => "more packages refer to each path",
            Self::Image(_) => "more paths of this image refer to each path",
        }
    }

    /// For one path: samples that have it, or packages that refer to it.
    pub(super) fn of_path(&self, graph: &ReferenceGraph, id: NodeId) -> Option<u64> {
        let path = &graph.get(id)?.path;
        match self {
            Self::Reach(plan) => {
                let planned = plan.get(&package_key(path.name()));
                Some(planned.map_or(0, |(_, samples)| samples.into()))
            }
            Self::Popularity(popularity) => Some(popularity.get(path)),
            Self::Image(referrers) => referrers.get(id.index()).copied(),
        }
    }

    /// For all of a layer.
    pub(super) fn of_layer(&self, graph: &ReferenceGraph, layer: &PlannedLayer) -> Option<Sharing> {
        let mut sharing: Option<Sharing> = None;
        for &path in &layer.paths {
            let value = self.of_path(graph, path)?;
            let so_far = sharing.get_or_insert(Sharing {
                least: value,
                most: value,
            });
            so_far.least = so_far.least.min(value);
            so_far.most = so_far.most.max(value);
        }
        sharing
    }

    /// A figure in words.
    pub(super) fn words(&self, value: u64) -> String {
        match self {
            Self::Reach(plan) => {
                let samples = u64::from(plan.samples()).max(1);
                let permille = (value * 1000 + samples / 2) / samples;
                format!("{}.{} %", permille / 10, permille % 10)
            }
            Self::Popularity(_) | Self::Image(_) => value.to_string(),
        }
    }

    /// One layer in a sentence.
    pub(super) fn sentence(&self, sharing: Sharing) -> String {
        let Sharing { least, most } = sharing;
        let range = if least == most {
            self.words(least)
        } else {
            format!("{} to {}", self.words(least), self.words(most))
        };
        match self {
            Self::Reach(plan) => {
                let samples = plan.samples();
                format!(
                    "its paths are in {range} of the {samples} images that the plan was made from"
                )
            }
            Self::Popularity(_) => format!("{range} packages refer to each of its paths"),
            Self::Image(_) => format!("{range} others of this image refer to each of its paths"),
        }
    }

    /// How dark to draw a layer, in thousandths.
    pub(super) fn shade(&self, sharing: Option<Sharing>) -> u16 {
        let least = sharing.map_or(0, |sharing| sharing.least);
        // Counts by their size: 1 is as light as it gets, these powers of ten as dark.
        let by_size = |decades: u32| u64::from(least.max(1).ilog10()) * 1000 / u64::from(decades);
        let share = match self {
            // By orders of magnitude as well, up to all samples.
            Self::Reach(plan) => {
                let (least, all) = (least as f64, f64::from(plan.samples().max(1)));
                ((least + 1.0).ln() / (all + 1.0).ln() * 1000.0) as u64
            }
            Self::Popularity(_) => by_size(4),
            Self::Image(_) => by_size(2),
        };
        share.min(1000) as u16
    }
}

/// For each path, how many others refer to it.
fn referrers(graph: &ReferenceGraph) -> Vec<u64> {
    let mut counts = vec![0; graph.len()];
    for path in graph.ids() {
        for reference in graph.references(path) {
            counts[reference.index()] += 1;
        }
    }
    counts
}
