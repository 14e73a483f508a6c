//! The strategy that needs no data: large paths alone, small ones by how much they need.

use std::cmp::Reverse;
use std::num::NonZeroUsize;

use super::stability::{self, ClosureCount, Draft, Reach, TAILS, in_order};
use super::{LayerPlan, LayerStrategy, reason};
use crate::graph::{NodeId, ReferenceGraph};

/// NAR bytes from which a path gets a layer of its own.
pub(super) const LARGE: u64 = 256 << 10;

/// Most paths in the closure of a path of each tail but the last.
const STEPS: [usize; TAILS - 1] = [2, 8, 30];

/// The best strategy that needs no data.
///
/// Paths of 256 KiB (NAR) and more are layers of their own, largest first, within the budget. The
/// rest is in four tails, by the number of paths in each path's own closure: at most 2, at most 8,
/// at most 30, and more. Paths with small closures change seldom. If the large paths and the tails
/// of small paths exceed the budget, the largest `budget − 4` stay alone and the other large paths
/// are in tails too. A budget below 4 has as many tails, the last of them for all larger closures.
///
/// The layers are in the order of expected stability: descending size · p / (1 − p), then by least
/// package name, where `p = 0.8 · e^(−0.03 · paths in the closure)`. Closures of more than 1,024
/// paths count as 1,024.
///
/// Cost: O(paths × log paths), and per path of a tail a walk of at most 31 paths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size;

impl LayerStrategy for Size {
    fn id(&self) -> String {
        "size/1".to_owned()
    }

    fn plan(&self, graph: &ReferenceGraph, budget: NonZeroUsize) -> LayerPlan {
        let (mut large, small): (Vec<NodeId>, Vec<NodeId>) = graph
            .ids()
            .partition(|&path| graph.node(path).nar_size >= LARGE);
        large.sort_by_key(|&path| {
            let node = graph.node(path);
            (Reverse(node.nar_size), node.path.package_name(), path)
        });
        let mut closures = ClosureCount::new(graph);
        let mut tails: [Vec<NodeId>; TAILS] = Default::default();
        let mut into_tail = |path: NodeId, tails: &mut [Vec<NodeId>; TAILS]| {
            let needed = closures.up_to(STEPS[TAILS - 2] + 1, &[path]);
            let step = STEPS.iter().filter(|&&step| needed > step).count();
            tails[stability::tail(step, budget)].push(path);
        };
        for path in small {
            into_tail(path, &mut tails);
        }
        let filled = tails.iter().filter(|tail| !tail.is_empty()).count();
        let kept = stability::kept(large.len(), filled, budget);
        for path in large.drain(kept..) {
            into_tail(path, &mut tails);
        }

        let alone = large.into_iter().map(|path| Draft {
            paths: vec![path],
            reach: Reach::NONE,
            reason: reason::of_large(graph.node(path).path.name(), graph.node(path).nar_size),
        });
        let last = stability::tail(TAILS - 1, budget);
        let together = tails.into_iter().enumerate().map(|(tail, mut paths)| {
            paths.sort_unstable();
            let from = if tail == 0 { 0 } else { STEPS[tail - 1] + 1 };
            let to = (tail < last).then(|| STEPS[tail]);
            Draft {
                reason: reason::of_needs(paths.len(), from, to),
                reach: Reach::NONE,
                paths,
            }
        });
        let drafts = alone.chain(together.filter(|draft| !draft.paths.is_empty()));
        in_order(graph, drafts.collect())
    }
}
