//! How graphs are made: from what Nix's JSON says, from a list, and from a part of another graph.

use std::ops::Range;

use super::nix_json::{RawGraph, RawNode};
use super::path_index::PathIndex;
use super::{GraphError, NodeId, PathInfo, ReferenceGraph};
use crate::nar_hash::NarHash;
use crate::store_path::{StorePath, StorePaths};

/// A path of a list.
#[derive(Debug, Clone)]
pub struct ListedPath<'a> {
    /// The path.
    pub path: StorePath,
    /// Bytes of its NAR.
    pub nar_size: u64,
    /// SHA-256 of its NAR, where it is known.
    pub nar_hash: Option<NarHash>,
    /// What it refers to, as places in the list, from 0; itself perhaps among them.
    pub references: &'a [u32],
}

impl ReferenceGraph {
    /// Checks what the input says and makes a graph of it.
    ///
    /// # Errors
    /// As the table of [`ReferenceGraph`] says.
    pub(super) fn from_raw<'r>(
        raw: &RawGraph<'_>,
        roots: impl Iterator<Item = &'r str>,
    ) -> Result<Self, GraphError> {
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
        for (entry, same) in repeated {
            let references = |entry| {
                let mut references = Vec::new();
                add(&mut references, &found[raw.place(entry)], same);
                references
            };
            let first = order[same.index()];
            let agrees = infos[entry] == infos[first]
                && raw.nodes[entry].closure_size == raw.nodes[first].closure_size
                && references(entry) == references(first);
            if !agrees {
                let path = infos[entry].path.to_string();
                return Err(GraphError::Conflict { path });
            }
        }
        let missing_root = |root| GraphError::MissingRoot { root: shown(root) };
        let roots = roots.map(|root| index.find(root).ok_or_else(|| missing_root(root)));
        let roots = roots.collect::<Result<_, _>>()?;
        drop(index);
        let mut graph = Self::assemble(infos, &order, &found, |entry| raw.place(entry), roots);
        if raw.nodes.iter().any(|node| node.closure_size.is_none()) {
            // All of them: given and computed sizes could contradict each other.
            graph.compute_closure_sizes();
        }
        Ok(graph)
    }

    /// Makes a graph of a list of paths, and returns the node of each place. Roots are places, too.
    /// Closure sizes are computed.
    ///
    /// ```
    /// use nixery_core::{ListedPath, ReferenceGraph};
    /// use nixery_core::StorePath;
    /// let listed = |path: &str, references| ListedPath {
    ///     path: StorePath::parse(path).unwrap(),
    ///     nar_size: 40,
    ///     nar_hash: None,
    ///     references,
    /// };
    /// let list = [
    ///     listed("/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-hello-2.12", &[0, 1]),
    ///     listed("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.38", &[]),
    /// ];
    /// let (graph, places) = ReferenceGraph::from_list(&list, &[0])?;
    /// let [hello, glibc] = places[..] else { panic!("two places") };
    /// assert_eq!(graph.references(hello), [glibc]);
    /// assert_eq!(graph.node(hello).closure_size, 80);
    /// # Ok::<(), nixery_core::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// A path is listed twice, or a number is not a place of the list.
    pub fn from_list(
        list: &[ListedPath<'_>],
        roots: &[u32],
    ) -> Result<(Self, Vec<NodeId>), GraphError> {
        let count = list.len();
        if u32::try_from(count).is_err() {
            return Err(GraphError::TooManyPaths { count });
        }
        let info = |listed: &ListedPath<'_>| PathInfo {
            path: listed.path.clone(),
            nar_hash: listed.nar_hash,
            nar_size: listed.nar_size,
            closure_size: 0,
        };
        let infos: Vec<PathInfo> = list.iter().map(info).collect();
        let (order, repeated) = order(&infos);
        if let Some(&(entry, _)) = repeated.first() {
            let path = infos[entry].path.to_string();
            return Err(GraphError::Twice { path });
        }
        let mut ids = vec![NodeId::new(0); count];
        for (id, &place) in (0..).zip(&order) {
            ids[place] = NodeId::new(id);
        }
        let id = |&place: &u32| {
            let id = ids.get(place as usize).copied();
            id.ok_or(GraphError::NoSuchPlace { place, count })
        };
        let (mut found, mut places) = (Vec::new(), Vec::with_capacity(count));
        for listed in list {
            let start = found.len();
            for place in listed.references {
                found.push(id(place)?);
            }
            places.push(start..found.len());
        }
        let roots = roots.iter().map(id).collect::<Result<_, _>>()?;
        let mut graph = Self::assemble(infos, &order, &found, |entry| places[entry].clone(), roots);
        graph.compute_closure_sizes();
        Ok((graph, ids))
    }

    /// Puts entries in order. `place` returns where among `references` those of an entry are.
    fn assemble(
        infos: Vec<PathInfo>,
        order: &[usize],
        references: &[NodeId],
        place: impl Fn(usize) -> Range<usize>,
        mut roots: Vec<NodeId>,
    ) -> Self {
        roots.sort_unstable();
        roots.dedup();
        let mut graph = Self {
            nodes: in_order(infos, order),
            references: Vec::with_capacity(references.len()),
            ends: Vec::with_capacity(order.len()),
            roots,
        };
        for (own, &entry) in (0..).zip(order) {
            let own = NodeId::new(own);
            add(&mut graph.references, &references[place(entry)], own);
            graph.ends.push(graph.references.len());
        }
        graph
    }

    /// Returns the closure of `roots` as a graph of its own, and for each of its paths the node in
    /// this graph, in order. Nodes that this graph does not have are ignored.
    pub fn part(&self, roots: &[NodeId]) -> (Self, Vec<NodeId>) {
        let known = |root: &NodeId| root.index() < self.len();
        let mut roots: Vec<NodeId> = roots.iter().copied().filter(known).collect();
        roots.sort_unstable();
        roots.dedup();
        let mut reached = vec![false; self.len()];
        self.mark_reached(&roots, &mut reached);
        let paths = self.ids().filter(|path| reached[path.index()]);
        let paths: Vec<NodeId> = paths.collect();
        let mut new_ids = vec![NodeId::new(0); self.len()];
        for (new, old) in (0..).zip(&paths) {
            new_ids[old.index()] = NodeId::new(new);
        }
        let mut part = Self::default();
        for &old in &paths {
            let references = self.references(old).iter();
            part.references
                .extend(references.map(|reference| new_ids[reference.index()]));
            part.ends.push(part.references.len());
            // With its closure size: the part has everything that the path reaches.
            part.nodes.push(self.node(old).clone());
        }
        part.roots
            .extend(roots.iter().map(|root| new_ids[root.index()]));
        (part, paths)
    }
}

/// Checks what an entry says of its own path.
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

/// Returns the first entry of each path, sorted by path, and each entry that repeats one, with the
/// node of its path.
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
fn add(references: &mut Vec<NodeId>, found: &[NodeId], own: NodeId) {
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

/// Returns the error for the reference at a position, which leads to no entry.
fn missing(raw: &RawGraph<'_>, position: usize) -> GraphError {
    let node = (0..raw.nodes.len()).find(|&node| raw.place(node).contains(&position));
    GraphError::MissingReference {
        path: node
            .map_or("", |node| raw.path(&raw.nodes[node]))
            .to_owned(),
        reference: shown(raw.text(raw.all_references()[position])),
    }
}

/// Returns the entries that `order` lists, in that order.
fn in_order(infos: Vec<PathInfo>, order: &[usize]) -> Vec<PathInfo> {
    if infos.len() == order.len() && order.is_sorted() {
        return infos;
    }
    let mut infos: Vec<Option<PathInfo>> = infos.into_iter().map(Some).collect();
    let chosen = order.iter().map(|&entry| infos[entry].take());
    chosen.flatten().collect()
}

/// Cuts a text of the input, which may be anything, for an error.
fn shown(text: &str) -> String {
    text.chars().take(300).collect()
}
