//! Merging clusters, the cheapest pair first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::name_set::NameSet;
use super::sample_index::SampleIndex;
use super::worth::Worth;
use super::{LARGEST_CLUSTER, MOST_COST, PlanStage, Reporter};

/// Names that share a layer, with the data that determines its worth.
struct Cluster {
    members: Vec<u32>,
    /// Clusters that it may be merged with, ascending. Some of them may already be merged into
    /// others.
    neighbours: Vec<u32>,
    /// Samples with any of its members, ascending, each with the number of the part of the cluster
    /// that is present.
    samples: Vec<(u16, u16)>,
    /// NAR bytes of each part. Part 0 has no members.
    part_sizes: Vec<u64>,
    /// Names of the closure of its members.
    closure: NameSet,
    /// NAR bytes of its members.
    nar_size: u64,
    worth: u128,
}

/// The union of two clusters that may be merged.
#[derive(Default)]
struct Union {
    /// Samples with one of them, ascending, each with the pair of parts that are present: the left
    /// part in the upper half, the right part in the lower half.
    samples: Vec<(u16, u32)>,
    /// The pairs of parts, sorted.
    sorted: Vec<u32>,
    /// Number of samples with both.
    both: usize,
}

impl Union {
    /// Compares two clusters; the earlier contents are replaced.
    fn compare(&mut self, left: &Cluster, right: &Cluster) {
        self.samples.clear();
        let (mut lefts, mut rights) = (&left.samples[..], &right.samples[..]);
        while let Some(&(sample, _)) = lefts.first().into_iter().chain(rights.first()).min() {
            let take = |samples: &mut &[(u16, u16)]| match samples.split_first() {
                Some((&(first, part), rest)) if first == sample => {
                    *samples = rest;
                    u32::from(part)
                }
                _ => 0,
            };
            let pair = take(&mut lefts) << 16 | take(&mut rights);
            self.samples.push((sample, pair));
        }
        self.both = left.samples.len() + right.samples.len() - self.samples.len();
        self.sorted.clear();
        self.sorted
            .extend(self.samples.iter().map(|&(_, pair)| pair));
        self.sorted.sort_unstable();
    }

    /// Returns NAR bytes and number of samples of each pair of parts, in the order of the pairs.
    fn parts(&self, left: &Cluster, right: &Cluster) -> impl Iterator<Item = (u64, usize)> {
        self.sorted.chunk_by(|a, b| a == b).map(move |same| {
            let left = left.part_sizes[same[0] as usize >> 16];
            let right = right.part_sizes[same[0] as usize & 0xffff];
            (left + right, same.len())
        })
    }
}

/// All clusters by number, including merged ones. Clusters of one name come first, in the order of
/// names.
struct Merging<'a> {
    worth: &'a Worth,
    clusters: Vec<Option<Cluster>>,
    union: Union,
    /// Pairs to merge, by cost and then by the lesser numbers.
    queue: BinaryHeap<Reverse<(u128, u32, u32)>>,
}

impl Merging<'_> {
    /// Adds a pair to the queue if its members may share a layer. Its merge costs `least_cost` or
    /// more.
    fn consider(&mut self, a: u32, b: u32, least_cost: u128) {
        let clusters = self.clusters.get_disjoint_mut([a as usize, b as usize]);
        let Ok([Some(left), Some(right)]) = clusters else {
            return;
        };
        if left.nar_size + right.nar_size > LARGEST_CLUSTER {
            return;
        }
        self.union.compare(left, right);
        if self.union.both == 0 {
            return;
        }
        let closure = left.closure.union_len(&right.closure);
        let apart = left.worth + right.worth;
        let together = self.worth.of(self.union.parts(left, right), closure);
        let loss = apart.saturating_sub(together);
        let cost = Worth::cost(loss, self.union.both).max(least_cost);
        if cost <= MOST_COST {
            self.queue.push(Reverse((cost, a, b)));
        }
    }

    /// Merges two clusters.
    fn merge(&mut self, left: Cluster, right: Cluster) -> Cluster {
        self.union.compare(&left, &right);
        let closure = left.closure.union(&right.closure);
        let parts = self.union.parts(&left, &right);
        let worth = self.worth.of(parts, closure.len());
        let sizes = self.union.parts(&left, &right).map(|(size, _)| size);
        let part_sizes = [0].into_iter().chain(sizes).collect();
        self.union.sorted.dedup();
        let sorted = &self.union.sorted;
        let part = |pair: u32| sorted.partition_point(|&other| other <= pair) as u16;
        let samples = self.union.samples.iter();
        let mut neighbours = [left.neighbours, right.neighbours].concat();
        neighbours.sort_unstable();
        neighbours.dedup();
        neighbours.retain(|&other| self.clusters[other as usize].is_some());
        Cluster {
            members: [left.members, right.members].concat(),
            neighbours,
            samples: samples
                .map(|&(sample, pair)| (sample, part(pair)))
                .collect(),
            part_sizes,
            closure,
            nar_size: left.nar_size + right.nar_size,
            worth,
        }
    }

    /// Merges until the remaining pairs cost too much.
    fn run(&mut self, reporter: &mut Reporter<'_>) {
        let names = self.clusters.len();
        while let Some(Reverse((cost, a, b))) = self.queue.pop() {
            let pair = self.clusters.get_disjoint_mut([a as usize, b as usize]);
            let Ok([left @ Some(_), right @ Some(_)]) = pair else {
                continue;
            };
            let Some((left, right)) = left.take().zip(right.take()) else {
                continue;
            };
            let merged = self.merge(left, right);
            let number = self.clusters.len() as u32;
            reporter.at(PlanStage::Merging, self.clusters.len() - names, names);
            let neighbours = merged.neighbours.clone();
            self.clusters.push(Some(merged));
            for other in neighbours {
                if let Some(other) = &mut self.clusters[other as usize] {
                    other.neighbours.push(number);
                }
                self.consider(other, number, cost);
            }
        }
    }
}

/// Returns groups of the numbers of names that can share a layer, each name in one group.
pub(super) fn clusters(
    index: &SampleIndex<'_>,
    closures: Vec<NameSet>,
    pairs: &[(u32, u32)],
    worth: &Worth,
    reporter: &mut Reporter<'_>,
) -> Vec<Vec<u32>> {
    let mut clusters: Vec<Option<Cluster>> = (0u32..)
        .zip(closures)
        .map(|(name, closure)| {
            let samples = index.samples_of[name as usize].iter();
            let samples: Vec<_> = samples.map(|&sample| (sample, 1)).collect();
            let size = index.nar_sizes[name as usize];
            index.can_share(name as usize).then(|| Cluster {
                members: vec![name],
                neighbours: Vec::new(),
                worth: worth.of([(size, samples.len())].into_iter(), closure.len()),
                samples,
                part_sizes: vec![0, size],
                closure,
                nar_size: size,
            })
        })
        .collect();
    for &(a, b) in pairs {
        for (one, other) in [(a, b), (b, a)] {
            if let Some(cluster) = &mut clusters[one as usize] {
                cluster.neighbours.push(other);
            }
        }
    }
    let mut merging = Merging {
        worth,
        clusters,
        union: Union::default(),
        queue: BinaryHeap::new(),
    };
    for (done, &(a, b)) in pairs.iter().enumerate() {
        reporter.at(PlanStage::Pairs, done, pairs.len());
        merging.consider(a, b, 0);
    }
    merging.run(reporter);
    let remaining = merging.clusters.into_iter().flatten();
    remaining.map(|cluster| cluster.members).collect()
}
