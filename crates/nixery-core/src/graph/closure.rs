//! Closure sizes, for graphs that come without them.

use super::components::Components;
use super::{NodeId, ReferenceGraph};

/// Words of a node's mask in one pass: four keep the pass in the cache and vectorise.
const WORDS: usize = 4;
const BLOCK: usize = WORDS * 64;

impl ReferenceGraph {
    /// Sums up the NAR sizes of all closures.
    pub(super) fn compute_closure_sizes(&mut self) {
        let weights: Vec<u64> = self.nodes.iter().map(|node| node.nar_size).collect();
        let sums = closure_sums(&weights, |node| self.references(node));
        for (node, sum) in self.nodes.iter_mut().zip(sums) {
            node.closure_size = sum;
        }
    }
}

/// Returns for each node the sum of the weights of all nodes it reaches, itself included;
/// saturating.
///
/// Exact, unlike a sum over references, which counts shared nodes several times. One pass per 256
/// nodes marks the nodes that reach them, so time is O(nodes × references / 256), memory O(nodes +
/// references).
fn closure_sums<'a>(weights: &[u64], references: impl Fn(NodeId) -> &'a [NodeId]) -> Vec<u64> {
    let components = Components::of(weights.len(), &references);
    let condensed = Condensed::new(&components, weights, &references);
    let sums = condensed.sums();
    components
        .of
        .iter()
        .map(|&c| sums[c as usize].min(u128::from(u64::MAX)) as u64)
        .collect()
}

/// The acyclic graph of components, references as one flat list.
struct Condensed {
    weights: Vec<u128>,
    starts: Vec<usize>,
    references: Vec<u32>,
}

impl Condensed {
    fn new<'a>(
        components: &Components,
        weights: &[u64],
        references: &impl Fn(NodeId) -> &'a [NodeId],
    ) -> Self {
        let mut condensed = vec![0u128; components.count];
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        for ((node, &from), &weight) in (0..).zip(&components.of).zip(weights) {
            condensed[from as usize] += u128::from(weight);
            let to = references(NodeId::new(node)).iter();
            let to = to.map(|r| components.of[r.index()]);
            pairs.extend(to.filter(|&to| to != from).map(|to| (from, to)));
        }
        pairs.sort_unstable();
        pairs.dedup();
        let mut starts = vec![0; components.count + 1];
        for &(from, _) in &pairs {
            starts[from as usize + 1] += 1;
        }
        for c in 0..components.count {
            starts[c + 1] += starts[c];
        }
        Self {
            weights: condensed,
            starts,
            references: pairs.into_iter().map(|(_, to)| to).collect(),
        }
    }

    fn references(&self, component: usize) -> &[u32] {
        &self.references[self.starts[component]..self.starts[component + 1]]
    }

    fn sums(&self) -> Vec<u128> {
        let count = self.weights.len();
        let mut sums = vec![0u128; count];
        // Only components with two references or more need masks: chains cost nothing here.
        let several = (0..count).rev().find(|&c| self.references(c).len() > 1);
        let end = several.map_or(0, |last| last + 1);
        let mut reached = vec![[0u64; WORDS]; end];
        for first in (0..end).step_by(BLOCK) {
            let table = BlockTable::new(&self.weights[first..count.min(first + BLOCK)]);
            // A component reaches only lower numbers, so those below the block reach nothing in it.
            for component in first..end {
                let mut mask = [0u64; WORDS];
                let own = component - first;
                if own < BLOCK {
                    mask[own / 64] |= 1 << (own % 64);
                }
                let references = self.references(component);
                for &reference in references.iter().filter(|&&r| r as usize >= first) {
                    for (word, other) in mask.iter_mut().zip(reached[reference as usize]) {
                        *word |= other;
                    }
                }
                reached[component] = mask;
                if references.len() > 1 {
                    sums[component] += table.sum(mask);
                }
            }
        }
        for component in 0..count {
            match *self.references(component) {
                [] => sums[component] = self.weights[component],
                [only] => sums[component] = self.weights[component] + sums[only as usize],
                _ => {}
            }
        }
        sums
    }
}

/// Sums of a block's weights by bit pattern: per byte of the mask its 256 patterns, per word all
/// ones.
struct BlockTable {
    bytes: Vec<[u128; 256]>,
    words: [u128; WORDS],
}

impl BlockTable {
    fn new(weights: &[u128]) -> Self {
        let weight = |bit: usize| weights.get(bit).copied().unwrap_or(0);
        let mut bytes = vec![[0; 256]; BLOCK / 8];
        for (byte, sums) in bytes.iter_mut().enumerate() {
            for pattern in 1..256usize {
                let lowest = pattern.trailing_zeros() as usize;
                sums[pattern] = sums[pattern & (pattern - 1)] + weight(byte * 8 + lowest);
            }
        }
        let words = std::array::from_fn(|word| (0..64).map(|bit| weight(word * 64 + bit)).sum());
        Self { bytes, words }
    }

    fn sum(&self, mask: [u64; WORDS]) -> u128 {
        let mut sum = 0;
        for (index, word) in mask.into_iter().enumerate() {
            match word {
                0 => {}
                u64::MAX => sum += self.words[index],
                _ => {
                    for (byte, pattern) in word.to_le_bytes().into_iter().enumerate() {
                        sum += self.bytes[index * 8 + byte][pattern as usize];
                    }
                }
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A walk from every node: what the sums mean, quadratic.
    fn naive(weights: &[u64], references: &[Vec<NodeId>]) -> Vec<u64> {
        (0..weights.len())
            .map(|start| {
                let mut seen = vec![false; weights.len()];
                let mut todo = vec![start];
                let mut sum = 0u64;
                while let Some(node) = todo.pop() {
                    if !std::mem::replace(&mut seen[node], true) {
                        sum = sum.saturating_add(weights[node]);
                        todo.extend(references[node].iter().map(|r| r.index()));
                    }
                }
                sum
            })
            .collect()
    }

    proptest! {
        #[test]
        fn equals_a_walk_from_every_node(
            weights in prop::collection::vec(prop_oneof![0..1000u64, Just(u64::MAX), Just(u64::MAX / 2)], 1..60),
            edges in prop::collection::vec((0..60u32, 0..60u32), 0..150),
        ) {
            let n = weights.len() as u32;
            let mut references = vec![Vec::new(); weights.len()];
            for (from, to) in edges {
                references[(from % n) as usize].push(NodeId::new(to % n));
            }
            let sums = closure_sums(&weights, |node| &references[node.index()]);
            prop_assert_eq!(sums, naive(&weights, &references));
        }
    }

    #[test]
    fn spans_several_blocks() {
        // Node i refers to i-1 and i-7: everything below is reached, across blocks of 256.
        let n = 1000u32;
        let references: Vec<Vec<NodeId>> = (0..n)
            .map(|i| {
                let references = [1, 7].iter().filter_map(|d| i.checked_sub(*d));
                references.map(NodeId::new).collect()
            })
            .collect();
        let weights: Vec<u64> = (0..u64::from(n)).collect();
        assert_eq!(
            closure_sums(&weights, |node| &references[node.index()]),
            naive(&weights, &references)
        );
    }

    #[test]
    fn a_long_chain_and_a_long_cycle() {
        let n = 100_000u32;
        let chain: Vec<Vec<NodeId>> = (0..n)
            .map(|i| {
                (i + 1 < n)
                    .then_some(NodeId::new(i + 1))
                    .into_iter()
                    .collect()
            })
            .collect();
        let weights = vec![1; n as usize];
        let sums = closure_sums(&weights, |node| &chain[node.index()]);
        assert!(
            sums.iter()
                .enumerate()
                .all(|(i, &sum)| sum == u64::from(n) - i as u64)
        );
        let cycle: Vec<Vec<NodeId>> = (0..n).map(|i| vec![NodeId::new((i + 1) % n)]).collect();
        assert!(
            closure_sums(&weights, |node| &cycle[node.index()])
                .iter()
                .all(|&sum| sum == u64::from(n))
        );
    }
}
