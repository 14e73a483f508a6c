//! Reference graphs: closures as Nix describes them, checked and numbered.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Serialize;
use serde::de::IgnoredAny;

use crate::json_error::JsonError;
use crate::nar_hash::NarHash;
use crate::store_path::StorePath;

mod build;
mod closure;
mod components;
mod error;
mod nix_json;
mod node_id;
mod path_index;
mod path_references;
#[cfg(test)]
pub(crate) mod tests;

pub use build::ListedPath;
pub use error::GraphError;
pub use node_id::NodeId;
pub use path_references::{PathInfoJson, PathReferences};

/// The runtime dependency graph of some store paths; every reference leads to one of its nodes.
///
/// It comes from the structured attribute `exportReferencesGraph` ([`Self::parse`]), from `nix
/// path-info` ([`Self::from_path_info`]), from either ([`Self::from_json`]), or from a list whose
/// references are numbers already ([`Self::from_list`]). Its nodes are sorted by path whatever
/// order the input had, and everything else refers to them by [`NodeId`]. What happens to input
/// that Nix would not write:
///
/// | input | result |
/// |---|---|
/// | a reference to a path without entry | [`GraphError::MissingReference`] |
/// | two entries for one path | one, if they agree; else [`GraphError::Conflict`] |
/// | a root without entry | [`GraphError::MissingRoot`] |
/// | a root or a reference named twice | counts once |
/// | a self reference | dropped (Nix writes them for most paths) |
/// | a cycle | accepted; its members have one closure |
/// | no paths, or no roots | accepted; see [`Self::entry_points`] |
/// | sizes up to 2^64 − 1 | accepted; sums saturate or are 128 bits wide |
/// | a chain of any depth | accepted; nothing recurses |
/// | a path-info entry that is not valid | [`GraphError::NotValid`] |
///
/// ```
/// use nixery_core::ReferenceGraph;
/// let json = br#"{
///   "exportReferencesGraph": { "graph": ["/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-hello-2.12"] },
///   "graph": [
///     { "path": "/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-hello-2.12", "narSize": 40, "closureSize": 100,
///       "references": ["/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.38"] },
///     { "path": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.38", "narSize": 60, "closureSize": 60,
///       "references": [] } ] }"#;
/// let graph = ReferenceGraph::parse(json).unwrap();
/// let [root] = graph.roots() else { panic!("one root") };
/// assert_eq!(graph.node(*root).path.name(), "hello-2.12");
/// let [reference] = graph.references(*root) else { panic!("one reference") };
/// assert_eq!(graph.node(*reference).path.name(), "glibc-2.38");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReferenceGraph {
    nodes: Vec<PathInfo>,
    /// The references of all paths, one after the other.
    references: Vec<NodeId>,
    /// The place where each path's references end.
    ends: Vec<usize>,
    roots: Vec<NodeId>,
}

/// What is known of one store path of a graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// SHA-256 of its NAR, if the source has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nar_hash: Option<NarHash>,
    /// Bytes of its NAR.
    pub nar_size: u64,
    /// Bytes of the NARs of its closure, itself included: from Nix, or computed; saturating.
    pub closure_size: u64,
}

/// The two kinds of JSON in which Nix describes closures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonKind {
    /// The structured attributes of `exportReferencesGraph`, which [`ReferenceGraph::parse`] reads.
    Graph,
    /// The output of `nix path-info --json`, which [`ReferenceGraph::from_path_info`] reads.
    PathInfo,
}

impl JsonKind {
    /// Returns the kind that the outermost keys show. The rest may be invalid. `None` for anything
    /// but a JSON array or object.
    #[must_use]
    pub fn of(json: &[u8]) -> Option<Self> {
        let path_info = |key: &str| key.starts_with('/') || key == "info";
        let graph = |key: &str| matches!(key, "exportReferencesGraph" | "graph");
        match json.trim_ascii_start().first()? {
            b'[' => Some(Self::PathInfo),
            b'{' => match serde_json::from_slice::<HashMap<Cow<'_, str>, IgnoredAny>>(json) {
                Ok(keys) if keys.keys().any(|key| graph(key)) => Some(Self::Graph),
                // A map keyed by path, empty for no paths, or version 2 of it.
                Ok(keys) => (keys.is_empty() || keys.keys().any(|key| path_info(key)))
                    .then_some(Self::PathInfo),
                // Invalid JSON: reading it as a graph reports where.
                Err(_) => Some(Self::Graph),
            },
            _ => None,
        }
    }
}

impl ReferenceGraph {
    /// Parses the attributes file of a derivation with `exportReferencesGraph.graph = [ … ]` and
    /// structured attributes (Nix manual, "Advanced attributes"). Unknown fields are ignored, a
    /// missing `closureSize` is computed.
    ///
    /// # Errors
    /// As the table of [`ReferenceGraph`] says. If there are several errors, the order of the
    /// entries decides which one is returned.
    pub fn parse(json: &[u8]) -> Result<Self, GraphError> {
        let raw = nix_json::read(json, JsonKind::Graph)
            .map_err(JsonError::new)
            .map_err(GraphError::Malformed)?;
        Self::from_raw(&raw, raw.roots.iter().map(String::as_str))
    }

    /// Parses the output of `nix path-info --json --recursive`: a list (Nix 2.8), a map keyed by
    /// path (since 2.19), or base names under `info` (version 2). A missing `closureSize` is
    /// computed.
    ///
    /// # Errors
    /// As the table of [`ReferenceGraph`] says.
    pub fn from_path_info(json: &[u8], roots: &[StorePath]) -> Result<Self, GraphError> {
        let raw = nix_json::read(json, JsonKind::PathInfo)
            .map_err(JsonError::new)
            .map_err(GraphError::Malformed)?;
        Self::from_raw(&raw, roots.iter().map(StorePath::as_str))
    }

    /// Reads a graph in any form that Nix writes: the structured attribute `exportReferencesGraph`
    /// ([`Self::parse`]), or the output of `nix path-info --json --recursive` of any version
    /// ([`Self::from_path_info`]).
    ///
    /// Path information does not say what the roots are. Without `roots`, they are the paths that
    /// no other path refers to. A graph names its roots itself.
    ///
    /// # Errors
    /// What [`GraphError`] lists: the JSON is of neither form, is invalid, or lacks a path that is
    /// referred to; or `roots` are given for a graph that names its own.
    pub fn from_json(json: &[u8], roots: &[StorePath]) -> Result<Self, GraphError> {
        match JsonKind::of(json) {
            Some(JsonKind::Graph) if roots.is_empty() => Self::parse(json),
            Some(JsonKind::Graph) => Err(GraphError::RootsNotAllowed),
            Some(JsonKind::PathInfo) => {
                let mut graph = Self::from_path_info(json, roots)?;
                if roots.is_empty() {
                    graph.roots = graph.entry_points();
                }
                Ok(graph)
            }
            None => Err(GraphError::UnknownJson),
        }
    }

    /// Number of paths.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no path.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All paths, sorted by path.
    pub fn nodes(&self) -> &[PathInfo] {
        &self.nodes
    }

    /// What is known of a path.
    ///
    /// # Panics
    /// The node is not of this graph.
    pub fn node(&self, id: NodeId) -> &PathInfo {
        &self.nodes[id.index()]
    }

    /// What is known of a path; `None` if the graph does not have this node.
    pub fn get(&self, id: NodeId) -> Option<&PathInfo> {
        self.nodes.get(id.index())
    }

    /// The nodes of all paths, in the order of [`Self::nodes`].
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + use<> {
        // `from_list` and the parser refuse more paths than this.
        (0..self.nodes.len()).map(|place| NodeId::new(place as u32))
    }

    /// All paths with their nodes, sorted by path.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (NodeId, &PathInfo)> + ExactSizeIterator {
        self.ids().zip(&self.nodes)
    }

    /// The paths that a path refers to: sorted, each once, never itself.
    ///
    /// # Panics
    /// The node is not of this graph.
    pub fn references(&self, id: NodeId) -> &[NodeId] {
        let index = id.index();
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.references[start..self.ends[index]]
    }

    /// Returns the graph as one of `petgraph`, for its algorithms: an edge leads from each path to
    /// each path that it refers to. `petgraph`'s index of a node is [`NodeId::index`].
    ///
    /// ```
    /// use nixery_core::ReferenceGraph;
    /// use petgraph::algo::is_cyclic_directed;
    ///
    /// # fn check(graph: ReferenceGraph) {
    /// println!("{} references", graph.to_petgraph().edge_count());
    /// assert!(!is_cyclic_directed(&graph.to_petgraph()), "Nix writes no cycles");
    /// # }
    /// # check(ReferenceGraph::default());
    /// ```
    #[cfg(feature = "petgraph")]
    pub fn to_petgraph(&self) -> petgraph::graph::DiGraph<NodeId, ()> {
        let mut graph = petgraph::graph::DiGraph::with_capacity(self.len(), self.references.len());
        for id in self.ids() {
            graph.add_node(id);
        }
        for id in self.ids() {
            for reference in self.references(id) {
                graph.add_edge(
                    (id.index() as u32).into(),
                    (reference.index() as u32).into(),
                    (),
                );
            }
        }
        graph
    }

    /// The roots, sorted, each once.
    pub fn roots(&self) -> &[NodeId] {
        &self.roots
    }

    /// The node of a path, if it is in the graph.
    pub fn id_of(&self, path: &StorePath) -> Option<NodeId> {
        let place = self.nodes.binary_search_by(|node| node.path.cmp(path));
        place.ok().map(|place| NodeId::new(place as u32))
    }

    /// Bytes of the NARs of all paths.
    pub fn total_nar_size(&self) -> u128 {
        self.nodes
            .iter()
            .map(|node| u128::from(node.nar_size))
            .sum()
    }

    /// The nodes from which a walk reaches every path, sorted: the roots, and others if necessary.
    ///
    /// The roots of Nix's graphs reach everything, so the result equals [`Self::roots`]. In other
    /// graphs, it has also the paths that no unreached path refers to, and the first path of each
    /// remaining cycle.
    pub fn entry_points(&self) -> Vec<NodeId> {
        let mut reached = vec![false; self.len()];
        let mut entries = self.roots.clone();
        self.mark_reached(&entries, &mut reached);
        let mut referred = vec![false; self.len()];
        for node in self.ids().filter(|node| !reached[node.index()]) {
            for &reference in self.references(node) {
                referred[reference.index()] = true;
            }
        }
        let first = self.ids().filter(|node| !referred[node.index()]);
        for node in first.chain(self.ids()) {
            if !reached[node.index()] {
                entries.push(node);
                self.mark_reached(&[node], &mut reached);
            }
        }
        entries.sort_unstable();
        entries
    }

    /// Marks the nodes that are reached from `starts`.
    fn mark_reached(&self, starts: &[NodeId], reached: &mut [bool]) {
        let mut todo = starts.to_vec();
        while let Some(node) = todo.pop() {
            if !std::mem::replace(&mut reached[node.index()], true) {
                todo.extend(self.references(node));
            }
        }
    }

    /// Returns the graph as JSON that [`Self::parse`] reads. Equal graphs give equal bytes.
    pub fn to_json(&self) -> Vec<u8> {
        let path = |&id: &NodeId| &self.node(id).path;
        let graph: Vec<Written<'_>> = self
            .iter()
            .map(|(id, node)| Written {
                node,
                references: self.references(id).iter().map(path).collect(),
            })
            .collect();
        let roots: Vec<&StorePath> = self.roots.iter().map(path).collect();
        let json = WrittenExport {
            roots: WrittenRoots { graph: roots },
            graph,
        };
        serde_json::to_vec(&json).expect("texts and integers serialise to JSON")
    }
}

#[derive(Serialize)]
struct WrittenExport<'a> {
    #[serde(rename = "exportReferencesGraph")]
    roots: WrittenRoots<'a>,
    graph: Vec<Written<'a>>,
}

#[derive(Serialize)]
struct WrittenRoots<'a> {
    graph: Vec<&'a StorePath>,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    node: &'a PathInfo,
    references: Vec<&'a StorePath>,
}
