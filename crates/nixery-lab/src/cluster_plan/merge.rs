//! Merging clusters, the cheapest pair first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::name_set::NameSet;
use super::presence::Presence;
use super::sample::CheckedSample;
use super::worth::Worth;
use super::{LARGEST_CLUSTER, MOST_COST, Stage, Step};

/// Names that share a layer, and what tells its worth.
struct Cluster {
    members: Vec<u32>,
    /// Clusters that it may be merged with, ascending; some may be merged into others by now.
    neighbours: Vec<u32>,
    /// Samples with any of its members, ascending.
    samples: Vec<u16>,
    /// For each of `samples`, which part of the cluster is there.
    parts: Vec<u16>,
    /// NAR bytes of each part.
    part_sizes: Vec<u64>,
    /// All that its members need.
    closure: NameSet,
    /// NAR bytes of its members.
    nar_size: u64,
    worth: u128,
}

/// What two clusters would be as one, before it is known whether that is wanted.
#[derive(Default)]
struct Union {
    /// For each sample with one of them: the sample, and which part of each is there.
    samples: Vec<(u16, u32)>,
    /// The pairs of parts, sorted.
    sorted: Vec<u32>,
    /// Samples with both.
    both: usize,
}

/// A part of each as one number; 0 stands for none.
const fn pair(left: Option<u16>, right: Option<u16>) -> u32 {
    const fn number(part: Option<u16>) -> u32 {
        match part {
            Some(part) => part as u32 + 1,
            None => 0,
        }
    }
    number(left) << 16 | number(right)
}

impl Union {
    /// Looks at two clusters; what it held before is replaced.
    fn look(&mut self, left: &Cluster, right: &Cluster) {
        self.samples.clear();
        self.both = 0;
        let (mut a, mut b) = (0, 0);
        loop {
            let (one, other) = (left.samples.get(a), right.samples.get(b));
            let Some(&sample) = one.into_iter().chain(other).min() else {
                break;
            };
            let on_left = (one == Some(&sample)).then(|| left.parts[a]);
            let on_right = (other == Some(&sample)).then(|| right.parts[b]);
            a += usize::from(on_left.is_some());
            b += usize::from(on_right.is_some());
            self.both += usize::from(on_left.is_some() && on_right.is_some());
            self.samples.push((sample, pair(on_left, on_right)));
        }
        self.sorted.clear();
        self.sorted
            .extend(self.samples.iter().map(|&(_, pair)| pair));
        self.sorted.sort_unstable();
    }

    /// NAR bytes and number of samples of each pair of parts, in the order of the pairs.
    fn parts(&self, left: &Cluster, right: &Cluster) -> impl Iterator<Item = (u64, usize)> {
        let size = |sizes: &[u64], number: u32| match number {
            0 => 0,
            number => sizes[number as usize - 1],
        };
        self.sorted.chunk_by(|a, b| a == b).map(move |same| {
            let left = size(&left.part_sizes, same[0] >> 16);
            let right = size(&right.part_sizes, same[0] & 0xffff);
            (left + right, same.len())
        })
    }
}

/// All clusters, merged ones included, by number: those of one name come first, in the order of names.
struct Merging<'a> {
    worth: &'a Worth,
    clusters: Vec<Option<Cluster>>,
    union: Union,
    /// Pairs worth merging by height; what it costs, then the lesser numbers, decide.
    queue: BinaryHeap<Reverse<(u128, u32, u32)>>,
}

impl Merging<'_> {
    /// Puts a pair into the queue where its members may share a layer.
    fn consider(&mut self, a: u32, b: u32, at_least: u128) {
        let (Some(left), Some(right)) = (self.get(a), self.get(b)) else {
            return;
        };
        if left.nar_size + right.nar_size > LARGEST_CLUSTER {
            return;
        }
        let mut union = std::mem::take(&mut self.union);
        if let (Some(left), Some(right)) = (self.get(a), self.get(b)) {
            union.look(left, right);
            if union.both > 0 {
                let closure = left.closure.union_len(&right.closure);
                let apart = left.worth + right.worth;
                let together = self.worth.of(union.parts(left, right), closure);
                let cost = Worth::cost(apart.saturating_sub(together), union.both).max(at_least);
                if cost <= MOST_COST {
                    self.queue.push(Reverse((cost, a, b)));
                }
            }
        }
        self.union = union;
    }

    fn get(&self, cluster: u32) -> Option<&Cluster> {
        self.clusters.get(cluster as usize)?.as_ref()
    }

    /// Makes one cluster of two.
    fn merge(&mut self, left: Cluster, right: Cluster) -> Cluster {
        self.union.look(&left, &right);
        let (part_sizes, counts): (Vec<u64>, Vec<usize>) = self.union.parts(&left, &right).unzip();
        let closure = left.closure.union(&right.closure);
        let parts = part_sizes.iter().copied().zip(counts);
        let worth = self.worth.of(parts, closure.len());
        self.union.sorted.dedup();
        let part = |pair: u32| self.union.sorted.partition_point(|&other| other < pair) as u16;
        let samples = &self.union.samples;
        let mut neighbours = [left.neighbours, right.neighbours].concat();
        neighbours.sort_unstable();
        neighbours.dedup();
        neighbours.retain(|&other| self.get(other).is_some());
        Cluster {
            members: [left.members, right.members].concat(),
            neighbours,
            samples: samples.iter().map(|&(sample, _)| sample).collect(),
            parts: samples.iter().map(|&(_, pair)| part(pair)).collect(),
            part_sizes,
            closure,
            nar_size: left.nar_size + right.nar_size,
            worth,
        }
    }

    /// Merges until what is left costs too much.
    fn run(&mut self, step: &mut Step<'_>) {
        let names = self.clusters.len();
        while let Some(Reverse((cost, a, b))) = self.queue.pop() {
            if self.get(a).is_none() || self.get(b).is_none() {
                continue;
            }
            let (left, right) = (
                self.clusters[a as usize].take(),
                self.clusters[b as usize].take(),
            );
            let (Some(left), Some(right)) = (left, right) else {
                continue;
            };
            let merged = self.merge(left, right);
            let number = self.clusters.len() as u32;
            step.at(Stage::Merging, self.clusters.len() - names, names);
            let neighbours = merged.neighbours.clone();
            self.clusters.push(Some(merged));
            for other in neighbours {
                if let Some(Some(other)) = self.clusters.get_mut(other as usize) {
                    other.neighbours.push(number);
                }
                self.consider(other, number, cost);
            }
        }
    }
}

/// Groups of names that take part, each name in one; by number.
pub(super) fn clusters(
    checked: &CheckedSample<'_>,
    presence: &Presence,
    closures: Vec<NameSet>,
    pairs: &[(u32, u32)],
    worth: &Worth,
    step: &mut Step<'_>,
) -> Vec<Vec<u32>> {
    let mut clusters: Vec<Option<Cluster>> = (0u32..)
        .zip(closures)
        .map(|(name, closure)| {
            let index = name as usize;
            let samples = presence.samples_of[index].clone();
            let size = checked.nar_sizes[index];
            presence.takes_part(checked, index).then(|| Cluster {
                members: vec![name],
                neighbours: Vec::new(),
                parts: vec![0; samples.len()],
                worth: worth.of([(size, samples.len())].into_iter(), closure.len()),
                samples,
                part_sizes: vec![size],
                closure,
                nar_size: size,
            })
        })
        .collect();
    for &(a, b) in pairs {
        for (one, other) in [(a, b), (b, a)] {
            if let Some(Some(cluster)) = clusters.get_mut(one as usize) {
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
    for (index, &(a, b)) in pairs.iter().enumerate() {
        step.at(Stage::Pairs, index, pairs.len());
        merging.consider(a, b, 0);
    }
    merging.run(step);
    let left = merging.clusters.into_iter().flatten();
    left.map(|cluster| cluster.members).collect()
}
