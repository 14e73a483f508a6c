//! The original's strategy: subtrees of the dominator tree, merged by rating.

use std::cmp::Reverse;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::dominators::heads;
use super::reason::{self, Cause};
use super::{LayerPlan, LayerStrategy, PlannedLayer};
use crate::graph::{PathInfo, ReferenceGraph};
use crate::popularity::Popularity;

/// Popularity from which a path gets a group of its own, as in the original since its `layers` package.
pub const DEFAULT_THRESHOLD: u64 = 100;

/// The threshold of the original's older, standalone `group-layers` tool.
pub const OLD_THRESHOLD: u64 = 1000;

/// Closure size in bytes over which a path gets a group of its own; 100 MB, decimal, as in the original.
pub const BIG_CLOSURE: u64 = 100_000_000;

/// The size that a path weighs in a group's rating.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Weight {
    /// Bytes of the path with all it references, as the original's code has it. Summed over a group this
    /// counts shared paths many times.
    #[default]
    ClosureSize,
    /// Bytes of the path alone, with which the original's documented example comes out.
    NarSize,
}

impl Weight {
    fn of(self, path: &PathInfo) -> u64 {
        match self {
            Self::ClosureSize => path.closure_size,
            Self::NarSize => path.nar_size,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::ClosureSize => "closure-size",
            Self::NarSize => "nar-size",
        }
    }
}

/// The original's strategy.
///
/// The image refers to the roots, and besides to each path whose closure is over [`BIG_CLOSURE`] or whose
/// popularity reaches the threshold. In the dominator tree of that graph each child of the image heads a
/// group: itself and all that is only reached through it. A group's rating is its head's popularity times the
/// weights of its paths. If there are more groups than the budget, the lowest-rated become one layer, just as
/// many as needed; as in the original, what they sum up to does not move that layer up among the others
/// while merging.
///
/// Other than the original: equal ratings are ordered by the head's path, ratings do not wrap around (they
/// saturate at 2^128 − 1), and paths that no root leads to have a place, through
/// [`ReferenceGraph::entry_points`].
///
/// Cost: O(references × log paths); 50,000 paths with 450,000 references take some 50 ms.
#[derive(Debug, Clone)]
pub struct Dominator {
    /// How many packages refer to each name.
    pub popularity: Arc<Popularity>,
    /// Popularity from which a path gets a group of its own; [`DEFAULT_THRESHOLD`] by default.
    pub threshold: u64,
    /// The size that a path weighs in a rating.
    pub weight: Weight,
}

impl Default for Dominator {
    fn default() -> Self {
        Self {
            popularity: Arc::default(),
            threshold: DEFAULT_THRESHOLD,
            weight: Weight::default(),
        }
    }
}

/// A head and what it dominates.
struct Group {
    head: usize,
    cause: Cause,
    rating: u128,
    /// Sorted.
    paths: Vec<usize>,
}

impl LayerStrategy for Dominator {
    fn id(&self) -> String {
        let Self {
            popularity,
            threshold,
            weight,
        } = self;
        let (weight, popularity) = (weight.as_str(), popularity.digest());
        format!(
            "dominator/1 big={BIG_CLOSURE} threshold={threshold} weight={weight} popularity={popularity}"
        )
    }

    fn plan(&self, graph: &ReferenceGraph, budget: NonZeroUsize) -> LayerPlan {
        let mut groups = self.groups(graph);
        groups.sort_by_key(|group| (group.rating, group.head));
        let surplus = groups.len().saturating_sub(budget.get());
        let alone = groups.split_off(if surplus > 0 { surplus + 1 } else { 0 });
        let mut layers: Vec<(u128, PlannedLayer)> = alone
            .into_iter()
            .map(|group| {
                let name = graph.nodes()[group.head].path.name();
                let reason = reason::of_group(name, group.cause, group.paths.len() - 1);
                (
                    group.rating,
                    layer(graph, group.rating, group.paths, reason),
                )
            })
            .collect();
        if surplus > 0 {
            let rating = groups
                .iter()
                .fold(0u128, |sum, group| sum.saturating_add(group.rating));
            // The highest-rated say most about what the layer holds.
            let names = groups
                .iter()
                .rev()
                .map(|group| graph.nodes()[group.head].path.name());
            let reason = reason::of_merged(names, budget.get());
            let mut paths: Vec<usize> = groups.into_iter().flat_map(|group| group.paths).collect();
            paths.sort_unstable();
            layers.push((rating, layer(graph, rating, paths, reason)));
        }
        layers.sort_by(|(a_rating, a), (b_rating, b)| {
            (Reverse(a_rating), Reverse(a.nar_size), &a.paths).cmp(&(
                Reverse(b_rating),
                Reverse(b.nar_size),
                &b.paths,
            ))
        });
        LayerPlan {
            layers: layers.into_iter().map(|(_, layer)| layer).collect(),
        }
    }
}

impl Dominator {
    /// The groups before merging, by head.
    fn groups(&self, graph: &ReferenceGraph) -> Vec<Group> {
        let nodes = graph.nodes();
        let popularity: Vec<u64> = nodes
            .iter()
            .map(|node| self.popularity.get(&node.path))
            .collect();
        let entry_points = graph.entry_points();
        let mut entrance: Vec<u32> = entry_points.iter().map(|&entry| entry as u32).collect();
        let set_apart = |node: &usize| {
            nodes[*node].closure_size > BIG_CLOSURE || popularity[*node] >= self.threshold
        };
        entrance.extend((0..nodes.len()).filter(set_apart).map(|node| node as u32));
        let heads = heads(nodes.len(), &entrance, |node| {
            &nodes[node as usize].references
        });

        let mut members: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        for (node, head) in heads.iter().enumerate() {
            // Entry points reach every path, so each has a head.
            members[head.map_or(node, |head| head as usize)].push(node);
        }
        let cause = |head: usize| {
            let node = &nodes[head];
            if graph.roots().binary_search(&head).is_ok() {
                Cause::AskedFor
            } else if popularity[head] >= self.threshold {
                Cause::Popular(popularity[head])
            } else if node.closure_size > BIG_CLOSURE {
                Cause::Big(node.closure_size)
            } else if entry_points.binary_search(&head).is_ok() {
                Cause::Unreached
            } else {
                Cause::Shared
            }
        };
        let group = |(head, paths): (usize, Vec<usize>)| {
            let weight: u128 = paths
                .iter()
                .map(|&path| u128::from(self.weight.of(&nodes[path])))
                .sum();
            let rating = weight.saturating_mul(u128::from(popularity[head]));
            Group {
                head,
                cause: cause(head),
                rating,
                paths,
            }
        };
        members
            .into_iter()
            .enumerate()
            .filter(|(_, paths)| !paths.is_empty())
            .map(group)
            .collect()
    }
}

fn layer(graph: &ReferenceGraph, rating: u128, paths: Vec<usize>, reason: String) -> PlannedLayer {
    let nar_size: u128 = paths
        .iter()
        .map(|&path| u128::from(graph.nodes()[path].nar_size))
        .sum();
    let saturate = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
    PlannedLayer {
        paths,
        nar_size: saturate(nar_size),
        rating: saturate(rating),
        reason,
    }
}
