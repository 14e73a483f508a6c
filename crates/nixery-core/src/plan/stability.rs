//! The order of layers by expected stability, in common to all images.
//!
//! Clients that key their snapshots by chain reuse a layer only when all layers below it are the same. So the
//! layers come first that are large and that other images and later revisions have unchanged. A layer of
//! *size* bytes (NAR) is worth *size* · *p* / (1 − *p*), where
//!
//! *p* = (0.8 + 0.2 · min(1, 3 · *reach*)) · e^(−0.03 · *closure*)
//!
//! is how likely another image has the same layer: *reach* is the least share of images that have one of its
//! packages, and *closure* the number of paths that the layer's paths need, themselves included, each of
//! which renames the layer's paths when it changes. Larger values come first, and where they are equal the
//! layer with the least package name.
//!
//! All of it is whole numbers, so that the order is the same on every machine.

use std::cmp::Reverse;

use super::closure_count::ClosureCount;
use super::{LayerPlan, PlannedLayer};
use crate::graph::{NodeId, ReferenceGraph};

/// A closure of more paths counts as this many. Here e^(−0.03 · n) is 4.6 · 10⁻¹⁴: such layers come last
/// anyway, the largest of them first, and counting on would take a walk through the whole graph per layer.
const MOST_COUNTED: usize = 1024;

/// e^(−0.03) in units of 2⁻⁶⁴, rounded down.
const DECAY: u64 = 17_901_560_394_843_847_067;

/// e^(−0.03 · n) in units of 2⁻⁶⁴ for n from 1 to [`MOST_COUNTED`], multiplied up with rounding down: by at
/// most 33 units too small.
const DECAYED: [u64; MOST_COUNTED] = {
    let mut decayed = [DECAY; MOST_COUNTED];
    let mut n = 1;
    while n < MOST_COUNTED {
        decayed[n] = ((decayed[n - 1] as u128 * DECAY as u128) >> 64) as u64;
        n += 1;
    }
    decayed
};

/// In how many of how many sampled images something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) samples: u32,
    /// At least 1.
    pub(super) of: u32,
}

impl Reach {
    /// Of what nothing is known about.
    pub(super) const NONE: Self = Self { samples: 0, of: 1 };
}

/// A layer that has no place yet.
#[derive(Debug)]
pub(super) struct Draft {
    /// Sorted, not empty.
    pub(super) paths: Vec<NodeId>,
    /// The least of its packages'.
    pub(super) reach: Reach,
    /// As in [`PlannedLayer::reason`].
    pub(super) reason: String,
}

/// The layers in the common order. Their rating is what they are worth, in bytes.
///
/// Cost: O(paths + layers × [`MOST_COUNTED`] × references per path).
pub(super) fn in_order(graph: &ReferenceGraph, drafts: Vec<Draft>) -> LayerPlan {
    let mut closures = ClosureCount::new(graph);
    let mut layers: Vec<(u128, PlannedLayer)> = drafts
        .into_iter()
        .map(|draft| {
            let nar_size = nar_size(graph, &draft.paths);
            let worth = worth(
                nar_size,
                draft.reach,
                closures.up_to(MOST_COUNTED, &draft.paths),
            );
            let layer = PlannedLayer {
                paths: draft.paths,
                nar_size,
                rating: u64::try_from(worth >> 64).unwrap_or(u64::MAX),
                reason: draft.reason,
            };
            (worth, layer)
        })
        .collect();
    layers.sort_by_cached_key(|(worth, layer)| {
        (
            Reverse(*worth),
            least_name(graph, &layer.paths),
            layer.paths[0],
        )
    });
    LayerPlan {
        layers: layers.into_iter().map(|(_, layer)| layer).collect(),
    }
}

/// Size · p / (1 − p) in units of 2⁻⁶⁴ bytes; saturates above 2⁵⁸ bytes.
fn worth(size: u64, reach: Reach, closure: usize) -> u128 {
    let decayed = u128::from(DECAYED[closure.clamp(1, MOST_COUNTED) - 1]);
    let (samples, of) = (u128::from(reach.samples), u128::from(reach.of));
    // 0.8 + 0.2 · min(1, 3 · samples / of) = (4 · of + min(of, 3 · samples)) / (5 · of); at most 1, so that
    // p is at most e^(−0.03) and 1 − p is not 0.
    let p = decayed * (4 * of + of.min(3 * samples)) / (5 * of);
    let odds = (p << 64) / ((1 << 64) - p);
    u128::from(size).saturating_mul(odds)
}

/// Bytes of the paths' NARs; saturating.
pub(super) fn nar_size(graph: &ReferenceGraph, paths: &[NodeId]) -> u64 {
    paths.iter().fold(0, |sum: u64, &path| {
        sum.saturating_add(graph.node(path).nar_size)
    })
}

/// The least package name among the paths: unlike their hashes it outlives updates.
pub(super) fn least_name<'a>(graph: &'a ReferenceGraph, paths: &[NodeId]) -> &'a str {
    let names = paths
        .iter()
        .map(|&path| graph.node(path).path.package_name());
    names.min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn float(size: u64, reach: Reach, closure: usize) -> f64 {
        let share = f64::from(reach.samples) / f64::from(reach.of);
        let p = (0.8 + 0.2 * (3.0 * share).min(1.0)) * (-0.03 * closure as f64).exp();
        size as f64 * p / (1.0 - p)
    }

    #[test]
    fn the_table_is_the_function() {
        for (n, &units) in DECAYED.iter().enumerate() {
            let exact = (-0.03 * (n + 1) as f64).exp();
            let table = units as f64 / 2f64.powi(64);
            assert!((table - exact).abs() < exact * 1e-4, "{n}: {table} {exact}");
        }
        assert!(DECAYED.is_sorted_by(|a, b| a > b));
    }

    #[rstest]
    #[case(1 << 20, 0, 1, 1)]
    #[case(1 << 20, 1, 1, 1)]
    #[case(34_000_000, 1999, 2000, 3)]
    #[case(34_000_000, 7, 2000, 31)]
    #[case(5_000_000_000, 666, 2000, 200)]
    #[case(5_000_000_000, 667, 2000, 400)]
    #[case(1 << 57, u32::MAX, u32::MAX, 1)]
    #[case(1 << 57, u32::MAX - 1, u32::MAX, 1023)]
    fn worth_is_the_rule(
        #[case] size: u64,
        #[case] samples: u32,
        #[case] of: u32,
        #[case] closure: usize,
    ) {
        let reach = Reach { samples, of };
        let whole = worth(size, reach, closure) as f64 / 2f64.powi(64);
        let exact = float(size, reach, closure);
        assert!((whole - exact).abs() <= exact * 1e-4, "{whole} {exact}");
    }

    #[test]
    fn extremes_saturate() {
        assert_eq!(worth(0, Reach::NONE, 1), 0);
        assert_eq!(worth(u64::MAX, Reach { samples: 1, of: 1 }, 1), u128::MAX);
        let beyond = |closure| worth(1 << 30, Reach::NONE, closure);
        assert_eq!(beyond(MOST_COUNTED), beyond(usize::MAX));
        assert!(beyond(MOST_COUNTED) < beyond(MOST_COUNTED - 1));
    }
}
