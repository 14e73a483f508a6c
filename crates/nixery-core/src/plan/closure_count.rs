//! How many paths a set of paths needs, counted only as far as it matters.

use crate::graph::{NodeId, ReferenceGraph};

/// Counts closures of one graph after another without clearing what it has seen.
///
/// Cost: memory for a number per path of the graph. A count up to `most` looks at no more than `most` paths,
/// each with at most `most` references before the count is full.
pub(super) struct ClosureCount<'a> {
    graph: &'a ReferenceGraph,
    /// The count in which each path was last seen.
    seen: Vec<u32>,
    count: u32,
    todo: Vec<NodeId>,
}

impl<'a> ClosureCount<'a> {
    pub(super) fn new(graph: &'a ReferenceGraph) -> Self {
        Self {
            graph,
            seen: vec![0; graph.len()],
            count: 0,
            todo: Vec::new(),
        }
    }

    /// The number of paths that the given ones need, themselves included, or `most` where it is more: it
    /// does not depend on the order in which the references are walked.
    pub(super) fn up_to(&mut self, most: usize, paths: &[NodeId]) -> usize {
        // A graph has fewer than 2^32 paths, and no path is counted more often than twice.
        self.count += 1;
        self.todo.clear();
        let mut found = 0;
        let Self {
            seen, count, todo, ..
        } = self;
        let mut see = |path: NodeId, todo: &mut Vec<NodeId>| {
            if std::mem::replace(&mut seen[path.index()], *count) != *count {
                found += 1;
                todo.push(path);
            }
            found
        };
        for &path in paths {
            if see(path, todo) >= most {
                return most;
            }
        }
        while let Some(path) = todo.pop() {
            for &reference in self.graph.references(path) {
                if see(reference, todo) >= most {
                    return most;
                }
            }
        }
        found
    }
}
