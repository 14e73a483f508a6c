//! Reference graphs: what Nix says about a closure, checked and numbered.
//!
//! A [`ReferenceGraph`] comes from the structured attribute `exportReferencesGraph`
//! ([`ReferenceGraph::parse`]) or from `nix path-info` ([`ReferenceGraph::from_path_info`]). Its nodes are
//! sorted by path whatever order the input had, and everything else refers to them by index. What happens
//! to input that Nix would not write:
//!
//! | input | outcome |
//! |---|---|
//! | a reference to a path without entry | [`GraphError::MissingReference`] |
//! | two entries for one path | one, if they agree; else [`GraphError::Conflict`] |
//! | a root without entry | [`GraphError::MissingRoot`] |
//! | a root or a reference named twice | counts once |
//! | a self reference | dropped (Nix writes them for most paths) |
//! | a cycle | accepted; its members have one closure |
//! | no paths, or no roots | accepted; see [`ReferenceGraph::entry_points`] |
//! | sizes up to 2^64 − 1 | accepted; sums saturate or are 128 bits wide |
//! | a chain of any depth | accepted; nothing recurses |
//! | a path-info entry that is not valid | [`GraphError::NotValid`] |

use std::collections::HashMap;

use serde::Serialize;

use crate::nar_hash::NarHash;
use crate::store_path::StorePath;

mod closure;
mod components;
mod error;
mod part;
pub(crate) mod raw;
#[cfg(test)]
pub(crate) mod tests;

pub use error::GraphError;
use raw::{RawExport, RawNode, RawPathInfo, Text};

/// The runtime dependency graph of some store paths; every reference leads to one of its nodes.
///
/// ```
/// use nixery_core::graph::ReferenceGraph;
/// let json = br#"{
///   "exportReferencesGraph": { "graph": ["/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-hello-2.12"] },
///   "graph": [
///     { "path": "/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-hello-2.12", "narSize": 40, "closureSize": 100,
///       "references": ["/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.38"] },
///     { "path": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-glibc-2.38", "narSize": 60, "closureSize": 60,
///       "references": [] } ] }"#;
/// let graph = ReferenceGraph::parse(json).unwrap();
/// assert_eq!(graph.nodes()[0].path.name(), "glibc-2.38");
/// assert_eq!(graph.nodes()[1].references, [0]);
/// assert_eq!(graph.roots(), [1]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReferenceGraph {
    nodes: Vec<PathInfo>,
    roots: Vec<usize>,
}

/// What is known of one store path of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// SHA-256 of its NAR, where the source tells it.
    pub nar_hash: Option<NarHash>,
    /// Bytes of its NAR.
    pub nar_size: u64,
    /// Bytes of the NARs of its closure, itself included: as Nix says, else computed; saturating.
    pub closure_size: u64,
    /// Indices of the paths it refers to: sorted, each once, never itself.
    pub references: Vec<u32>,
}

impl ReferenceGraph {
    /// Parses the attributes file of a derivation with `exportReferencesGraph.graph = [ … ]` and structured
    /// attributes (Nix manual, "Advanced attributes"). Unknown fields are ignored, a missing `closureSize`
    /// is computed.
    ///
    /// # Errors
    /// What the module's table says; no error depends on the order of the input's entries but the choice
    /// among several.
    pub fn parse(json: &[u8]) -> Result<Self, GraphError> {
        let raw: RawExport<'_> = serde_json::from_slice(json).map_err(GraphError::Malformed)?;
        Self::build(raw.graph, raw.roots.graph.iter().map(Text::as_str))
    }

    /// Parses the output of `nix path-info --json --recursive`: a list (Nix 2.8), a map keyed by path
    /// (since 2.19), or base names under `info` (version 2). A missing `closureSize` is computed.
    ///
    /// # Errors
    /// What the module's table says.
    pub fn from_path_info(json: &[u8], roots: &[StorePath]) -> Result<Self, GraphError> {
        let raw: RawPathInfo<'_> = serde_json::from_slice(json).map_err(GraphError::Malformed)?;
        Self::build(raw.0, roots.iter().map(StorePath::as_str))
    }

    fn build<'a>(
        raw: Vec<RawNode<'_>>,
        roots: impl Iterator<Item = &'a str>,
    ) -> Result<Self, GraphError> {
        let mut entries = raw
            .into_iter()
            .map(Entry::new)
            .collect::<Result<Vec<_>, _>>()?;
        if u32::try_from(entries.len()).is_err() {
            return Err(GraphError::TooManyPaths {
                count: entries.len(),
            });
        }
        entries.sort_by(|a, b| a.info.path.cmp(&b.info.path));

        let mut index: HashMap<&str, u32> = HashMap::with_capacity(entries.len());
        let mut distinct = 0u32;
        for (position, entry) in entries.iter().enumerate() {
            let repeats = position > 0 && entries[position - 1].info.path == entry.info.path;
            if !repeats {
                index.insert(entry.info.path.as_str(), distinct);
                distinct += 1;
            }
        }
        let references = entries
            .iter()
            .map(|entry| entry.resolve(&index))
            .collect::<Result<Vec<_>, _>>()?;
        let mut roots = roots
            .map(|root| match index.get(root) {
                Some(&i) => Ok(i as usize),
                None => Err(GraphError::MissingRoot { root: shown(root) }),
            })
            .collect::<Result<Vec<usize>, _>>()?;
        roots.sort_unstable();
        roots.dedup();
        drop(index);

        let mut incomplete = false;
        let mut nodes: Vec<PathInfo> = Vec::with_capacity(distinct as usize);
        let mut previous_closure_size = None;
        for (entry, references) in entries.into_iter().zip(references) {
            let info = PathInfo {
                references,
                ..entry.info
            };
            match nodes.last() {
                Some(last) if last.path == info.path => {
                    if *last != info || previous_closure_size != entry.closure_size {
                        return Err(GraphError::Conflict {
                            path: info.path.to_string(),
                        });
                    }
                }
                _ => {
                    previous_closure_size = entry.closure_size;
                    incomplete |= entry.closure_size.is_none();
                    nodes.push(info);
                }
            }
        }
        if incomplete {
            // All of them: a mixture of given and computed sizes could contradict itself.
            let weights: Vec<u64> = nodes.iter().map(|node| node.nar_size).collect();
            let sums = closure::closure_sums(&weights, |node| &nodes[node].references);
            for (node, sum) in nodes.iter_mut().zip(sums) {
                node.closure_size = sum;
            }
        }
        Ok(Self { nodes, roots })
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

    /// Indices of the roots, sorted, each once.
    pub fn roots(&self) -> &[usize] {
        &self.roots
    }

    /// The index of a path, if it is in the graph.
    pub fn index_of(&self, path: &StorePath) -> Option<usize> {
        self.nodes.binary_search_by(|node| node.path.cmp(path)).ok()
    }

    /// Bytes of the NARs of all paths.
    pub fn total_nar_size(&self) -> u128 {
        self.nodes
            .iter()
            .map(|node| u128::from(node.nar_size))
            .sum()
    }

    /// The roots, and where these do not reach everything, what else a walk must start from, sorted.
    ///
    /// Nix's graphs are reached from their roots whole, so there it equals [`Self::roots`]. Otherwise the
    /// paths that no unreached path refers to are added, and for cycles that are left the first by path.
    pub fn entry_points(&self) -> Vec<usize> {
        let mut reached = vec![false; self.len()];
        let mut entries = self.roots.clone();
        let mut todo = Vec::new();
        let mut walk = |start: usize, reached: &mut [bool]| {
            todo.push(start);
            while let Some(node) = todo.pop() {
                if !std::mem::replace(&mut reached[node], true) {
                    todo.extend(self.nodes[node].references.iter().map(|&r| r as usize));
                }
            }
        };
        for &root in &self.roots {
            walk(root, &mut reached);
        }
        let mut referred = vec![false; self.len()];
        for node in (0..self.len()).filter(|&node| !reached[node]) {
            for &reference in &self.nodes[node].references {
                referred[reference as usize] = true;
            }
        }
        let first = (0..self.len()).filter(|&node| !referred[node]);
        for node in first.chain(0..self.len()) {
            if !reached[node] {
                entries.push(node);
                walk(node, &mut reached);
            }
        }
        entries.sort_unstable();
        entries
    }

    /// The graph as [`Self::parse`] reads it, in one fixed byte sequence.
    pub fn to_json(&self) -> Vec<u8> {
        let path = |index: usize| &self.nodes[index].path;
        let graph: Vec<Written<'_>> = self
            .nodes
            .iter()
            .map(|node| Written {
                path: &node.path,
                nar_hash: node.nar_hash,
                nar_size: node.nar_size,
                closure_size: node.closure_size,
                references: node.references.iter().map(|&r| path(r as usize)).collect(),
            })
            .collect();
        let roots: Vec<&StorePath> = self.roots.iter().map(|&root| path(root)).collect();
        let json = WrittenExport {
            roots: WrittenRoots { graph: roots },
            graph,
        };
        serde_json::to_vec(&json).expect("texts and integers serialise to JSON")
    }
}

/// A text of the input as errors repeat it: cut, since it may be anything.
fn shown(text: &str) -> String {
    text.chars().take(300).collect()
}

/// One entry of the input with its own parts checked, its references still texts.
struct Entry<'a> {
    info: PathInfo,
    closure_size: Option<u64>,
    references: Vec<Text<'a>>,
}

impl<'a> Entry<'a> {
    fn new(raw: RawNode<'a>) -> Result<Self, GraphError> {
        let path = StorePath::parse(raw.path.as_ref().map_or("", Text::as_str))
            .map_err(GraphError::Path)?;
        if !raw.valid {
            return Err(GraphError::NotValid {
                path: path.to_string(),
            });
        }
        let nar_hash = raw
            .nar_hash
            .map(|hash| NarHash::parse(&hash.0))
            .transpose()
            .map_err(|source| GraphError::Hash {
                path: path.to_string(),
                source,
            })?;
        let Some(nar_size) = raw.nar_size else {
            return Err(GraphError::MissingSize {
                path: path.to_string(),
            });
        };
        let closure_size = raw.closure_size.unwrap_or_default();
        let info = PathInfo {
            path,
            nar_hash,
            nar_size,
            closure_size,
            references: Vec::new(),
        };
        Ok(Self {
            info,
            closure_size: raw.closure_size,
            references: raw.references,
        })
    }

    fn resolve(&self, index: &HashMap<&str, u32>) -> Result<Vec<u32>, GraphError> {
        let own = self.info.path.as_str();
        let mut references = Vec::with_capacity(self.references.len());
        for reference in self
            .references
            .iter()
            .map(Text::as_str)
            .filter(|&r| r != own)
        {
            match index.get(reference) {
                Some(&node) => references.push(node),
                None => {
                    let (path, reference) = (own.to_owned(), shown(reference));
                    return Err(GraphError::MissingReference { path, reference });
                }
            }
        }
        references.sort_unstable();
        references.dedup();
        Ok(references)
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
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    path: &'a StorePath,
    #[serde(skip_serializing_if = "Option::is_none")]
    nar_hash: Option<NarHash>,
    nar_size: u64,
    closure_size: u64,
    references: Vec<&'a StorePath>,
}
