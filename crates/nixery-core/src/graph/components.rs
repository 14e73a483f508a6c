//! Strongly connected components: the reference graph without its cycles.
//!
//! Nix refuses to register paths that refer to each other in a circle, so every component of a
//! graph that Nix wrote is a single path. Other graphs may have cycles, which are accepted.
//!
//! `petgraph` has this algorithm, but would bring six further crates into the smallest form of this
//! crate. It is an optional dependency, see `ReferenceGraph::to_petgraph`.

use super::NodeId;

/// A node that is in no component, or not visited, so far.
const NONE: u32 = u32::MAX;

/// The components of a graph, numbered so that every reference leads to a lower number or stays
/// inside.
pub(super) struct Components {
    /// The component of each node.
    pub(super) of: Vec<u32>,
    /// How many there are.
    pub(super) count: usize,
}

impl Components {
    /// The components of a graph with this number of nodes; `references` returns those of a node.
    ///
    /// Tarjan's algorithm in O(nodes + references), without recursion, which a long chain would
    /// overflow.
    pub(super) fn of<'a>(nodes: usize, references: impl Fn(NodeId) -> &'a [NodeId]) -> Self {
        let mut of = vec![NONE; nodes];
        let mut count = 0;
        // The number of each visited node, lowered to the least of the open nodes that it reaches.
        let mut low = vec![NONE; nodes];
        let mut visited = 0;
        // Visited nodes whose component is not complete.
        let mut open: Vec<NodeId> = Vec::new();
        // The path from the start to the current node: node, its own number, references followed.
        let mut way: Vec<(NodeId, u32, usize)> = Vec::new();
        for start in (0..nodes as u32).map(NodeId::new) {
            let mut enter = (low[start.index()] == NONE).then_some(start);
            loop {
                if let Some(node) = enter.take() {
                    low[node.index()] = visited;
                    open.push(node);
                    way.push((node, visited, 0));
                    visited += 1;
                }
                let Some((node, number, followed)) = way.last_mut() else {
                    break;
                };
                let (node, number) = (*node, *number);
                if let Some(&to) = references(node).get(*followed) {
                    *followed += 1;
                    if low[to.index()] == NONE {
                        enter = Some(to);
                    } else if of[to.index()] == NONE {
                        low[node.index()] = low[node.index()].min(low[to.index()]);
                    }
                    continue;
                }
                way.pop();
                if low[node.index()] == number {
                    while let Some(member) = open.pop() {
                        of[member.index()] = count;
                        if member == node {
                            break;
                        }
                    }
                    count += 1;
                } else if let Some(&(parent, ..)) = way.last() {
                    low[parent.index()] = low[parent.index()].min(low[node.index()]);
                }
            }
        }
        Self {
            of,
            count: count as usize,
        }
    }
}
