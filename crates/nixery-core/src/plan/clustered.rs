//! The strategy with a plan for the whole package set: an image's packages of one cluster share a
//! layer.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::size::LARGE;
use super::stability::{self, Draft, Reach, TAILS, in_order, least_name, nar_size};
use super::{ClusterId, ClusterPlan, package_key};
use super::{LayerPlan, LayerStrategy, reason};
use crate::graph::{NodeId, ReferenceGraph};

/// Least reach of the layers of each tail but the last, in units of 1/4096: about 7.3 %, 1.5 % and
/// 0.37 %.
const STEPS: [u64; TAILS - 1] = [300, 60, 15];
const STEP_UNIT: u64 = 4096;

/// The strategy with a plan for the package set: in every image the same packages share a layer.
///
/// Paths whose names ([`package_key`]) are in one cluster of the plan are one layer. Among paths
/// that are not in the plan, those of 256 KiB (NAR) and more are layers of their own, and the
/// smaller ones are one layer together. If there are more layers than the budget, the largest
/// `budget − 4` stay, and the others are joined in four tails, by the share of samples that have
/// the most used of their packages: 300/4096 (7.3 %) and more, 60/4096 and more, 15/4096 and more,
/// and less. A budget below 4 has as many tails, the last of them for all smaller shares.
///
/// The layers are in the order of expected stability: descending size · p / (1 − p), then by least
/// package name, where `p = (0.8 + 0.2 · min(1, 3 · least reach)) · e^(−0.03 · paths in the
/// closure)`. Closures of more than 1,024 paths count as 1,024.
///
/// Cost: O(paths × log paths), with one look into the plan per path.
#[derive(Debug, Clone)]
pub struct Clustered {
    /// Which names share a layer.
    pub plan: Arc<ClusterPlan>,
}

/// The reason why paths are together before the budget is applied; in the order of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bond {
    Cluster(ClusterId),
    /// A large path that is not in the plan.
    Unknown(NodeId),
    /// All small paths that are not in the plan.
    SmallUnknown,
}

struct Bucket {
    bond: Bond,
    /// Sorted.
    paths: Vec<NodeId>,
    /// Least and most samples that have one of its packages.
    samples: (u32, u32),
}

impl LayerStrategy for Clustered {
    fn id(&self) -> String {
        format!("plan/1 {}", self.plan.digest())
    }

    fn plan(&self, graph: &ReferenceGraph, budget: NonZeroUsize) -> LayerPlan {
        let mut buckets = self.buckets(graph);
        let kept = stability::kept(buckets.len(), 0, budget);
        let mut tails: [Option<Bucket>; TAILS] = Default::default();
        if kept < buckets.len() {
            buckets.sort_by_cached_key(|bucket| {
                (
                    Reverse(nar_size(graph, &bucket.paths)),
                    least_name(graph, &bucket.paths),
                    bucket.paths[0],
                )
            });
            for bucket in buckets.drain(kept..) {
                let tail = &mut tails[stability::tail(self.tail(bucket.samples.1), budget)];
                match tail {
                    Some(tail) => {
                        tail.paths.extend(bucket.paths);
                        tail.samples.0 = tail.samples.0.min(bucket.samples.0);
                    }
                    None => *tail = Some(bucket),
                }
            }
        }

        let last = stability::tail(TAILS - 1, budget);
        let alone = buckets.into_iter().map(|bucket| Draft {
            reason: self.reason(graph, &bucket),
            reach: self.reach(bucket.samples.0),
            paths: bucket.paths,
        });
        let together = tails.into_iter().enumerate().filter_map(|(tail, bucket)| {
            let mut bucket = bucket?;
            bucket.paths.sort_unstable();
            let least = (tail < last).then(|| (STEPS[tail], STEP_UNIT));
            let most = (tail > 0).then(|| (STEPS[tail - 1], STEP_UNIT));
            Some(Draft {
                reason: reason::of_reach(bucket.paths.len(), budget.get(), least, most),
                reach: self.reach(bucket.samples.0),
                paths: bucket.paths,
            })
        });
        in_order(graph, alone.chain(together).collect())
    }
}

impl Clustered {
    /// Returns the paths that belong together, whatever the budget.
    fn buckets(&self, graph: &ReferenceGraph) -> Vec<Bucket> {
        let mut buckets: BTreeMap<Bond, Bucket> = BTreeMap::new();
        for (path, node) in graph.iter() {
            let (bond, samples) = match self.plan.get(&package_key(node.path.name())) {
                Some((cluster, samples)) => (Bond::Cluster(cluster), samples),
                None if node.nar_size < LARGE => (Bond::SmallUnknown, 0),
                None => (Bond::Unknown(path), 0),
            };
            let bucket = buckets.entry(bond).or_insert_with(|| Bucket {
                bond,
                paths: Vec::new(),
                samples: (samples, samples),
            });
            bucket.paths.push(path);
            let (least, most) = bucket.samples;
            bucket.samples = (least.min(samples), most.max(samples));
        }
        buckets.into_values().collect()
    }

    fn reach(&self, samples: u32) -> Reach {
        let of = self.plan.samples();
        Reach { samples, of }
    }

    /// The tail, from 0, of layers whose most used package is in this number of samples.
    fn tail(&self, samples: u32) -> usize {
        let reaches =
            |step: u64| u64::from(samples) * STEP_UNIT >= step * u64::from(self.plan.samples());
        STEPS.iter().filter(|&&step| !reaches(step)).count()
    }

    fn reason(&self, graph: &ReferenceGraph, bucket: &Bucket) -> String {
        let name = |path: NodeId| graph.node(path).path.name();
        match bucket.bond {
            Bond::Cluster(cluster) => {
                let names = bucket.paths.iter().map(|&path| name(path));
                let shares = bucket.samples;
                reason::of_cluster(
                    names,
                    self.plan.cluster_name(cluster),
                    shares,
                    self.plan.samples(),
                )
            }
            Bond::Unknown(path) => reason::of_unknown(name(path), graph.node(path).nar_size),
            Bond::SmallUnknown => reason::of_small_unknown(bucket.paths.len(), LARGE),
        }
    }
}
