//! Strongly connected components: the reference graph without its cycles.
//!
//! Nix refuses to register paths that refer to each other in a circle, so every component of a graph that
//! Nix wrote is a single path. A graph from elsewhere may have cycles; they are handled, not refused.

/// A node that is in no component, or not visited, so far.
const NONE: u32 = u32::MAX;

/// The components of a graph, numbered so that every reference leads to a lower number or stays inside.
pub(super) struct Components {
    /// The component of each node.
    pub(super) of: Vec<u32>,
    /// How many there are.
    pub(super) count: usize,
}

impl Components {
    /// The components of a graph with this number of nodes; `references` returns those of a node.
    ///
    /// Tarjan's algorithm in O(nodes + references), without recursion, which a long chain would overflow.
    pub(super) fn of<'a>(nodes: usize, references: impl Fn(usize) -> &'a [u32]) -> Self {
        let mut of = vec![NONE; nodes];
        let mut count = 0;
        // The number of each visited node, lowered to the least of the open nodes that it reaches.
        let mut low = vec![NONE; nodes];
        let mut visited = 0;
        // Visited nodes whose component is not complete.
        let mut open: Vec<usize> = Vec::new();
        // The way from the start to the current node: node, its own number, references followed.
        let mut way: Vec<(usize, u32, usize)> = Vec::new();
        for start in 0..nodes {
            let mut enter = (low[start] == NONE).then_some(start);
            loop {
                if let Some(node) = enter.take() {
                    low[node] = visited;
                    open.push(node);
                    way.push((node, visited, 0));
                    visited += 1;
                }
                let Some((node, number, followed)) = way.last_mut() else {
                    break;
                };
                let (node, number) = (*node, *number);
                if let Some(&to) = references(node).get(*followed) {
                    let to = to as usize;
                    *followed += 1;
                    if low[to] == NONE {
                        enter = Some(to);
                    } else if of[to] == NONE {
                        low[node] = low[node].min(low[to]);
                    }
                    continue;
                }
                way.pop();
                if low[node] == number {
                    while let Some(member) = open.pop() {
                        of[member] = count;
                        if member == node {
                            break;
                        }
                    }
                    count += 1;
                } else if let Some(&(parent, ..)) = way.last() {
                    low[parent] = low[parent].min(low[node]);
                }
            }
        }
        Self {
            of,
            count: count as usize,
        }
    }
}
