//! From what the input says to a graph: every entry checked, paths sorted, references by index.

use super::path_index::PathIndex;
use super::raw::{RawGraph, RawNode};
use super::{GraphError, NodeId, PathInfo, ReferenceGraph};
use crate::nar_hash::NarHash;
use crate::store_path::{StorePath, StorePaths};

/// Checks and sorts.
///
/// # Errors
/// What the table of [`super`] says.
pub(super) fn check<'r>(
    raw: &RawGraph<'_>,
    roots: impl Iterator<Item = &'r str>,
) -> Result<ReferenceGraph, GraphError> {
    let count = raw.nodes.len();
    if u32::try_from(count).is_err() {
        return Err(GraphError::TooManyPaths { count });
    }
    let texts = raw.nodes.iter().map(|node| raw.path_len(node)).sum();
    let mut paths = StorePaths::with_capacity(count, texts);
    for node in &raw.nodes {
        paths.push(raw.path(node)).map_err(GraphError::Path)?;
    }
    let mut infos = Vec::with_capacity(count);
    for (path, node) in paths.finish().zip(&raw.nodes) {
        infos.push(info(raw, path, node)?);
    }
    let (order, repeated) = order(&infos);
    let text = infos.first().map_or("", |info| info.path.shared_text());
    let place = |&entry: &usize| infos[entry].path.place();
    let index = PathIndex::new(text, order.iter().map(place));

    let found = index.find_all(raw.all_references(), |reference| raw.text(reference));
    let found = found.map_err(|position| missing(raw, position))?;

    let mut graph = ReferenceGraph {
        nodes: Vec::new(),
        references: Vec::with_capacity(found.len()),
        ends: Vec::with_capacity(order.len()),
        roots: Vec::new(),
    };
    for (own, &entry) in (0..).zip(&order) {
        add(
            &mut graph.references,
            &found[raw.place(entry)],
            NodeId::new(own),
        );
        graph.ends.push(graph.references.len());
    }
    for (entry, same) in repeated {
        let mut references = Vec::new();
        add(&mut references, &found[raw.place(entry)], same);
        let first = order[same.index()];
        let agrees = infos[entry] == infos[first]
            && raw.nodes[entry].closure_size == raw.nodes[first].closure_size
            && references == graph.references(same);
        if !agrees {
            let path = infos[entry].path.to_string();
            return Err(GraphError::Conflict { path });
        }
    }
    for root in roots {
        let Some(root) = index.find(root) else {
            return Err(GraphError::MissingRoot { root: shown(root) });
        };
        graph.roots.push(root);
    }
    graph.roots.sort_unstable();
    graph.roots.dedup();
    drop(index);
    graph.nodes = in_order(infos, &order);
    if raw.nodes.iter().any(|node| node.closure_size.is_none()) {
        // All of them: a mixture of given and computed sizes could contradict itself.
        graph.compute_closure_sizes();
    }
    Ok(graph)
}

/// An entry's own parts.
fn info(raw: &RawGraph<'_>, path: StorePath, node: &RawNode) -> Result<PathInfo, GraphError> {
    let named = || path.to_string();
    if !node.valid {
        return Err(GraphError::NotValid { path: named() });
    }
    let nar_hash = raw.nar_hash(node).map(NarHash::parse);
    Ok(PathInfo {
        nar_hash: nar_hash.transpose().map_err(|source| GraphError::Hash {
            path: named(),
            source,
        })?,
        nar_size: node
            .nar_size
            .ok_or_else(|| GraphError::MissingSize { path: named() })?,
        closure_size: node.closure_size.unwrap_or_default(),
        path,
    })
}

/// The first entry of each path, sorted by path; and what repeats one, with the place of its path among them.
fn order(infos: &[PathInfo]) -> (Vec<usize>, Vec<(usize, NodeId)>) {
    let path = |&entry: &usize| &infos[entry].path;
    let mut order: Vec<usize> = (0..infos.len()).collect();
    // Nix writes them in order.
    if order.is_sorted_by(|a, b| path(a) < path(b)) {
        return (order, Vec::new());
    }
    order.sort_by(|a, b| path(a).cmp(path(b)));
    let mut repeated = Vec::new();
    let mut distinct: Vec<usize> = Vec::with_capacity(order.len());
    for entry in order {
        match distinct.last() {
            Some(last) if path(last) == path(&entry) => {
                repeated.push((entry, NodeId::new(distinct.len() as u32 - 1)));
            }
            _ => distinct.push(entry),
        }
    }
    (distinct, repeated)
}

/// Adds one path's references to a list: sorted, each once, without its own.
pub(super) fn add(references: &mut Vec<NodeId>, found: &[NodeId], own: NodeId) {
    let start = references.len();
    let others = found.iter().filter(|&&reference| reference != own);
    references.extend(others);
    let added = &mut references[start..];
    // Nix writes them in order.
    if !added.is_sorted_by(|a, b| a < b) {
        added.sort_unstable();
        let mut end = start;
        for i in start..references.len() {
            if end == start || references[end - 1] != references[i] {
                references[end] = references[i];
                end += 1;
            }
        }
        references.truncate(end);
    }
}

/// The error for the reference at a position, which leads to no entry.
fn missing(raw: &RawGraph<'_>, position: usize) -> GraphError {
    let node = (0..raw.nodes.len()).find(|&node| raw.place(node).contains(&position));
    GraphError::MissingReference {
        path: node
            .map_or("", |node| raw.path(&raw.nodes[node]))
            .to_owned(),
        reference: shown(raw.text(raw.all_references()[position])),
    }
}

/// The entries that were chosen, in that order.
fn in_order(infos: Vec<PathInfo>, order: &[usize]) -> Vec<PathInfo> {
    if infos.len() == order.len() && order.is_sorted() {
        return infos;
    }
    let mut infos: Vec<Option<PathInfo>> = infos.into_iter().map(Some).collect();
    let chosen = order.iter().map(|&entry| infos[entry].take());
    chosen.flatten().collect()
}

/// A text of the input as errors repeat it: cut, since it may be anything.
fn shown(text: &str) -> String {
    text.chars().take(300).collect()
}
