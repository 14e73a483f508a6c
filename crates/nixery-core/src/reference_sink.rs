//! Reading what Nix writes about many store paths, for whoever gathers something from it.

use crate::graph::ReferenceGraph;
use crate::graph::raw::RawGraph;
use crate::store_path::{StorePath, StorePathError, base_name_of, check_base_name};

/// What one store path refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathReferences<'a> {
    /// Hash and name of the path.
    pub base_name: &'a str,
    /// Bytes of its NAR, where the source tells.
    pub nar_size: Option<u64>,
    /// Hash and name of each path that it refers to, itself perhaps among them.
    pub references: Vec<&'a str>,
}

/// Why what describes store paths was refused.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// What should be the output of `nix path-info --json` is not.
    #[error("this is not the output of 'nix path-info --json'")]
    PathInfo(#[source] serde_json::Error),
    /// A path or reference is not one.
    #[error("a reference cannot be used")]
    Path(#[from] StorePathError),
    /// The size of a path is missing or none.
    #[error("the NAR size of {path} is missing or no whole number")]
    Size {
        /// The path.
        path: StorePath,
    },
    /// A narinfo file lacks a field.
    #[error("the narinfo {start:?} has no line '{field}:'")]
    NarInfo {
        /// The field.
        field: &'static str,
        /// How the text begins.
        start: String,
    },
    /// What should be kept of an earlier run is something else.
    #[error("this is not what an earlier run of this command kept: start anew")]
    State(#[source] serde_json::Error),
}

/// Gathers something from the references of many store paths, whatever describes them.
///
/// How it is gathered can be kept and gone on with: [`Self::to_state`], [`Self::from_state`].
pub trait ReferenceSink: Default {
    /// Whether a path without NAR size is an error.
    const NEEDS_SIZE: bool;

    /// Takes one path; all its names are valid. What is known of a path that it has already stays.
    fn add_references(&mut self, path: &PathReferences<'_>);

    /// Whether it has this path, told by its hash.
    fn contains(&self, path: &StorePath) -> bool;

    /// Number of paths that it has.
    fn paths(&self) -> usize;

    /// All that is needed to go on later, in one fixed byte sequence.
    fn to_state(&self) -> Vec<u8>;

    /// Goes on from what [`Self::to_state`] gave.
    ///
    /// # Errors
    /// [`ReferenceError::State`] where it is something else.
    fn from_state(state: &[u8]) -> Result<Self, ReferenceError>;

    /// Takes every path of the graph.
    fn add_graph(&mut self, graph: &ReferenceGraph) {
        for path in paths_of(graph) {
            self.add_references(&path);
        }
    }

    /// Takes what `nix path-info --json` prints (any version, with or without `--recursive`); references
    /// need no entry of their own, paths that are not valid are passed over.
    ///
    /// # Errors
    /// Where it is not that, or a path is not one, or a size is needed and missing; then nothing is taken.
    fn add_path_info(&mut self, json: &[u8]) -> Result<(), ReferenceError> {
        let raw = RawGraph::path_info(json).map_err(ReferenceError::PathInfo)?;
        let mut checked = Vec::with_capacity(raw.nodes.len());
        let valid = raw.nodes.iter().enumerate().filter(|(_, node)| node.valid);
        for (index, node) in valid {
            let base_name = base_name_of(raw.path(node))?;
            let references = raw.references(index).map(base_name_of);
            let references = references.collect::<Result<_, _>>()?;
            if Self::NEEDS_SIZE && node.nar_size.is_none() {
                let path = StorePath::parse(raw.path(node))?;
                return Err(ReferenceError::Size { path });
            }
            checked.push(PathReferences {
                base_name,
                nar_size: node.nar_size,
                references,
            });
        }
        for path in &checked {
            self.add_references(path);
        }
        Ok(())
    }

    /// Takes one narinfo file (Nix's binary cache format): its `StorePath`, `NarSize` and `References` lines.
    ///
    /// # Errors
    /// Where a line is missing or does not hold what it should; then nothing is taken.
    fn add_narinfo(&mut self, text: &str) -> Result<(), ReferenceError> {
        let field = |name: &'static str| {
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let missing = || ReferenceError::NarInfo {
                field: name,
                start: text.chars().take(80).collect(),
            };
            value.map(str::trim).ok_or_else(missing)
        };
        let path = StorePath::parse(field("StorePath")?)?;
        let references: Vec<&str> = field("References")?.split_whitespace().collect();
        for &reference in &references {
            check_base_name(reference).map_err(|rule| StorePathError::new(reference, rule))?;
        }
        let nar_size = if Self::NEEDS_SIZE {
            let size = field("NarSize")?.parse();
            Some(size.map_err(|_| ReferenceError::Size { path: path.clone() })?)
        } else {
            None
        };
        self.add_references(&PathReferences {
            base_name: path.base_name(),
            nar_size,
            references,
        });
        Ok(())
    }
}

/// Each path of a graph, in the order of its nodes.
pub(crate) fn paths_of(graph: &ReferenceGraph) -> impl Iterator<Item = PathReferences<'_>> {
    let nodes = graph.nodes();
    let name = |&index: &u32| nodes[index as usize].path.base_name();
    (0..).zip(nodes).map(move |(index, node)| PathReferences {
        base_name: node.path.base_name(),
        nar_size: Some(node.nar_size),
        references: graph.references(index).iter().map(name).collect(),
    })
}
