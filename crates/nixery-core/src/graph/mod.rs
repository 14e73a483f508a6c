//! Reference graphs.
use crate::store_path::{NarHash, StorePath};

/// A validated reference graph.
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
    /// Bytes of the NARs of its closure, itself included; saturating.
    pub closure_size: u64,
    /// Indices of the paths it refers to: sorted, each once, never itself.
    pub references: Vec<u32>,
}

/// Why a reference graph was refused.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// Not the JSON expected.
    #[error("the reference graph is not the JSON that Nix writes")]
    Malformed(#[source] serde_json::Error),
}

#[allow(clippy::unimplemented)]
impl ReferenceGraph {
    /// Parses `exportReferencesGraph` JSON.
    ///
    /// # Errors
    /// See [`GraphError`].
    pub fn parse(json: &[u8]) -> Result<Self, GraphError> {
        let _ = json;
        unimplemented!()
    }
    /// Parses `nix path-info --json --recursive`.
    ///
    /// # Errors
    /// See [`GraphError`].
    pub fn from_path_info(json: &[u8], roots: &[StorePath]) -> Result<Self, GraphError> {
        let _ = (json, roots);
        unimplemented!()
    }
    /// Number of paths.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
    /// Whether there is no path.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
    /// All paths, sorted by path.
    #[must_use]
    pub fn nodes(&self) -> &[PathInfo] {
        &self.nodes
    }
    /// Indices of the roots, sorted, each once.
    #[must_use]
    pub fn roots(&self) -> &[usize] {
        &self.roots
    }
    /// The index of a path.
    #[must_use]
    pub fn index_of(&self, path: &StorePath) -> Option<usize> {
        self.nodes.binary_search_by(|node| node.path.cmp(path)).ok()
    }
    /// Bytes of all NARs.
    #[must_use]
    pub fn total_nar_size(&self) -> u128 {
        self.nodes
            .iter()
            .map(|node| u128::from(node.nar_size))
            .sum()
    }
}
