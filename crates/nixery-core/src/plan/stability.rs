//! What strategies share: the order of layers by expected stability, and tails.
//!
//! Clients that key their snapshots by chain reuse a layer only if all layers below it are the
//! same. So large layers that other images and later revisions have unchanged come first. The worth
//! of a layer of *size* bytes (NAR) is *size* · *p* / (1 − *p*), where
//!
//! *p* = (0.8 + 0.2 · min(1, 3 · *reach*)) · e^(−0.03 · *closure*)
//!
//! is the probability that another image has the same layer. *reach* is the least share of images
//! that have one of its packages. *closure* is the number of paths that the layer's paths need,
//! themselves included: each of them renames the layer's paths when it changes. Larger values come
//! first. Equal ones are ordered by the least package name.
//!
//! All calculations use whole numbers, so that the order is the same on every machine.

use std::cmp::Reverse;
use std::num::NonZeroUsize;

use super::{LayerPlan, PlannedLayer};
use crate::graph::{NodeId, ReferenceGraph};

/// A closure of more paths counts as this many. e^(−0.03 · n) is 4.6 · 10⁻¹⁴ here, so such layers
/// come last anyway. Counting further would take a walk through the whole graph per layer.
const MOST_COUNTED: usize = 1024;

/// e^(−0.03) in units of 2⁻⁶⁴, rounded down.
const DECAY: u64 = 17_901_560_394_843_847_067;

/// e^(−0.03 · n) in units of 2⁻⁶⁴ for n from 1 to [`MOST_COUNTED`]. Each product is rounded down,
/// so values are at most 33 units too small.
const DECAYED: [u64; MOST_COUNTED] = {
    let mut decayed = [DECAY; MOST_COUNTED];
    let mut n = 1;
    while n < MOST_COUNTED {
        decayed[n] = ((decayed[n - 1] as u128 * DECAY as u128) >> 64) as u64;
        n += 1;
    }
    decayed
};

/// The share of sampled images that have something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) samples: u32,
    /// At least 1.
    pub(super) of: u32,
}

impl Reach {
    /// The reach of what nothing is known about.
    pub(super) const NONE: Self = Self { samples: 0, of: 1 };
}

/// A layer without a place in the order.
#[derive(Debug)]
pub(super) struct Draft {
    /// Sorted, not empty.
    pub(super) paths: Vec<NodeId>,
    /// The least reach of its packages.
    pub(super) reach: Reach,
    /// As in [`PlannedLayer::reason`].
    pub(super) reason: String,
}

/// Puts layers in the common order. Their rating is their worth in bytes.
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
    // 0.8 + 0.2 · min(1, 3 · samples / of) = (4 · of + min(of, 3 · samples)) / (5 · of); at most 1,
    // so that p is at most e^(−0.03) and 1 − p is not 0.
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

/// The least package name among the paths. Unlike their hashes it stays the same across updates.
pub(super) fn least_name<'a>(graph: &'a ReferenceGraph, paths: &[NodeId]) -> &'a str {
    let names = paths
        .iter()
        .map(|&path| graph.node(path).path.package_name());
    names.min().unwrap_or_default()
}

/// Counts the closures of a graph's paths, one after another, without clearing its marks.
///
/// Cost: memory for a number per path of the graph. A count up to `most` visits at most `most`
/// paths and `most` references of each.
pub(super) struct ClosureCount<'a> {
    graph: &'a ReferenceGraph,
    /// The count that visited each path last.
    visited_in: Vec<u32>,
    count: u32,
    todo: Vec<NodeId>,
}

impl<'a> ClosureCount<'a> {
    pub(super) fn new(graph: &'a ReferenceGraph) -> Self {
        Self {
            graph,
            visited_in: vec![0; graph.len()],
            count: 0,
            todo: Vec::new(),
        }
    }

    /// The number of paths that the given ones need, themselves included, but at most `most`.
    pub(super) fn up_to(&mut self, most: usize, paths: &[NodeId]) -> usize {
        // A graph has fewer than 2^32 paths, and no path is counted more often than twice.
        self.count += 1;
        self.todo.clear();
        let mut found = 0;
        let Self {
            visited_in,
            count,
            todo,
            ..
        } = self;
        let mut visit = |path: NodeId, todo: &mut Vec<NodeId>| {
            if std::mem::replace(&mut visited_in[path.index()], *count) != *count {
                found += 1;
                todo.push(path);
            }
            found
        };
        for &path in paths {
            if visit(path, todo) >= most {
                return most;
            }
        }
        while let Some(path) = todo.pop() {
            for &reference in self.graph.references(path) {
                if visit(reference, todo) >= most {
                    return most;
                }
            }
        }
        found
    }
}

/// The most tails: layers for what has no layer of its own.
pub(super) const TAILS: usize = 4;

/// Returns how many of `all` layers stay as they are: all if the budget has room for them and the
/// tails that are filled anyway, else as many as fit in beside all tails.
pub(super) fn kept(all: usize, filled: usize, budget: NonZeroUsize) -> usize {
    if all + filled <= budget.get() {
        all
    } else {
        budget.get().saturating_sub(TAILS)
    }
}

/// Returns the tail, from 0, that stands for the given one. A budget below [`TAILS`] has as many
/// tails, and the last of them stands for the missing ones.
pub(super) fn tail(tail: usize, budget: NonZeroUsize) -> usize {
    tail.min(budget.get() - 1).min(TAILS - 1)
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
