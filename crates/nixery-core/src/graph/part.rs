//! Parts of a graph: what some of its paths need.

use super::{NodeId, ReferenceGraph};

impl ReferenceGraph {
    /// The closure of `roots` as a graph of its own, and for each of its paths the node in this graph, in
    /// order. Nodes that this graph does not have are ignored.
    pub fn part(&self, roots: &[NodeId]) -> (Self, Vec<NodeId>) {
        let mut reached = vec![false; self.len()];
        let mut paths = Vec::new();
        let known = |root: &NodeId| root.index() < self.len();
        let mut roots: Vec<NodeId> = roots.iter().copied().filter(known).collect();
        let mut todo = roots.clone();
        while let Some(path) = todo.pop() {
            if !std::mem::replace(&mut reached[path.index()], true) {
                paths.push(path);
                todo.extend(self.references(path));
            }
        }
        paths.sort_unstable();
        let mut new_ids = vec![NodeId::new(0); self.len()];
        for (new, old) in (0..).zip(&paths) {
            new_ids[old.index()] = NodeId::new(new);
        }
        let mut references = Vec::new();
        let mut ends = Vec::with_capacity(paths.len());
        let mut nodes = Vec::with_capacity(paths.len());
        for &old in &paths {
            references.extend(self.references(old).iter().map(|r| new_ids[r.index()]));
            ends.push(references.len());
            // With its closure size: all that it reaches is here as well.
            nodes.push(self.node(old).clone());
        }
        roots.sort_unstable();
        roots.dedup();
        for root in &mut roots {
            *root = new_ids[root.index()];
        }
        let part = Self {
            nodes,
            references,
            ends,
            roots,
        };
        (part, paths)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::path;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_part_is_what_parsing_it_alone_gives() {
        let node = |name: &str, size: u64, references: &[&str]| {
            let references: Vec<String> = references.iter().map(|name| path(name)).collect();
            json!({ "path": path(name), "narSize": size, "references": references })
        };
        let (a, b, c, d) = (
            node("app-1", 5, &["cycle-1"]),
            node("base-1", 7, &[]),
            node("cycle-1", 11, &["dcycle-1"]),
            node("dcycle-1", 13, &["cycle-1", "base-1"]),
        );
        let parse = |roots: &[&str], nodes: &[&serde_json::Value]| {
            let roots: Vec<String> = roots.iter().map(|name| path(name)).collect();
            let json = json!({ "exportReferencesGraph": { "graph": roots }, "graph": nodes });
            ReferenceGraph::parse(json.to_string().as_bytes()).unwrap()
        };
        let whole = parse(&[], &[&a, &b, &c, &d]);
        let index = |name: &str| whole.id_of(&path(name).parse().unwrap()).unwrap();

        let (part, places) =
            whole.part(&[index("cycle-1"), index("cycle-1"), NodeId::new(u32::MAX)]);
        assert_eq!(part, parse(&["cycle-1"], &[&b, &c, &d]));
        let back: Vec<_> = places.iter().map(|&old| &whole.node(old).path).collect();
        let own: Vec<_> = part.nodes().iter().map(|node| &node.path).collect();
        assert_eq!(back, own);

        let (everything, _) = whole.part(&[index("app-1"), index("base-1")]);
        assert_eq!(everything, parse(&["app-1", "base-1"], &[&a, &b, &c, &d]));
        assert!(whole.part(&[]).0.is_empty());
    }
}
