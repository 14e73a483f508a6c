//! Heads: the paths that alone lead to others.
//!
//! In a graph with an entrance, *d* dominates *v* if every way from the entrance to *v* passes *d*.
//! The dominator just below the entrance is called *v*'s head here: only images with the head need
//! those paths, so they can share a layer.
//!
//! This is Lengauer's and Tarjan's algorithm ("A fast algorithm for finding dominators in a
//! flowgraph", 1979) in its simple form, O(references × log paths), without recursion. Not
//! `petgraph`'s `simple_fast`: that one is quadratic on hostile graphs (a chain of 20,000 paths
//! whose end a further 20,000 also hang on took 1.5 s, four times as much for twice the paths) and
//! its hash sets take 170 ms at 50,000 paths and 500,000 references. The tests hold the two against
//! each other.

use crate::graph::NodeId;

/// No node; also the value of `parent` and `ancestor` for those that have none.
const NONE: u32 = u32::MAX;

/// Returns the head of each node, possibly itself; `None` for nodes that cannot be reached.
/// `entrance` lists the nodes that the entrance leads to.
pub(super) fn heads<'a>(
    nodes: usize,
    entrance: &[NodeId],
    references: impl Fn(NodeId) -> &'a [NodeId],
) -> Vec<Option<NodeId>> {
    let search = Search::new(nodes, entrance, references);
    let idom = search.immediate_dominators();
    // A dominator has a lower number than what it dominates, so its own head is known already.
    let mut heads = vec![None; nodes];
    for (&node, &dominator) in search.vertex.iter().zip(&idom).skip(1) {
        heads[node.index()] = match dominator {
            0 => Some(node),
            dominator => heads[search.vertex[dominator as usize].index()],
        };
    }
    heads
}

/// A depth-first search from the entrance. Numbers are the order of discovery; the entrance is
/// number 0.
struct Search {
    /// The node with each number; for the entrance none.
    vertex: Vec<NodeId>,
    /// The number each number was discovered from.
    parent: Vec<u32>,
    /// Where each number's predecessors begin in `predecessors`.
    starts: Vec<u32>,
    predecessors: Vec<u32>,
}

impl Search {
    fn new<'a>(
        nodes: usize,
        entrance: &[NodeId],
        references: impl Fn(NodeId) -> &'a [NodeId],
    ) -> Self {
        let mut number = vec![NONE; nodes];
        let (mut vertex, mut parent) = (vec![NodeId::new(NONE)], vec![NONE]);
        let mut path: Vec<(u32, std::slice::Iter<'_, NodeId>)> = vec![(0, entrance.iter())];
        let edge_count: usize = (0..nodes as u32)
            .map(|node| references(NodeId::new(node)).len())
            .sum();
        let mut edges: Vec<(u32, u32)> = Vec::with_capacity(entrance.len() + edge_count);
        while let Some((from, rest)) = path.last_mut() {
            let Some(&node) = rest.next() else {
                path.pop();
                continue;
            };
            let from = *from;
            if number[node.index()] == NONE {
                number[node.index()] = vertex.len() as u32;
                vertex.push(node);
                parent.push(from);
                path.push((number[node.index()], references(node).iter()));
            }
            edges.push((number[node.index()], from));
        }
        let mut starts = vec![0u32; vertex.len() + 1];
        for &(to, _) in &edges {
            starts[to as usize + 1] += 1;
        }
        for i in 0..vertex.len() {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut predecessors = vec![0; edges.len()];
        for (to, from) in edges {
            predecessors[next[to as usize] as usize] = from;
            next[to as usize] += 1;
        }
        Self {
            vertex,
            parent,
            starts,
            predecessors,
        }
    }

    fn predecessors(&self, number: usize) -> &[u32] {
        &self.predecessors[self.starts[number] as usize..self.starts[number + 1] as usize]
    }

    /// By number; 0 for those that only the entrance dominates.
    fn immediate_dominators(&self) -> Vec<u32> {
        let count = self.vertex.len();
        let mut forest = Forest::new(count);
        let mut idom = vec![0u32; count];
        // The numbers whose semidominator a number is, as linked lists.
        let (mut first, mut next) = (vec![NONE; count], vec![NONE; count]);
        for w in (1..count).rev() {
            for &v in self.predecessors(w) {
                let u = forest.least(v);
                forest.semi[w] = forest.semi[w].min(forest.semi[u as usize]);
            }
            let semi = forest.semi[w] as usize;
            next[w] = first[semi];
            first[semi] = w as u32;
            let parent = self.parent[w];
            forest.ancestor[w] = parent;
            let mut v = std::mem::replace(&mut first[parent as usize], NONE);
            while v != NONE {
                let u = forest.least(v);
                let lower = forest.semi[u as usize] < forest.semi[v as usize];
                idom[v as usize] = if lower { u } else { parent };
                v = next[v as usize];
            }
        }
        for w in 1..count {
            if idom[w] != forest.semi[w] {
                idom[w] = idom[idom[w] as usize];
            }
        }
        idom
    }
}

/// The part of the search tree processed so far, with compressed paths.
struct Forest {
    semi: Vec<u32>,
    label: Vec<u32>,
    ancestor: Vec<u32>,
    /// Work space of `least`.
    path: Vec<u32>,
}

impl Forest {
    fn new(count: usize) -> Self {
        let own: Vec<u32> = (0..count as u32).collect();
        Self {
            semi: own.clone(),
            label: own,
            ancestor: vec![NONE; count],
            path: Vec::new(),
        }
    }

    /// The number with the least semidominator on the way up from `v`, below the root of its tree.
    fn least(&mut self, v: u32) -> u32 {
        let mut top = v;
        while self.ancestor[top as usize] != NONE {
            self.path.push(top);
            top = self.ancestor[top as usize];
        }
        // The number just below the root takes nothing from the root.
        self.path.pop();
        while let Some(x) = self.path.pop() {
            let above = self.ancestor[x as usize];
            let (label, other) = (self.label[x as usize], self.label[above as usize]);
            if self.semi[other as usize] < self.semi[label as usize] {
                self.label[x as usize] = other;
            }
            self.ancestor[x as usize] = self.ancestor[above as usize];
        }
        self.label[v as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use petgraph::algo::dominators::simple_fast;
    use petgraph::graph::{DiGraph, NodeIndex};
    use proptest::prelude::*;

    /// What [`heads`] gives, in plain numbers.
    fn numbers_of_heads(entrance: &[u32], references: &[Vec<u32>]) -> Vec<Option<u32>> {
        let ids = |numbers: &[u32]| numbers.iter().copied().map(NodeId::new).collect();
        let entrance: Vec<NodeId> = ids(entrance);
        let references: Vec<Vec<NodeId>> = references.iter().map(|to| ids(to)).collect();
        let heads = heads(references.len(), &entrance, |node| {
            &references[node.index()]
        });
        heads
            .into_iter()
            .map(|head| head.map(NodeId::get))
            .collect()
    }

    fn by_petgraph(entrance: &[u32], references: &[Vec<u32>]) -> Vec<Option<u32>> {
        let mut graph = DiGraph::<(), ()>::new();
        for _ in 0..=references.len() {
            graph.add_node(());
        }
        let root = NodeIndex::new(references.len());
        for &to in entrance {
            graph.add_edge(root, NodeIndex::new(to as usize), ());
        }
        for (from, references) in references.iter().enumerate() {
            for &to in references {
                graph.add_edge(NodeIndex::new(from), NodeIndex::new(to as usize), ());
            }
        }
        let dominators = simple_fast(&graph, root);
        let head = |node| {
            let below = dominators
                .strict_dominators(NodeIndex::new(node))?
                .filter(|&d| d != root)
                .last();
            Some(below.map_or(node as u32, |d| d.index() as u32))
        };
        (0..references.len()).map(head).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn equals_petgraph_with_cycles_and_unreachable_nodes(
            nodes in 1..25u32,
            entrance in prop::collection::vec(0..25u32, 0..4),
            edges in prop::collection::vec((0..25u32, 0..25u32), 0..60),
        ) {
            let entrance: Vec<u32> = entrance.into_iter().map(|e| e % nodes).collect();
            let mut references = vec![Vec::new(); nodes as usize];
            for (from, to) in edges {
                references[(from % nodes) as usize].push(to % nodes);
            }
            let heads = numbers_of_heads(&entrance, &references);
            prop_assert_eq!(heads, by_petgraph(&entrance, &references));
        }

        #[test]
        fn equals_petgraph_on_deep_graphs(
            jumps in prop::collection::vec((1..4u32, 1..30u32), 1..200),
        ) {
            let nodes = jumps.len() as u32;
            let references: Vec<Vec<u32>> = (0..nodes)
                .zip(&jumps)
                .map(|(i, &(a, b))| [i + a, i + b].into_iter().filter(|&to| to < nodes).collect())
                .collect();
            let heads = numbers_of_heads(&[0], &references);
            prop_assert_eq!(heads, by_petgraph(&[0], &references));
        }
    }

    #[test]
    fn a_chain_of_100_000() {
        let n = 100_000u32;
        let references: Vec<Vec<u32>> = (0..n)
            .map(|i| if i + 1 < n { vec![i + 1] } else { vec![] })
            .collect();
        let all = numbers_of_heads(&[0], &references);
        assert!(all.iter().all(|&head| head == Some(0)));
        let split = numbers_of_heads(&[0, 50_000], &references);
        assert!((0..n).all(|i| split[i as usize] == Some(if i < 50_000 { 0 } else { 50_000 })));
    }

    /// The graph on which repeated intersection walks the whole chain for each of the others.
    #[test]
    fn a_chain_with_a_fan_at_its_end() {
        let n = 50_000u32;
        let references: Vec<Vec<u32>> = (0..2 * n)
            .map(|i| match i.cmp(&(n - 1)) {
                std::cmp::Ordering::Less => vec![i + 1],
                std::cmp::Ordering::Equal => (n..2 * n).collect(),
                std::cmp::Ordering::Greater => vec![],
            })
            .collect();
        let entrance: Vec<u32> = std::iter::once(0).chain(n..2 * n).collect();
        let heads = numbers_of_heads(&entrance, &references);
        assert!((0..2 * n).all(|i| heads[i as usize] == Some(if i < n { 0 } else { i })));
    }
}
