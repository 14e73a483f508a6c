//! Strongly connected components: the reference graph without its cycles.
//!
//! Nix refuses to register paths that refer to each other in a circle, so every component of a graph that
//! Nix wrote is a single path. A graph from elsewhere may have cycles; they are handled, not refused.

/// The components of a graph, numbered so that every reference leads to a lower number or stays inside.
pub(super) struct Components {
    /// The component of each node.
    pub(super) of: Vec<u32>,
    /// How many there are.
    pub(super) count: usize,
}

const UNSEEN: u32 = u32::MAX;

impl Components {
    /// Tarjan's algorithm with a stack of its own, O(nodes + references); `references` gives a node's.
    pub(super) fn of<'a>(nodes: usize, references: impl Fn(usize) -> &'a [u32]) -> Self {
        let mut of = vec![UNSEEN; nodes];
        let mut order = vec![UNSEEN; nodes];
        let mut low = vec![0u32; nodes];
        let mut open: Vec<u32> = Vec::new();
        let mut path: Vec<(u32, usize)> = Vec::new();
        let (mut visited, mut count) = (0u32, 0u32);
        for start in 0..nodes {
            if order[start] != UNSEEN {
                continue;
            }
            path.push((start as u32, 0));
            while let Some((node, next)) = path.last_mut() {
                let v = *node as usize;
                if *next == 0 && order[v] == UNSEEN {
                    order[v] = visited;
                    low[v] = visited;
                    visited += 1;
                    open.push(v as u32);
                }
                if let Some(&w) = references(v).get(*next) {
                    *next += 1;
                    let w = w as usize;
                    if order[w] == UNSEEN {
                        path.push((w as u32, 0));
                    } else if of[w] == UNSEEN {
                        low[v] = low[v].min(order[w]);
                    }
                    continue;
                }
                path.pop();
                if let Some(&(parent, _)) = path.last() {
                    low[parent as usize] = low[parent as usize].min(low[v]);
                }
                if low[v] == order[v] {
                    while let Some(member) = open.pop() {
                        of[member as usize] = count;
                        if member as usize == v {
                            break;
                        }
                    }
                    count += 1;
                }
            }
        }
        Self {
            of,
            count: count as usize,
        }
    }
}
