//! The plain way: what one writes first, kept to compare with.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use nixery_core::{Popularity, ReferenceGraph, StorePath};
use nixery_manifest::{Digest, ImageLayer};
use petgraph::algo::dominators::simple_fast;
use petgraph::graph::{DiGraph, NodeIndex};
use serde::Deserialize;
use serde_json::{Value, json};

/// A reference graph as `serde_json` reads it into owned strings: nothing checked, sorted or
/// numbered.
#[derive(Debug, Deserialize)]
pub struct OwnedGraph {
    /// The roots.
    #[serde(rename = "exportReferencesGraph")]
    pub roots: OwnedRoots,
    /// The paths in the order of the input.
    pub graph: Vec<OwnedPath>,
}

/// The roots of an [`OwnedGraph`].
#[derive(Debug, Deserialize)]
pub struct OwnedRoots {
    /// Their paths.
    pub graph: Vec<String>,
}

/// A path of an [`OwnedGraph`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnedPath {
    /// The path.
    pub path: String,
    /// SHA-256 of its NAR.
    pub nar_hash: Option<String>,
    /// Bytes of its NAR.
    pub nar_size: u64,
    /// Bytes of its closure's NARs.
    pub closure_size: Option<u64>,
    /// The paths it refers to.
    pub references: Vec<String>,
}

impl OwnedGraph {
    /// Checks all paths and finds the place of each reference, as [`ReferenceGraph::parse`] does
    /// besides reading.
    ///
    /// # Errors
    /// What is no store path, or a reference without entry, in words.
    pub fn numbered(&self) -> Result<Vec<(StorePath, Vec<usize>)>, String> {
        let places = self.graph.iter().enumerate();
        let places: HashMap<&str, usize> = places.map(|(i, entry)| (&*entry.path, i)).collect();
        let number = |reference: &String| {
            let place = places.get(&**reference).copied();
            place.ok_or_else(|| format!("no entry for {reference}"))
        };
        let numbered = |entry: &OwnedPath| {
            let path = StorePath::parse(&entry.path).map_err(|error| error.to_string())?;
            let references: Result<_, String> = entry.references.iter().map(number).collect();
            Ok((path, references?))
        };
        self.graph.iter().map(numbered).collect()
    }
}

/// Parses a reference graph into owned strings.
///
/// # Errors
/// Where the JSON is wrong.
pub fn parse(json: &[u8]) -> serde_json::Result<OwnedGraph> {
    serde_json::from_slice(json)
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
        edges.update_edge(root, nodes[entry.index()], ());
    }
    for (id, node) in graph.iter() {
        let index = id.index();
        if node.closure_size > 100_000_000 || popularity.get(&node.path) >= 100 {
            edges.update_edge(root, nodes[index], ());
        }
        for reference in graph.references(id) {
            edges.add_edge(nodes[index], nodes[reference.index()], ());
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

/// An image name's components, sorted: nothing checked, no meta-packages.
pub fn name(text: &str) -> Vec<String> {
    let mut components: Vec<String> = text.split('/').map(str::to_owned).collect();
    components.sort();
    components.dedup();
    components
}

/// A tar by the plain `tar` crate: in the order of the directory, with its times and owners.
///
/// # Errors
/// Where a file cannot be read.
pub fn tar<W: Write>(directory: &Path, out: W) -> io::Result<W> {
    let mut builder = tar::Builder::new(out);
    builder.append_dir_all("nix/store/sample", directory)?;
    builder.into_inner()
}

/// A config and the two manifests as JSON values, written and hashed: nothing checked or sorted.
pub fn manifests(layers: &[ImageLayer]) -> [Vec<u8>; 3] {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect();
    let history: Vec<Value> = layers
        .iter()
        .map(|layer| json!({ "created_by": layer.created_by }))
        .collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "history": history,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let manifest = |of: &str, layer: &str, config_type: &str| {
        let layers: Vec<Value> = layers
            .iter()
            .map(|blob| json!({ "mediaType": layer, "digest": blob.digest.to_string(), "size": blob.size }))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": of, "layers": layers,
            "config": { "mediaType": config_type, "digest": Digest::of(&config).to_string(), "size": config.len() },
        });
        let manifest = manifest.to_string().into_bytes();
        std::hint::black_box(Digest::of(&manifest));
        manifest
    };
    let oci = manifest(
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.config.v1+json",
    );
    let docker = manifest(
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.container.image.v1+json",
    );
    [config, oci, docker]
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
            assert_eq!(plain.graph.len(), graph.len());
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
