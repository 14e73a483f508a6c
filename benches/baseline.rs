//! The plain way: what one writes first, kept to compare with.

use std::collections::HashMap;

use nixery_core::{Popularity, ReferenceGraph, StorePath};
use petgraph::algo::dominators::simple_fast;
use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;

/// Parses a reference graph into JSON values first; gives each path's references by index.
///
/// # Errors
/// Where a path, a reference or the JSON is wrong, in words.
pub fn parse(json: &[u8]) -> Result<HashMap<String, Vec<usize>>, String> {
    let value: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let entries = value["graph"].as_array().ok_or("no graph")?;
    let mut index = HashMap::new();
    for (position, entry) in entries.iter().enumerate() {
        let path = entry["path"].as_str().ok_or("no path")?;
        StorePath::parse(path).map_err(|error| error.to_string())?;
        index.insert(path.to_owned(), position);
    }
    let mut graph = HashMap::new();
    for entry in entries {
        let path = entry["path"].as_str().ok_or("no path")?;
        let references = entry["references"].as_array().ok_or("no references")?;
        let references: Option<Vec<usize>> = references
            .iter()
            .map(|reference| index.get(reference.as_str()?).copied())
            .collect();
        graph.insert(
            path.to_owned(),
            references.ok_or("a reference without entry")?,
        );
    }
    Ok(graph)
}

/// The original's grouping with `petgraph`'s dominators and layers merged one by one.
pub fn group(
    graph: &ReferenceGraph,
    popularity: &Popularity,
    budget: usize,
) -> Vec<Vec<StorePath>> {
    let mut edges = DiGraph::<(), ()>::new();
    let root = edges.add_node(());
    let nodes: Vec<NodeIndex> = graph.nodes().iter().map(|_| edges.add_node(())).collect();
    for &entry in graph.roots() {
        edges.update_edge(root, nodes[entry], ());
    }
    for (index, node) in graph.nodes().iter().enumerate() {
        if node.closure_size > 100_000_000 || popularity.get(&node.path) >= 100 {
            edges.update_edge(root, nodes[index], ());
        }
        for &reference in &node.references {
            edges.add_edge(nodes[index], nodes[reference as usize], ());
        }
    }
    let dominators = simple_fast(&edges, root);
    let mut dominated: HashMap<NodeIndex, Vec<NodeIndex>> = HashMap::new();
    for &node in &nodes {
        if let Some(dominator) = dominators.immediate_dominator(node) {
            dominated.entry(dominator).or_default().push(node);
        }
    }
    let info = |node: NodeIndex| &graph.nodes()[node.index() - 1];
    let mut layers: Vec<(u128, Vec<StorePath>)> = Vec::new();
    for &head in dominated.get(&root).into_iter().flatten() {
        let mut members = vec![head];
        let mut next = 0;
        while next < members.len() {
            members.extend(dominated.get(&members[next]).into_iter().flatten());
            next += 1;
        }
        let size: u128 = members
            .iter()
            .map(|&node| u128::from(info(node).closure_size))
            .sum();
        let mut contents: Vec<StorePath> = members
            .iter()
            .map(|&node| info(node).path.clone())
            .collect();
        contents.sort();
        layers.push((
            size * u128::from(popularity.get(&info(head).path)),
            contents,
        ));
    }
    layers.sort();
    while layers.len() > budget {
        let (rating, contents) = layers.remove(0);
        layers[0].0 += rating;
        layers[0].1.extend(contents);
    }
    layers.into_iter().map(|(_, contents)| contents).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nixery_core::{DEFAULT_BUDGET, Dominator, LayerStrategy, layer_rows};
    use std::sync::Arc;

    /// The baseline is a fair one only if it gives the same layers.
    #[test]
    fn the_baseline_gives_the_same_result() {
        for size in [50, 500, 5_000] {
            let set = crate::package_set(size);
            let graph = ReferenceGraph::parse(set.graph.as_bytes()).expect("a graph");
            let plain = parse(set.graph.as_bytes()).expect("a graph");
            assert_eq!(plain.len(), graph.len());
            assert_eq!(graph.len(), size);
            let popularity =
                Arc::new(Popularity::from_json(set.popularity.as_bytes()).expect("counts"));
            let mut plain = group(&graph, &popularity, DEFAULT_BUDGET.get());
            plain.iter_mut().for_each(|layer| layer.sort());
            plain.sort();
            let plan = Dominator {
                popularity,
                ..Dominator::default()
            }
            .plan(&graph, DEFAULT_BUDGET);
            let mut planned: Vec<Vec<StorePath>> = layer_rows(&graph, &plan)
                .into_iter()
                .map(|row| row.paths.into_iter().cloned().collect())
                .collect();
            planned.sort();
            assert_eq!(planned, plain, "{size} paths");
        }
    }
}
